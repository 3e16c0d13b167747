"""The probe: a real one on this machine with a small budget, and its pieces."""

import json
import subprocess
import sys

import pytest

from mofang.backends.local.probe import team
from mofang.backends.local.probe.collectives import fit_line
from mofang.backends.local.probe.machine import cpu_settings
from mofang.backends.local.probe.remote import probe_node
from mofang.backends.local.probe.shapes import CPU_GRID, Case, cases
from mofang.backends.local.probe.team import Setting, measure_cases, plausible
from mofang.backends.local.probe.timing import Timer
from mofang.clock import ManualClock
from mofang.domain.codec import decode, encode
from mofang.domain.hardware import Node
from mofang.domain.rates import Collective, HostRates, Operator, OperatorRate, Phase
from mofang.errors import BackendError


def _node(prefix: tuple[str, ...] = ()) -> Node:
    return Node(name="here", cluster="local", devices=(), cores=1, memory_bytes=0, prefix=prefix)


@pytest.mark.serial
def test_a_real_probe_finds_everything(tmp_path):
    command = [sys.executable, "-m", "mofang.backends.local.probe", "--host", "me", "--budget", "0.1"]
    done = subprocess.run(
        [*command, "--directory", str(tmp_path)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    progress = [line["progress"] for line in lines]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    rates = decode(HostRates, json.dumps(lines[-1]["rates"]))
    assert decode(HostRates, encode(rates)) == rates
    assert {row.operator for row in rates.operators} == set(Operator)
    assert {row.dtype for row in rates.operators} == {"fp32", "bf16"}
    assert all(row.seconds > 0 and row.spread >= 0 for row in rates.operators)
    cores = int(rates.facts["cores"])
    assert {(row.workers, row.threads) for row in rates.operators} == set(cpu_settings(cores))
    if cores > 1:
        assert {link.operation for link in rates.collectives} == set(Collective)
        assert all(link.bandwidth > 0 and link.latency_s > 0 for link in rates.collectives)
    assert rates.dispatch_s > 0
    assert rates.disk_write > 0
    assert rates.worker_memory_bytes > 50_000_000


def test_one_two_and_many_cores():
    assert cpu_settings(1) == [(1, 1)]
    assert cpu_settings(2) == [(1, 1), (1, 2), (2, 1)]
    assert all(workers * threads <= 64 for workers, threads in cpu_settings(64))


def test_sizes_ascend_so_that_slow_hosts_can_stop():
    for operator, shapes in CPU_GRID.items():
        if operator is not Operator.LINEAR:
            sizes = [shape[0] * shape[-1] * (shape[1] if len(shape) > 2 else 1) for shape in shapes]
            assert sizes == sorted(sizes), operator


def test_fp32_needs_no_cast_and_every_operator_is_there():
    found = cases(CPU_GRID, ("fp32", "bf16"))
    assert {case.operator for case in found} == set(Operator)
    assert not [case for case in found if case.dtype == "fp32" and case.operator is Operator.CAST]
    assert len(found) == len(set(found))


def test_the_line_through_exact_transfers_is_found():
    sizes = [4096.0, 1e6, 4e6, 16e6]
    latency, bandwidth = fit_line(sizes, [2e-4 + size / 1.5e9 for size in sizes])
    assert latency == pytest.approx(2e-4, rel=0.05)
    assert bandwidth == pytest.approx(1.5e9, rel=0.05)


def test_a_host_behind_a_dead_prefix_is_one_clear_error(tmp_path):
    with pytest.raises(BackendError, match="here cannot be reached"):
        probe_node(_node(("/no/such/ssh",)), tmp_path, lambda _fraction, _what: None)
    with pytest.raises(BackendError, match="here could not be probed"):
        probe_node(_node(("false",)), tmp_path, lambda _fraction, _what: None)


def _rate(threads: int, seconds: float, workers: int = 1) -> OperatorRate:
    return OperatorRate(
        device="cpu",
        dtype="fp32",
        workers=workers,
        threads=threads,
        operator=Operator.ADD,
        phase=Phase.FORWARD,
        shape=(8, 8),
        seconds=seconds,
    )


def test_threads_that_waited_for_a_busy_core_are_corrected():
    rows = [_rate(1, 1e-3), _rate(2, 40e-3), _rate(4, 0.3e-3), _rate(1, 5e-3, workers=2)]
    assert [row.seconds for row in plausible(rows)] == pytest.approx([1e-3, 1.02e-3, 0.3e-3, 5e-3])


def test_what_is_disturbed_is_timed_again(monkeypatch):
    seconds = iter([1.0, 8.0, 1.1, 1.0])  # two rounds that disagree, a third that agrees with the first, none more
    monkeypatch.setattr(team, "_measure", lambda *_: [_rate(1, next(seconds))])
    monkeypatch.setattr(team.torch, "set_num_threads", lambda _: None)
    case = Case(operator=Operator.ADD, shape=(8, 8), dtype="fp32")
    setting = Setting(device="cpu", name="cpu", workers=1, threads=1)
    timer = Timer(ManualClock(), device="cpu", budget_s=1.0, longest_s=100.0)
    (best,) = measure_cases([case], setting, timer, lambda _fraction, _what: None)
    assert best.seconds == pytest.approx(1.1**0.5)
    assert next(seconds) == 1.0


def test_a_measurement_ends_with_its_budget():
    clock = ManualClock()
    timer = Timer(clock, device="cpu", budget_s=1.0, longest_s=10.0)
    calls = []

    def call() -> None:
        calls.append(1)
        clock.advance(0.25)

    assert timer.measure(call).seconds == pytest.approx(0.25)
    assert len(calls) == 5  # one to warm up, four in the budget
