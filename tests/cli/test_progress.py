"""Every kind of event has a line or is quiet on purpose, and lines ask for nothing that is not written."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mofang
from mofang.cli.progress import _LINES, QUIET, Progress, absorb
from mofang.domain.events import Event, EventKind

SPIKE = "the loss 9.1 at step 41 is 12 robust standard deviations above the steps before it"

# What each emitter writes, and the line that it becomes.
LINES = {
    EventKind.WAITING: ({"reason": "backoff", "message": "in 10 s again"}, "waiting: in 10 s again"),
    EventKind.ATTEMPT_ENDED: ({"reason": "hang", "message": "it hung"}, "the attempt ended: it hung"),
    EventKind.AGENT_RESTARTED: ({"node": "b"}, "the agent on b was restarted"),
    EventKind.STOP_REQUESTED: ({"by": "ada"}, "stopping, as ada asked"),
    EventKind.GENERATION_STARTED: ({"workers": 2, "pids": {"0": 7}, "port": 9}, "2 workers started (generation 3)"),
    EventKind.WORKER_EXITED: (
        {"rank": 1, "exit_code": 1, "signal": None, "message": "no disk"},
        "worker 1 failed: no disk",
    ),
    EventKind.HANG_DETECTED: (
        {"rank": 1, "silent_s": 20.0, "step": 4, "limit_s": 18.0, "evidence": "in recv (net.py:7)"},
        "worker 1 hangs (in recv (net.py:7)): no progress for 20s",
    ),
    EventKind.GENERATION_ENDED: (
        {"reason": "node-lost", "message": "node 1 does not answer", "step": 4, "signature": "s", "seconds": 9.0},
        "a node was lost: node 1 does not answer",
    ),
    EventKind.STRAGGLER_DETECTED: (
        {"rank": 3, "node": "b", "ratio": 2.04, "step": 30},
        "worker 3 on b holds the others back: its steps take 2.0 x as long",
    ),
    EventKind.MEMBERS_CHANGED: (
        {"nodes": ["a"], "spares": [], "workers": 2, "message": "b lost: 1 of 2 nodes"},
        "b lost: 1 of 2 nodes",
    ),
    EventKind.RISK: (
        {"node": 0, "probability": 0.0123, "horizon_s": 60.0, "cause": "memory", "snapshot": True},
        "node 0 may fail (1.2 % within 1m 00s, mostly for memory): asked for a snapshot",
    ),
    EventKind.STANDBY: (
        {"node": 0, "ready": False, "seconds": 2.0, "message": "it did not answer"},
        "no warm standby: it did not answer",
    ),
    EventKind.VALIDATION: ({"step": 9, "loss": 2.5, "accuracy": 0.5}, "step 9: validation loss 2.500, accuracy 50.0 %"),
    EventKind.SNAPSHOTS_OFF: ({"message": "/dev/shm is full"}, "no snapshots in memory: /dev/shm is full"),
    EventKind.LOSS_SPIKE: (
        {"step": 41, "loss": 9.1, "grad_norm": 3.0, "score": 12.0, "message": SPIKE},
        f"a loss spike: {SPIKE}",
    ),
    EventKind.ROLLED_BACK: (
        {"step": 41, "to": 39, "why": SPIKE, "skipped": [39, 40]},
        f"went back from step 41 to step 39: {SPIKE}; the data of 2 steps is left out",
    ),
    EventKind.CORRUPTION_DETECTED: (
        {"step": 50, "ranks": [1], "what": "weights"},
        "silent corruption at step 50: other weights on worker 1",
    ),
    EventKind.CHECKPOINT_LOADED: (
        {"step": 40, "seconds": 0.1, "path": "/x", "tier": "peer"},
        "resumed from a peer's snapshot of step 40",
    ),
    EventKind.CHECKPOINT_REFUSED: ({"path": "/x", "message": "it is torn"}, "a checkpoint was refused: it is torn"),
    EventKind.CHECKPOINT_FAILED: ({"step": 9, "message": "disk full"}, "the checkpoint of step 9 failed: disk full"),
    EventKind.FAULT_INJECTED: (
        {"step": 9, "rank": 1, "what": "SIGKILL"},
        "fault on purpose at step 9: worker 1, SIGKILL",
    ),
    EventKind.SERVING: ({"url": "http://h:1", "model": "m"}, "m answers at http://h:1/v1/completions"),
    EventKind.EXPORTED: ({"path": "/o", "what": "adapter", "bytes": 7}, "wrote the adapter to /o"),
}


class Written(dict):
    """What an emitter writes; asking for anything else is an error."""

    def get(self, key, default=None):
        return self[key]


def event(kind: EventKind, data: dict, source: str = "r0000") -> Event:
    return Event(job_id="j", attempt=1, generation=3, source=source, sequence=1, time=5.0, kind=kind, data=data)


def test_every_kind_has_a_line_or_is_quiet_on_purpose():
    assert set(_LINES) | QUIET == set(EventKind)
    assert not set(_LINES) & QUIET
    assert set(LINES) == set(_LINES)


@pytest.mark.parametrize("kind", LINES, ids=str)
def test_a_line_asks_only_for_what_is_written(kind):
    data, line = LINES[kind]
    _, told = absorb(Progress(steps=100), event(kind, Written(data)))
    assert told == line


def _written() -> dict[str, set[frozenset[str]]]:
    """Return the keys with which each kind is reported by name, all over the package."""
    found: dict[str, set[frozenset[str]]] = {}
    for path in Path(mofang.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        calls = [one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.Call)] if "EventKind." in text else []
        for call in calls:
            first = call.args[0] if call.args else None
            if isinstance(first, ast.Attribute) and getattr(first.value, "id", "") == "EventKind" and call.keywords:
                keys = frozenset(one.arg for one in call.keywords if one.arg is not None)
                found.setdefault(first.attr, set()).add(keys)
    return found


def test_the_table_of_this_test_is_what_the_emitters_write():
    written = _written()
    assert {"ROLLED_BACK", "LOSS_SPIKE", "CORRUPTION_DETECTED", "SNAPSHOTS_OFF", "CHECKPOINT_LOADED"} <= written.keys()
    for name, forms in written.items():
        kind = EventKind[name]
        for keys in forms if kind in LINES else ():
            assert keys <= LINES[kind][0].keys(), name
            assert kind is EventKind.VALIDATION or keys == LINES[kind][0].keys(), name


def test_only_the_first_worker_without_snapshots_is_told_of():
    data, line = LINES[EventKind.SNAPSHOTS_OFF]
    progress, first = absorb(Progress(steps=None), event(EventKind.SNAPSHOTS_OFF, data, "r0008"))
    _, second = absorb(progress, event(EventKind.SNAPSHOTS_OFF, data, "r0009"))
    assert (first, second) == (line, "")


def test_the_end_of_a_generation_whose_worker_told_of_it_is_not_told_twice():
    data = {"reason": "worker-failed", "message": "rank 1 failed", "step": 4, "signature": "s", "seconds": 9.0}
    assert absorb(Progress(steps=None), event(EventKind.GENERATION_ENDED, data, "agent-00"))[1] == ""
