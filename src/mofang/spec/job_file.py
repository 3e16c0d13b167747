"""Reading job files: ``job.yaml`` -> ``Scenario``, and a saved plan -> the same scenario and plan again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mofang.domain.plan import Plan
from mofang.domain.scenario import Scenario
from mofang.errors import SpecError
from mofang.spec.context import Catalog, Context
from mofang.spec.document import Document, parse_document, shown
from mofang.spec.names import name_of_file, new_name
from mofang.spec.plan_file import read_plan
from mofang.spec.problems import read_as
from mofang.spec.resolve import resolve
from mofang.spec.schema.files import FILES, JOB_FILES
from mofang.spec.schema.section import nearest

__all__ = ["JobFile", "load_job_file", "load_scenario", "parse_job_file", "parse_scenario"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """What a file says. ``plans`` None: matching has yet to find them; otherwise they run unchanged."""

    scenario: Scenario
    plans: tuple[Plan, ...] | None = None


def load_job_file(path: Path, sets: Sequence[str] = (), *, catalog: Catalog) -> JobFile:
    """Read a job file or a saved plan.

    Args:
        path: the file; relative paths in it count from its folder.
        sets: ``path=value`` assignments that override the file.
        catalog: where names of models and accelerators are looked up.

    Raises:
        SpecError: the file cannot be read or is wrong; the line is named.
        DataError: its training data is missing, unreadable, empty or not text.
        CatalogError: it names an unknown model or accelerator.
    """
    text = _text_of(path)
    return parse_job_file(text, str(path), path.absolute().parent, sets, catalog, name=name_of_file(path))


def load_scenario(path: Path, sets: Sequence[str] = (), *, catalog: Catalog) -> Scenario:
    """Read the scenario of a job file; see ``load_job_file``."""
    return load_job_file(path, sets, catalog=catalog).scenario


def parse_scenario(text: str, source_name: str, base_dir: Path, sets: Sequence[str], catalog: Catalog) -> Scenario:
    """Read a scenario from text; see ``load_job_file``."""
    return parse_job_file(text, source_name, base_dir, sets, catalog).scenario


def parse_job_file(
    text: str, source_name: str, base_dir: Path, sets: Sequence[str], catalog: Catalog, *, name: str = ""
) -> JobFile:
    """Read a job file or a saved plan from text; see ``load_job_file``."""
    document = parse_document(text, source_name).with_values(sets)
    kind = _kind(document)
    if kind == "plan":
        if sets:
            raise SpecError(
                f"{source_name}: --set cannot change a saved plan",
                hint="change the job file and plan again",
                data={"place": source_name},
            )
        scenario, plan = read_plan(document)
        return JobFile(scenario=scenario, plans=(plan,))
    context = Context(document=document, base_dir=base_dir.absolute(), catalog=catalog, name=name or new_name())
    return JobFile(scenario=resolve(read_as(JOB_FILES[kind], document), context))


def _kind(document: Document) -> str:
    given = document.data.get("kind")
    if given is None:
        raise document.error((), "'kind' is missing", f"write kind: pretrain (or {', '.join(FILES)})")
    if given not in FILES:
        hint = nearest(str(given), FILES) or f"write one of {', '.join(FILES)}"
        raise document.error(("kind",), f"{shown(given)} is no kind of job file", hint)
    return str(given)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(
            f"{path}: the file cannot be read: {error.strerror}", hint="is the path right?", data={"place": str(path)}
        ) from error
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path}: is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}",
            hint="give a YAML file, saved as UTF-8",
            data={"place": str(path)},
        ) from error
