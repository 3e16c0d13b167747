"""The local backend: what it sees, what it writes, what it refuses."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest

from mofang.backends.local import HostEntry, LocalBackend, load_hosts
from mofang.backends.local import inventory as inventory_module
from mofang.backends.local.hosts import behind
from mofang.backends.protocol import ObservedState
from mofang.clock import ManualClock, SystemClock
from mofang.domain.codec import decode
from mofang.domain.hardware import CPU, NodeState
from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.errors import BackendError, ConflictError, SpecError, UsageError
from mofang.recovery.agent.environment import cores_of, worker_environment


def _spec(home: Path, **changes) -> LaunchSpec:
    fields = {
        "job_id": "j1",
        "attempt": 1,
        "fence": 3,
        "run_dir": str(home / "runs" / "j1"),
        "nodes": (_node(),),
        "argv": (sys.executable, "-c", "print('hello')"),
        "env": {"COLOUR": "blue"},
        "files": {"recipe.json": "{}"},
    }
    return LaunchSpec(**{**fields, **changes})


def _node(**changes) -> NodeLaunch:
    fields = {
        "node": "here",
        "address": "127.0.0.1",
        "prefix": (),
        "accelerator": CPU,
        "device_indices": (0, 1),
        "workers": 1,
    }
    return NodeLaunch(**{**fields, **changes})


def test_this_machine_is_seen_as_it_is(tmp_path):
    (node,) = LocalBackend(tmp_path, SystemClock(), hosts=()).nodes()
    assert node.cluster == "local"
    assert node.prefix == ()
    cores = [device.index for device in node.devices if device.accelerator == CPU]
    assert cores
    assert set(cores) <= os.sched_getaffinity(0)
    assert node.cores == len(cores)
    assert node.memory_bytes > 0
    assert node.disk_free_bytes > 0


def test_gpus_are_listed_and_a_broken_one_is_unhealthy(monkeypatch):
    class NVMLError(Exception):
        pass

    def handle(index: int) -> int:
        if index == 1:
            raise NVMLError("GPU is lost")
        return index

    driver = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetName=lambda _: b"NVIDIA H100 80GB HBM3",
        nvmlDeviceGetMemoryInfo=lambda _: types.SimpleNamespace(total=80 * 2**30),
        nvmlDeviceGetUUID=lambda _: "GPU-1",
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    found = inventory_module.take_inventory(Path("/"))
    good, broken = (device for device in found.devices if device.accelerator != CPU)
    assert (good.accelerator, good.index, good.uuid) == ("NVIDIA H100 80GB HBM3", 0, "GPU-1")
    assert (broken.healthy, broken.index) == (False, 1)
    assert found.problems == ("GPU 1: GPU is lost",)


def test_machine_without_a_driver_has_no_gpu(monkeypatch):
    class NVMLError(Exception):
        pass

    def fail() -> None:
        raise NVMLError("no driver")

    monkeypatch.setitem(sys.modules, "pynvml", types.SimpleNamespace(NVMLError=NVMLError, nvmlInit=fail))
    assert {device.accelerator for device in inventory_module.take_inventory(Path("/")).devices} == {CPU}


def test_host_behind_a_prefix_is_inspected_and_one_out_of_reach_is_down(tmp_path):
    hosts = (
        HostEntry(name="near", address="10.0.0.1", prefix=("env",)),
        HostEntry(name="far", address="10.0.0.2", prefix=("false",)),
        HostEntry(name="nowhere", address="10.0.0.3", prefix=("no-such-prefix",)),
    )
    here, near, far, nowhere = LocalBackend(tmp_path, SystemClock(), hosts=hosts).nodes()
    assert near.state is NodeState.UP
    assert near.devices == here.devices
    assert (near.address, near.prefix) == ("10.0.0.1", ("env",))
    assert [node.state for node in (far, nowhere)] == [NodeState.DOWN] * 2
    assert far.devices == ()


def test_looks_are_remembered_for_a_while(tmp_path):
    clock = ManualClock(100.0)
    gate = tmp_path / "gate"
    script = tmp_path / "prefix"
    script.write_text(f'#!/bin/sh\ntest -e {gate} && exit 1\nexec "$@"\n')
    script.chmod(0o755)
    hosts = (HostEntry(name="near", address="10.0.0.1", prefix=(str(script),)),)
    backend = LocalBackend(tmp_path, clock, hosts=hosts)
    before = backend.nodes()[1]
    gate.touch()
    assert backend.nodes()[1] == before
    clock.advance(60)
    after = backend.nodes()[1]
    assert after.state is NodeState.DOWN
    assert after.devices == before.devices


def test_hosts_file(tmp_path):
    assert load_hosts(tmp_path) == ()
    (tmp_path / "hosts.yaml").write_text("hosts:\n  - name: b\n    address: 10.0.0.2\n    prefix: [ssh, b]\n")
    assert load_hosts(tmp_path) == (HostEntry(name="b", address="10.0.0.2", prefix=("ssh", "b")),)


def test_hosts_fail_together_with_their_rack(tmp_path):
    script = tmp_path / "prefix"
    script.write_text('#!/bin/sh\nexec "$@"\n')
    script.chmod(0o755)
    hosts = f"  - {{name: b, address: 10.0.0.2, prefix: [{script}], domain: rack-2}}\n"
    lost = "  - {name: c, address: 10.0.0.3, prefix: [/bin/false], domain: rack-3}\n"
    (tmp_path / "hosts.yaml").write_text(f"domain: rack-1\nhosts:\n{hosts}{lost}")
    assert [node.domain for node in LocalBackend(tmp_path, SystemClock()).nodes()] == ["rack-1", "rack-2", "rack-3"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- name: b\n",
        "hosts: [\n",
        "hosts:\n  - name: b\n    address: a\n    prefix: []\n",
        "hosts:\n  - name: b\n    address: a\n    prefix: ssh b\n",
        "hosts:\n  - name: b\n    address: a\n    prefix: [x]\n    port: 3\n",
        "hosts:\n  - {name: b, address: a, prefix: [x]}\n  - {name: b, address: c, prefix: [y]}\n",
        "hosts: []\nhosts: []\n",
        "domain: 7\nhosts: []\n",
        "hosts:\n  - {name: b, address: a, prefix: [x], domain: [rack]}\n",
        "hosts: !!python/object/apply:os.system [ls]\n",
    ],
)
def test_wrong_hosts_file_is_one_clear_error(tmp_path, text):
    (tmp_path / "hosts.yaml").write_text(text)
    with pytest.raises(SpecError) as raised:
        LocalBackend(tmp_path, SystemClock())
    assert "hosts.yaml" in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint


def test_ssh_gets_its_words_quoted():
    assert behind(("ssh", "b"), ("echo", "a b", "$HOME")) == ["ssh", "b", "echo 'a b' '$HOME'"]
    assert behind(("ip", "netns", "exec", "a"), ("echo", "a b")) == ["ip", "netns", "exec", "a", "echo", "a b"]


def test_rendering_is_what_launch_writes(tmp_path):
    secret = tmp_path / "secrets.json"
    secret.write_text(json.dumps({"TOKEN": "hunter2"}))
    spec = _spec(tmp_path, secrets_file=str(secret))
    backend = LocalBackend(tmp_path, SystemClock(), hosts=())
    artefacts = {artefact.name: artefact.text for artefact in backend.render(spec)}
    assert "hunter2" not in "".join(artefacts.values())
    assert not Path(spec.run_dir).exists()
    backend.launch(spec)
    try:
        written = {name: text for name, text in artefacts.items() if name.startswith("/")}
        assert {name: Path(name).read_text() for name in written} == written
        assert decode(LaunchSpec, written[f"{spec.attempt_dir}/launch.json"]) == spec
        assert stat.S_IMODE(Path(f"{spec.attempt_dir}/launch.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(spec.attempt_dir).stat().st_mode) == 0o700
        assert "mofang.recovery.agent --dir" in artefacts["agent on here"]
    finally:
        backend.clear(spec)


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../b"])
def test_files_stay_inside_the_attempt(tmp_path, name):
    backend = LocalBackend(tmp_path, SystemClock(), hosts=())
    with pytest.raises(UsageError, match="does not lie in"):
        backend.launch(_spec(tmp_path, files={name: "x"}))


def test_newer_fence_refuses_an_older_attempt(tmp_path):
    backend = LocalBackend(tmp_path, SystemClock(), hosts=())
    (tmp_path / "runs" / "j1").mkdir(parents=True)
    (tmp_path / "runs" / "j1" / "fence").write_text("4\n")
    with pytest.raises(ConflictError, match="4 > 3"):
        backend.launch(_spec(tmp_path))


def test_unreachable_node_is_a_backend_error(tmp_path):
    backend = LocalBackend(tmp_path, SystemClock(), hosts=())
    with pytest.raises(BackendError) as raised:
        backend.launch(_spec(tmp_path, nodes=(_node(prefix=("false",)),)))
    assert "does not start on here" in raised.value.message
    with pytest.raises(BackendError, match="cannot be reached"):
        backend.launch(_spec(tmp_path, nodes=(_node(prefix=("no-such-prefix",)),)))


def test_folder_that_cannot_be_written_is_a_backend_error(tmp_path):
    (tmp_path / "runs").write_text("a file is in the way")
    with pytest.raises(BackendError, match="cannot be written"):
        LocalBackend(tmp_path, SystemClock(), hosts=()).launch(_spec(tmp_path))


def test_attempt_that_was_never_launched_is_absent(tmp_path):
    backend = LocalBackend(tmp_path, SystemClock(), hosts=())
    assert backend.observe(_spec(tmp_path)).state is ObservedState.ABSENT
    backend.stop(_spec(tmp_path))
    assert backend.clear(_spec(tmp_path)) == 0


@pytest.mark.parametrize(
    ("indices", "workers", "expected"),
    [
        ((0, 1, 2, 3), 2, [(0, 1), (2, 3)]),
        ((4, 5, 6), 2, [(4,), (5, 6)]),
        ((0,), 2, [(), ()]),
        ((90, 91), 2, [(), ()]),
    ],
)
def test_cores_are_dealt_out_without_overlap(indices, workers, expected):
    node = _node(device_indices=indices, workers=workers)
    assert [cores_of(node, rank, range(8)) for rank in range(workers)] == expected


def test_accelerator_workers_see_all_chips_of_the_node(tmp_path):
    spec = _spec(tmp_path, nodes=(_node(accelerator="H100", device_indices=(2, 5), workers=2),))
    for rank in (0, 1):
        environment = worker_environment(
            spec, base={}, node=0, local_rank=rank, generation=1, meeting=("a", 1), secrets={}
        )
        assert (environment["CUDA_VISIBLE_DEVICES"], environment["LOCAL_RANK"]) == ("2,5", str(rank))


@pytest.mark.serial
def test_two_network_namespaces_are_two_hosts(tmp_path):
    """Two agents that see each other only over a virtual link, started through their prefixes."""
    names = [f"mf{os.getpid()}{letter}" for letter in "ab"]
    commands = [
        ["ip", "netns", "add", names[0]],
        ["ip", "netns", "add", names[1]],
        ["ip", "link", "add", "mfa", "netns", names[0], "type", "veth", "peer", "name", "mfb", "netns", names[1]],
    ]
    for name, device, address in zip(names, ("mfa", "mfb"), ("10.77.0.1", "10.77.0.2"), strict=True):
        commands += [
            ["ip", "-n", name, "addr", "add", f"{address}/24", "dev", device],
            ["ip", "-n", name, "link", "set", device, "up"],
            ["ip", "-n", name, "link", "set", "lo", "up"],
        ]
    try:
        try:
            for command in commands:
                subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        _run_over(names, tmp_path)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _run_over(names: list[str], tmp_path: Path) -> None:
    program = """
import os, socket
rank, address = int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    with socket.create_server(address) as server:
        print(server.accept()[1][0])
else:
    while True:
        try:
            socket.create_connection(address, timeout=1).close()
            break
        except OSError:
            continue
"""
    nodes = tuple(
        _node(node=name, address=f"10.77.0.{index + 1}", prefix=("ip", "netns", "exec", name))
        for index, name in enumerate(names)
    )
    spec = _spec(tmp_path, nodes=nodes, argv=(sys.executable, "-c", program))
    clock = SystemClock()
    backend = LocalBackend(tmp_path, clock, hosts=())
    backend.launch(spec)
    try:
        end = clock.monotonic() + 30
        while backend.observe(spec).state is not ObservedState.ENDED and clock.monotonic() < end:
            clock.sleep(0.05)
        assert json.loads(Path(f"{spec.attempt_dir}/outcome.json").read_text())["reason"] == "completed"
        assert Path(f"{spec.attempt_dir}/logs/r0000-g0001.log").read_text() == "10.77.0.2\n"
    finally:
        backend.clear(spec)
