from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mofang.catalog.knowledge import Catalog
from mofang.control import baggage
from mofang.control.address import bound_address
from mofang.control.output import read_output
from mofang.control.pools import described_pools, fleet_pools
from mofang.control.process import is_alive, this_process
from mofang.control.verdict import MOST_RETRIES, judge
from mofang.domain.hardware import Device, NodeState
from mofang.domain.job import Job, JobState
from mofang.domain.rates import HostRates
from mofang.domain.reasons import Reason
from mofang.domain.scenario import Environment, Secret, WorkdirMode
from mofang.errors import CatalogError, NotFoundError, StoreError, UsageError
from mofang.testing import a_job, a_node, a_scenario, an_attempt
from mofang.units import parse_request


@given(
    reason=st.sampled_from(Reason),
    stopping=st.booleans(),
    progressed=st.booleans(),
    retries=st.integers(0, MOST_RETRIES),
)
def test_every_end_of_an_attempt_has_a_verdict(reason: Reason, stopping: bool, progressed: bool, retries: int) -> None:
    found = judge(reason, "why", stopping=stopping, progressed=progressed, retries=retries)
    if reason is Reason.COMPLETED:
        assert found.state is JobState.SUCCEEDED
    elif stopping or reason is Reason.STOPPED_BY_USER:
        assert found.state is JobState.STOPPED
    elif reason not in {Reason.NODE_LOST, Reason.AGENT_LOST, Reason.LAUNCH}:
        assert (found.state, found.reason) == (JobState.FAILED, reason)
    elif retries >= MOST_RETRIES and not progressed:
        assert found.state is JobState.FAILED
    else:
        assert found.state is JobState.WAITING
        assert 0 < found.pause_s <= 60
        assert found.retries == (0 if progressed else retries) + 1


def test_this_process_is_alive_and_one_that_ended_is_not() -> None:
    me = this_process()
    assert is_alive(me)
    assert not is_alive(replace(me, start_ticks=me.start_ticks + 1))
    assert not is_alive(replace(me, boot="an earlier one"))
    assert is_alive(replace(me, host="elsewhere"))
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(replace(me, pid=child.pid))  # a zombie
    child.wait()


@pytest.mark.parametrize("depth", [1, 30])
def test_an_address_fits_however_deep_the_home_lies(tmp_path: Path, depth: int) -> None:
    path = tmp_path.joinpath(*["folder"] * depth) / "controller.sock"
    path.parent.mkdir(parents=True)
    with bound_address(path) as address:
        assert len(address) <= 107
        Path(address).write_text("here")
    assert path.read_text() == "here"


def test_nodes_become_pools_by_cluster_kind_and_size() -> None:
    catalog = Catalog.load()
    chips = tuple(
        Device(index=index, accelerator="NVIDIA H100-SXM-80GB", memory_bytes=85 * 10**9) for index in range(2)
    )
    big = replace(a_node("big", cores=4), devices=a_node(cores=4).devices + chips)
    down = replace(a_node("down"), state=NodeState.DOWN)
    pools = fleet_pools([a_node("a"), a_node("b"), a_node("small", cores=2), big, down], catalog)
    found = {(pool.accelerator.name, pool.devices_per_node): pool.counts.maximum for pool in pools}
    assert found == {("cpu", 4): 12, ("cpu", 2): 2, ("NVIDIA H100-SXM-80GB", 2): 2}
    assert {pool.cluster for pool in pools} == {"memory"}
    chip = next(pool for pool in pools if not pool.is_cpu)
    assert chip.accelerator.memory_bytes == 85 * 10**9
    assert chip.node_memory_bytes == big.memory_bytes


def test_rates_count_only_where_every_node_was_measured() -> None:
    rates = HostRates(host="a", measured_at=1.0, torch_version="2")
    measured = replace(a_node("a"), rates=rates)
    assert fleet_pools([measured], Catalog.load())[0].rates == rates
    assert fleet_pools([measured, a_node("b")], Catalog.load())[0].rates is None


def test_unknown_chips_of_a_node_are_left_out_and_unknown_requests_refused() -> None:
    odd = replace(a_node(), devices=(Device(index=0, accelerator="Quantum 9000"),))
    assert fleet_pools([odd], Catalog.load()) == ()
    with pytest.raises(CatalogError):
        described_pools([parse_request("Quantum9000:8")], Catalog.load())
    with pytest.raises(UsageError):
        described_pools([], Catalog.load())


def job_with_output(run_dir: Path, text: bytes) -> Job:
    logs = run_dir / "attempt-0001" / "logs"
    logs.mkdir(parents=True)
    (logs / "r0000-g0001.log").write_bytes(b"first\n")
    (logs / "r0000-g0002.log").write_bytes(text)
    return replace(a_job(), attempt=an_attempt(), state=JobState.RUNNING)


def read(run_dir: Path, job: Job, **wanted: int | None) -> tuple[str, int, bool]:
    asked = {"rank": 0, "attempt": None, "generation": None, "offset": 0, "limit": 100} | wanted
    found = read_output(run_dir, job, **asked)  # type: ignore[arg-type]
    return found.text, found.offset, found.end


def test_output_is_of_the_newest_generation_and_ends_with_the_job(tmp_path: Path) -> None:
    job = job_with_output(tmp_path, b"second\n")
    assert read(tmp_path, job) == ("second\n", 7, False)
    assert read(tmp_path, job, generation=1) == ("first\n", 6, True)
    assert read(tmp_path, replace(job, state=JobState.SUCCEEDED)) == ("second\n", 7, True)
    assert read(tmp_path, job, offset=3, limit=2) == ("on", 5, False)
    assert read(tmp_path, job, offset=-3) == ("nd\n", 7, False)
    assert read(tmp_path, job, offset=99) == ("", 7, False)


def test_output_is_cut_between_characters_only(tmp_path: Path) -> None:
    text = "魔方 é ok" * 3
    job = job_with_output(tmp_path, text.encode())
    pieces, offset = [], 0
    while True:
        piece, offset, _ = read(tmp_path, job, offset=offset, limit=5)
        if not piece:
            break
        pieces.append(piece)
    assert "".join(pieces) == text


def test_output_that_is_no_text_is_shown_anyway(tmp_path: Path) -> None:
    job = job_with_output(tmp_path, bytes(range(256)))
    text, offset, end = read(tmp_path, replace(job, state=JobState.FAILED), limit=1000)
    assert (offset, end) == (256, True)
    assert "\ufffd" in text


def test_output_of_what_never_was_is_not_found(tmp_path: Path) -> None:
    job = job_with_output(tmp_path, b"x")
    for wanted in ({"rank": 7}, {"attempt": 2}, {"attempt": 0}, {"generation": 3}):
        with pytest.raises(NotFoundError):
            read(tmp_path, job, **wanted)
    assert read(tmp_path / "none", a_job()) == ("", 0, False)


def job_with(environment: Environment) -> Job:
    return a_job("ab", scenario=replace(a_scenario(), environment=environment))


def test_secrets_are_private_and_only_those_that_are_wanted(tmp_path: Path) -> None:
    job = job_with(Environment(secrets=(Secret(name="TOKEN", source="env", reference="T"),)))
    assert baggage.is_needed(job)
    assert not baggage.is_needed(a_job())
    baggage.pack(tmp_path, job, {"TOKEN": "s3cret", "OTHER": "no"})
    path = tmp_path / "secrets" / "ab.json"
    assert path.read_text() == '{"TOKEN": "s3cret"}'
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    baggage.drop(tmp_path, "ab")
    assert not path.exists()


def test_an_uploaded_working_directory_is_a_copy(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.py").write_text("print(1)")
    job = job_with(Environment(workdir=str(work), workdir_mode=WorkdirMode.UPLOAD))
    baggage.pack(tmp_path, job, {})
    (work / "train.py").write_text("print(2)")
    assert (tmp_path / "runs" / "ab" / "workdir" / "train.py").read_text() == "print(1)"


def test_a_working_directory_that_vanished_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    job = job_with(Environment(workdir=str(tmp_path / "gone"), workdir_mode=WorkdirMode.UPLOAD))
    with pytest.raises(StoreError, match="gone"):
        baggage.pack(tmp_path, job, {})
    assert not (tmp_path / "runs" / "ab").exists()
