from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import mofang.store
from mofang.errors import StoreError
from mofang.store import Store, engine
from mofang.store.schema import HEAD
from mofang.store.tables import metadata


def test_the_migrations_make_exactly_the_tables(tmp_path: Path) -> None:
    Store(tmp_path / "mofang.db").close()
    made = create_engine(f"sqlite:///{tmp_path}/mofang.db")
    with made.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    made.dispose()


def test_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(mofang.store.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_every_connection_is_durable_and_checks_foreign_keys(store: Store) -> None:
    def settings(connection: object) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]  # type: ignore[attr-defined]

    full = 2
    assert store.read(settings) == ["wal", full, 1]
    with store._writes.connect() as connection:
        assert settings(connection) == ["wal", full, 1]


def test_a_store_is_private_and_opens_again(tmp_path: Path) -> None:
    path = tmp_path / "home" / "mofang.db"
    Store(path).close()
    Store(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mofang.db"
    Store(path).close()
    raw = sqlite3.connect(path)
    raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.commit()
    with pytest.raises(StoreError, match=r"written by a newer Mofang \(revision 9999") as caught:
        Store(path)
    assert "update Mofang" in caught.value.hint
    assert raw.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
    raw.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mofang.db"
    path.write_text("this is not a database, and long enough to be looked at" * 100)
    with pytest.raises(StoreError, match="no database") as caught:
        Store(path)
    assert str(path) in caught.value.hint
    assert "\n" not in caught.value.message


def test_a_corrupt_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mofang.db"
    Store(path).close()
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xff" * 3996
    path.write_bytes(data)
    with pytest.raises(StoreError, match="corrupt"):
        Store(path)


def test_a_folder_in_place_of_the_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mofang.db").mkdir()
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "mofang.db")


def test_a_locked_database_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mofang.db"
    Store(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(engine, "PRAGMAS", ("PRAGMA busy_timeout = 20", *engine.PRAGMAS[1:]))
    with pytest.raises(StoreError, match="another program holds") as caught:
        Store(path)
    assert str(path) in caught.value.hint
    other.close()
    Store(path).close()
