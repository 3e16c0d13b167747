"""The store's revisions: a fresh or older store is brought up to date, a newer one is refused."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, inspect, text

from mofang.errors import StoreError

__all__ = ["HEAD", "bring_up_to_date"]

HEAD = "0001"  # the newest revision under migrations/versions


def bring_up_to_date(engine: Engine, path: Path) -> None:
    """Migrate the store to ``HEAD``.

    Raises:
        StoreError: the store was written by a newer Mofang, or is not a store.
    """
    found = _revision(engine)
    if found == HEAD:  # the usual way: Alembic need not be imported
        return
    _migrate(engine, path, found)


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(engine: Engine, path: Path, found: str | None) -> None:
    from alembic import command  # noqa: PLC0415 - its import is only paid by a store that has to change
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise StoreError(
            f"the store {path} was written by a newer Mofang (revision {found}; this one knows up to {HEAD})",
            hint="update Mofang, or set MOFANG_HOME to another folder",
        )
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
