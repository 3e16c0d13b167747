"""The agent's outlook: telemetry kept, the hazard told, snapshots asked for when a node degrades, with a cause."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mofang.clock import ManualClock
from mofang.domain.events import EventKind
from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.recovery.advice import AdviceReader
from mofang.recovery.agent.outlook import Outlook
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.spool import SpoolWriter, read_spool
from mofang.recovery.telemetry import Collector, Place
from mofang.recovery.telemetry.series import read_series


class Memory:
    """A probe of a machine whose memory can be made to run out."""

    def __init__(self) -> None:
        self.available, self.leak = 6e11, 0.0
        self.errors = 0.0

    def sample(self):
        self.available = max(self.available - self.leak, 0.0)
        self.errors += 3.0 * (self.leak > 0)
        return {
            "memory.available": self.available,
            "memory.total": 1e12,
            "device.0.ecc_corrected": self.errors,
            "device.0.ecc_uncorrected": self.errors // 6,
            "xid": self.errors // 9,
        }


class Watched:
    def __init__(self, tmp_path: Path, **node: object) -> None:
        self.clock = ManualClock(1_000_000.0)
        here = NodeLaunch(
            node="n0", address="127.0.0.1", prefix=(), accelerator="cpu", device_indices=(0,), workers=1, **node
        )
        spec = LaunchSpec(
            job_id="j", attempt=1, fence=1, run_dir=str(tmp_path / "runs" / "j"), nodes=(here,), argv=("true",)
        )
        self.directory = AttemptDir(Path(spec.attempt_dir))
        self.directory.prepare()
        self.memory = Memory()
        collector = Collector(self.directory, 0, Place(), self.clock, probes={"memory": self.memory})
        self.spool = SpoolWriter(
            self.directory.agent_spool(0), job_id="j", attempt=1, source="agent-00", clock=self.clock
        )
        self.outlook = Outlook(spec, 0, self.spool, self.clock, collector)
        self.reader = AdviceReader(self.directory.advice(0))

    def run(self, seconds: int) -> list:
        told = []
        for _ in range(seconds):
            self.clock.advance(1.0)
            self.outlook.tick(1, {0: 0})
            told += [found for found in [self.reader.look()] if found is not None]
        return told

    def risks(self) -> list:
        events = read_spool(self.directory.agent_spool(0)).events
        return [event.data for event in events if event.kind is EventKind.RISK]


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path, hazard_per_s=1e-6)


def test_in_peace_the_hazard_is_told_once_and_nothing_is_asked_for(watched):
    (told,) = watched.run(400)
    assert (told.snapshot, told.hazard_per_s) == (False, 1e-6)
    assert watched.risks() == []
    assert len(read_series(watched.directory.telemetry(0))) == 400


def test_a_node_that_degrades_asks_for_snapshots_with_a_cause(tmp_path):
    watched = Watched(tmp_path, hazard_per_s=1e-4)  # a node that is known to fail often
    watched.run(200)
    watched.memory.leak = 1.2e10
    told = [one for one in watched.run(45) if one.snapshot]
    assert told
    assert told[0].hazard_per_s > 1e-4
    assert told[0].cause
    (first, *_) = watched.risks()
    assert first["cause"] == told[0].cause
    assert 0.0 < first["probability"] <= 1.0
    assert first["snapshot"] is True


def test_where_nodes_hardly_ever_fail_false_alarms_would_cost_more_and_nothing_is_asked_for(tmp_path):
    watched = Watched(tmp_path, hazard_per_s=1e-9)
    watched.run(200)
    watched.memory.leak = 1.2e10
    assert not any(one.snapshot for one in watched.run(45))


def test_a_generation_that_has_just_begun_is_not_compared_with_the_one_before(watched):
    watched.run(100)
    watched.outlook.tick(2, {0: 0})
    assert len(watched.outlook._samples) <= 1


def test_an_agent_that_takes_over_is_heard(watched, tmp_path):
    watched.run(10)
    before = json.loads(watched.directory.advice(0).read_text())["serial"]
    again = Watched(tmp_path, hazard_per_s=5e-6)
    again.clock.advance(60.0)
    again.outlook = Outlook(
        again.outlook._spec, 0, again.spool, again.clock, Collector(again.directory, 0, Place(), again.clock, probes={})
    )
    again.run(10)
    assert json.loads(again.directory.advice(0).read_text())["serial"] > before


def test_a_broken_model_of_the_users_own_does_not_stop_the_agent(watched, tmp_path):
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "short_lead.json").write_text("{")
    assert len(watched.run(100)) == 1


def test_nothing_is_told_where_nothing_can_be_written(watched):
    watched.directory.advice(0).mkdir()
    watched.run(100)
    assert watched.risks() == []
