"""Telemetry: what probes read from the kernel's files and NVML, what a series keeps, and drivers that hang."""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.clock import ManualClock, SystemClock
from mofang.errors import DataError
from mofang.recovery.heartbeat import SYNC, format_heartbeat
from mofang.recovery.kernel_log import KernelLog
from mofang.recovery.rundir import AttemptDir
from mofang.recovery.telemetry import Collector, Place, SeriesWriter
from mofang.recovery.telemetry.detached import Detached
from mofang.recovery.telemetry.host import HostProbe
from mofang.recovery.telemetry.kernel import KernelLogProbe
from mofang.recovery.telemetry.nvidia import open_nvidia
from mofang.recovery.telemetry.probe import probes_of
from mofang.recovery.telemetry.series import read_series
from mofang.recovery.telemetry.traffic import TrafficProbe
from mofang.recovery.telemetry.workers import WorkersProbe


def put(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def host(tmp_path: Path) -> tuple[Path, Path]:
    proc = put(
        tmp_path / "proc",
        stat="cpu  100 0 100 800 0 0 0 0 0 0\n",
        loadavg="1.50 1 1 1/2 3\n",
        uptime="100.0 1\n",
        meminfo="MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 100 kB\nSwapFree: 90 kB\n",
        pressure__io="some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n",
        diskstats="8 0 sda 10 0 0 100 10 0 0 100 0 0 0\n8 1 sda1 9 0 0 90 9 0 0 90 0 0 0\n",
        net__dev="a\nb\n lo: 1 1 9 9 0 0 0 0 1 1 9 9 0 0 0 0\neth0: 5 5 1 2 0 0 0 0 5 5 3 4 0 0 0 0\n",
    )
    sys_ = put(
        tmp_path / "sys",
        class__thermal__thermal_zone0__temp="61000\n",
        class__hwmon__hwmon0__temp1_input="200000\n",
        devices__system__edac__mc__mc0__ce_count="3\n",
        devices__system__edac__mc__mc0__ue_count="1\n",
        devices__system__cpu__cpu0__cpufreq__scaling_cur_freq="2400000\n",
        block__sda__device__ioerr_cnt="0x1f\n",
    )
    return proc, sys_


def test_the_host_is_read_as_its_files_say(tmp_path):
    proc, sys_ = host(tmp_path)
    probe, traffic = HostProbe(Place(proc=proc, sys=sys_)), TrafficProbe(Place(proc=proc, sys=sys_))
    probe.sample(), traffic.sample()
    put(proc, stat="cpu  130 0 110 860 0 0 0 0 0 0\n", uptime="110.0 1\n")
    put(proc, pressure__io="some avg10=0 avg60=0 avg300=0 total=3500000\n")
    put(proc, diskstats="8 0 sda 15 0 0 150 15 0 0 250 0 0 0\n8 1 sda1 9 0 0 90 9 0 0 90 0 0 0\n")
    found = {**probe.sample(), **traffic.sample()}
    assert found["cpu.busy"] == pytest.approx(0.4)
    assert found["pressure.io"] == pytest.approx(0.25)
    assert found["memory.available"] == 400 * 1024
    assert found["swap.used"] == 10 * 1024
    assert found["heat.host"] == 61.0  # 200 degrees is a broken sensor
    assert (found["edac.corrected"], found["edac.uncorrected"]) == (3.0, 1.0)
    assert found["cpu.clock"] == 2400.0
    assert found["disk.latency_s"] == pytest.approx(0.02)
    assert found["disk.errors"] == 31.0
    assert (found["network.errors"], found["network.drops"]) == (4.0, 6.0)  # what lo counts is left out


def test_the_memory_of_a_container_is_that_of_its_limit(tmp_path):
    proc, sys_ = host(tmp_path)
    put(sys_, **{"fs__cgroup__memory.max": "512000\n", "fs__cgroup__memory.current": "500000\n"})
    found = HostProbe(Place(proc=proc, sys=sys_)).sample()
    assert (found["memory.available"], found["memory.total"]) == (12000.0, 512000.0)


def test_a_machine_without_any_of_these_files_has_no_columns(tmp_path):
    log = KernelLog(SystemClock(), tmp_path / "none")
    empty = Place(proc=tmp_path, sys=tmp_path, kernel_log=log)
    for probe in probes_of(empty).values():
        assert probe.sample() is not None
        assert "heat.host" not in probe.sample()
    assert log.counts == {}


def test_this_machine_is_sampled_in_well_under_a_hundredth_of_a_core(tmp_path):
    collector = Collector(AttemptDir(tmp_path), 0, Place(), SystemClock(), period_s=0.0)
    begin = time.process_time()
    for _ in range(50):
        assert collector.tick() is not None
    assert (time.process_time() - begin) / 50 < 0.01  # of a second, at one sample a second
    assert len(read_series(collector.path)) == 50


# ruff: noqa: N802 - the names are those of the library


class NVMLError(Exception):
    pass


class FakeNvml(types.SimpleNamespace):
    """The calls of pynvml that are used, on devices whose state a test sets."""

    def __init__(self, devices: dict[int, dict[str, float]]) -> None:
        super().__init__(NVMLError=NVMLError, devices=devices)

    def get(self, handle: int, name: str) -> float:
        if name not in self.devices[handle]:
            raise NVMLError("not supported")
        return self.devices[handle][name]

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return self.get(handle, "temperature")

    def nvmlDeviceGetTemperatureThreshold(self, handle, kind):
        return self.get(handle, "limit")

    def nvmlDeviceGetPowerUsage(self, handle):
        return self.get(handle, "power")

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self.get(handle, "clock")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.get(handle, "reasons")

    def nvmlDeviceGetTotalEccErrors(self, handle, kind, counter):
        return self.get(handle, f"ecc{kind}")

    def nvmlDeviceGetPcieReplayCounter(self, handle):
        return self.get(handle, "replays")

    def nvmlDeviceGetRemappedRows(self, handle):
        return (self.get(handle, "rows"), 1, 0, 0)

    def nvmlDeviceGetRetiredPages(self, handle, cause):
        return [0] * int(self.get(handle, "pages"))

    def nvmlDeviceGetNvLinkState(self, handle, link):
        return self.get(handle, f"link{link}")

    def nvmlDeviceGetNvLinkErrorCounter(self, handle, link, counter):
        return self.get(handle, "link_errors")


def test_devices_are_read_through_nvml_and_what_one_lacks_is_left_out(monkeypatch):
    rich = {"temperature": 61, "limit": 92, "power": 412_000, "clock": 1755, "reasons": 0x4, "ecc0": 7, "ecc1": 1}
    rich |= {"replays": 3, "rows": 2, "pages": 1, "link0": 1, "link1": 0, "link_errors": 5}
    driver = FakeNvml({0: rich, 1: {"temperature": 70, "reasons": 0x40}})
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    probe = open_nvidia(Place(accelerator="H100", devices=(0, 1)))
    found = probe.sample()
    assert {name: found[f"device.0.{name}"] for name in ("temperature", "power", "clock", "slowed")} == {
        "temperature": 61,
        "power": 412.0,
        "clock": 1755,
        "slowed": 0.0,  # a power cap is daily business
    }
    assert (found["device.0.ecc_corrected"], found["device.0.ecc_uncorrected"]) == (7, 1)
    assert (found["device.0.rows_remapped"], found["device.0.pages_retired"]) == (3, 2)
    assert (found["device.0.pcie_replays"], found["device.0.link_errors"]) == (3, 15)
    assert found["device.1.slowed"] == 1.0
    assert "device.1.power" not in found
    driver.devices[0].clear()  # it fell off the bus
    assert not any(name.startswith("device.0.temp") and "limit" not in name for name in probe.sample())


def test_the_calls_and_numbers_are_those_of_the_real_library():
    nvml = pytest.importorskip("pynvml")
    for name in vars(FakeNvml):
        assert name.startswith("_") or name == "get" or callable(getattr(nvml, name))
    assert (nvml.NVML_TEMPERATURE_GPU, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN, nvml.NVML_CLOCK_SM) == (0, 1, 1)
    assert (nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED) == (0, 1)
    assert nvml.NVML_VOLATILE_ECC == 0
    assert nvml.NVML_NVLINK_MAX_LINKS == 36
    names = ("HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert sum(getattr(nvml, f"nvmlClocksEventReason{name}") for name in names) == 0x8 | 0x20 | 0x40 | 0x80
    counters = ("REPLAY", "RECOVERY", "CRC_FLIT")
    assert sorted(getattr(nvml, f"NVML_NVLINK_ERROR_DL_{name}") for name in counters) == [0, 1, 2]


def test_no_driver_no_devices(monkeypatch):
    assert open_nvidia(Place()) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvidia(Place(accelerator="H100", devices=(0,))) is None


def test_a_driver_that_hangs_holds_nobody_up_and_its_silence_is_measured():
    stuck, calls = threading.Event(), []

    class Hanging:
        def sample(self):
            calls.append(1)
            if len(calls) > 1:
                stuck.wait()
            return {"device.0.temperature": 60.0}

    clock = ManualClock(100.0)
    probe = Detached("nvidia", Hanging(), clock)
    end = time.monotonic() + 10
    while "device.0.temperature" not in (found := probe.sample()):
        assert time.monotonic() < end
        time.sleep(0.005)
    for _ in range(7):
        clock.advance(1.0)
        found = probe.sample()
    assert found == {"silent.nvidia": 7.0}
    stuck.set()


def test_kernel_messages_are_told_apart(tmp_path):
    log = tmp_path / "kmsg"
    log.write_text("6,1,1,-;old NVRM: Xid (PCI:0000:01:00): 79\n")
    probe = KernelLogProbe(KernelLog(SystemClock(), log))
    with log.open("a") as file:
        file.write("6,2,1,-;NVRM: Xid (PCI:0000:01:00): 48, pid=1\n4,3,1,-;I/O error, dev sda, sector 1\n")
        file.write("4,4,1,-;mce: [Hardware Error]: Machine check events logged\n6,5,1,-;usb: new device\n")
    assert probe.sample() == {"xid": 1.0, "kernel.disk_errors": 1.0, "kernel.machine_checks": 1.0}


def test_steps_are_timed_from_heartbeats_and_validation_does_not_count(tmp_path):
    directory = AttemptDir(tmp_path)
    directory.prepare()
    path = directory.heartbeat(3, 1)

    def beat(step: int, at: float, phase: str = SYNC) -> None:
        path.write_bytes(format_heartbeat(step, phase, 0.25))
        os.utime(path, (at, at))

    probe = WorkersProbe(directory)
    probe.follow(1, {3: os.getpid()})
    assert "rank.3.step_s" not in probe.sample(100.0)
    beat(10, 100.0)
    probe.sample(100.5)
    beat(14, 102.0)
    found = probe.sample(103.0)
    assert found["rank.3.step_s"] == pytest.approx(0.5)
    assert found["rank.3.busy_s"] == 0.25
    assert found["rank.3.silent_s"] == pytest.approx(1.0)
    assert found["rank.3.memory"] > 1e6
    beat(14, 102.5, "validate")
    probe.sample(103.0)
    beat(15, 130.0)
    assert probe.sample(130.0)["rank.3.step_s"] == pytest.approx(0.5)
    beat(17, 131.0)
    assert probe.sample(131.0)["rank.3.step_s"] == pytest.approx(0.5)


samples = st.lists(
    st.dictionaries(st.sampled_from("abcd"), st.floats(-1e9, 1e9, allow_nan=False), max_size=4), min_size=1, max_size=30
)


@settings(max_examples=40, deadline=None)
@given(samples=samples)
def test_what_was_written_is_read_whatever_columns_come_and_go(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("series") / "t.csv"
    writer = SeriesWriter(path)
    for place, sample in enumerate(samples):
        writer.append(float(place), sample)
        if place % 7 == 6:
            writer.close()
    found = read_series(path)
    assert list(found.time) == list(range(len(samples)))
    for name, column in found.columns.items():
        for value, sample in zip(column, samples, strict=True):
            assert (value != value) if name not in sample else value == pytest.approx(sample[name], rel=1e-5, abs=1e-9)


def test_a_file_stays_below_its_limit_reaches_back_to_the_start_and_keeps_what_is_new(tmp_path):
    writer = SeriesWriter(tmp_path / "t.csv", limit_bytes=20_000)
    for second in range(20_000):
        writer.append(float(second), {"a": 1.0, "b": float(second)})
    assert (tmp_path / "t.csv").stat().st_size <= 20_000
    found = read_series(tmp_path / "t.csv")
    assert found.time[0] == 0.0
    assert list(found.time[-200:]) == list(range(19_800, 20_000))
    assert (found.columns["b"] == found.time).all()
    gaps = found.time[1:] - found.time[:-1]
    assert gaps[: len(gaps) // 4].mean() > 2 * gaps[-len(gaps) // 4 :].mean()


def test_lines_torn_by_a_crash_are_skipped(tmp_path):
    path = tmp_path / "t.csv"
    writer = SeriesWriter(path)
    writer.append(1.0, {"a": 1.0, "b": 2.0})
    writer.close()
    with path.open("a") as file:
        file.write("2.0,3.")
    again = SeriesWriter(path)
    again.append(3.0, {"a": 5.0, "b": 6.0})
    assert list(read_series(path).time) == [1.0, 3.0]


def test_a_full_disk_loses_samples_and_nothing_else(tmp_path):
    writer = SeriesWriter(tmp_path / "none" / "t.csv")
    writer.append(1.0, {"a": 1.0})
    (tmp_path / "none").mkdir()
    writer.append(2.0, {"a": 2.0})
    assert list(read_series(tmp_path / "none" / "t.csv").time) == [2.0]


@pytest.mark.parametrize("text", [None, "", "hello\n1,2\n"])
def test_what_is_no_series_is_refused(tmp_path, text):
    path = tmp_path / "t.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError):
        read_series(path)
