"""One tree of errors, which survives the wire."""

from __future__ import annotations

import json

import pytest

from mofang import errors
from mofang.errors import MofangError, SpecError, error_from_wire

EVERY = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
EXIT_CODES = {
    "UsageError": 2, "SpecError": 2, "UnitError": 2, "CatalogError": 2, "DataError": 2, "NotFoundError": 2,
    "InfeasibleError": 3, "BackendError": 4,
}  # fmt: skip


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_has_the_documented_exit_code_and_a_code_of_its_own(kind: type[MofangError]) -> None:
    assert kind.exit_code == EXIT_CODES.get(kind.__name__, 1)
    assert [other for other in EVERY if other.code == kind.code] == [kind]


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_survives_the_wire(kind: type[MofangError]) -> None:
    error = kind("what went wrong", hint="what to do", data={"need": 91e9, "place": "job.yaml:7"})
    back = error_from_wire(json.loads(json.dumps(error.to_wire())))
    assert type(back) is kind
    assert (back.message, back.hint, back.data) == (error.message, error.hint, error.data)
    assert str(back) == "what went wrong"


def test_an_error_of_a_newer_version_is_still_an_error() -> None:
    back = error_from_wire({"code": "from-the-future", "message": "odd", "hint": "update"})
    assert type(back) is MofangError
    assert (back.message, back.hint, back.exit_code) == ("odd", "update", 1)
    assert error_from_wire({}).message == "unknown error"


def test_the_facts_of_an_error_are_its_own() -> None:
    facts = {"place": "job.yaml:7"}
    error = SpecError("wrong", data=facts)
    error.data["more"] = 1
    assert facts == {"place": "job.yaml:7"}
