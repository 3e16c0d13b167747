"""``mofang doctor``: what it measures, keeps, prints and warns of. The probe itself is replaced."""

import json
from dataclasses import replace

import pytest

from mofang.backends.local.probe import remote
from mofang.cli import doctor, session
from mofang.cli.main import main
from mofang.domain.hardware import Cluster, Fleet, Node
from mofang.domain.rates import HostRates, Operator, OperatorRate, Phase
from mofang.errors import BackendError


def _rates(host: str) -> HostRates:
    def row(dtype: str, seconds: float) -> OperatorRate:
        return OperatorRate(
            device="cpu",
            dtype=dtype,
            workers=2,
            threads=1,
            operator=Operator.LINEAR,
            phase=Phase.FORWARD,
            shape=(100, 100, 100),
            seconds=seconds,
        )

    return HostRates(
        host=host,
        measured_at=1.0,
        torch_version="2",
        operators=(row("fp32", 1e-4), row("bf16", 1e-3)),
        disk_write=1e9,
        facts={"shm_bytes": "64000000", "bf16_hardware": "false", "torch": "2", "python": "3.11"},
    )


class _Client:
    def __init__(self, *nodes: Node) -> None:
        self.nodes = {node.name: node for node in nodes}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def fleet(self) -> Fleet:
        return Fleet(clusters=(Cluster(name="local", backend="local", nodes=tuple(self.nodes.values())),))

    def record_rates(self, rates: HostRates) -> None:
        self.nodes[rates.host] = replace(self.nodes[rates.host], rates=rates)


def _node(name: str, rates: HostRates | None = None) -> Node:
    return Node(name=name, cluster="local", devices=(), cores=2, memory_bytes=8 * 10**9, rates=rates)


@pytest.fixture
def probed(monkeypatch) -> list[str]:
    names: list[str] = []

    def probe(node, _directory, progress):
        progress(0.5, "half")
        names.append(node.name)
        if node.name == "broken":
            raise BackendError("host broken could not be probed: no torch")
        return _rates(node.name)

    monkeypatch.setattr(remote, "probe_node", probe)
    monkeypatch.setattr(remote, "probe_between", lambda _nodes: ())
    return names


def _serve(monkeypatch, *nodes: Node) -> _Client:
    client = _Client(*nodes)
    monkeypatch.setattr(session, "connect", lambda: client)
    return client


def test_new_hosts_are_measured_kept_and_shown(monkeypatch, probed, capsys):
    client = _serve(monkeypatch, _node("a"), _node("b", _rates("b")))
    assert main(["doctor", "-o", "json"]) == 0
    assert probed == ["a"]
    assert client.nodes["a"].rates is not None
    hosts = json.loads(capsys.readouterr().out)["hosts"]
    assert [host["name"] for host in hosts] == ["a", "b"]
    assert hosts[0]["rates"]["fp32_flops"] == pytest.approx(2 * 2e6 / 1e-4)
    assert any("shared memory" in text for text in hosts[0]["warnings"])
    assert any("bf16 is 10 times slower" in text for text in hosts[0]["warnings"])


def test_the_table_names_rates_and_warnings(monkeypatch, probed, capsys):
    monkeypatch.setenv("COLUMNS", "140")
    _serve(monkeypatch, _node("a"))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "40 GFLOP/s" in out
    assert "shared memory" in out


def test_force_measures_again_and_host_selects(monkeypatch, probed):
    _serve(monkeypatch, _node("a", _rates("a")), _node("b", _rates("b")))
    assert main(["doctor"]) == 0
    assert probed == []
    assert main(["doctor", "--force", "--host", "b"]) == 0
    assert probed == ["b"]


def test_an_unknown_host_is_a_usage_error(monkeypatch, probed, capsys):
    _serve(monkeypatch, _node("alpha"))
    assert main(["doctor", "--host", "alpa"]) == 2
    assert "alpha" in capsys.readouterr().err


def test_a_host_that_cannot_be_measured(monkeypatch, probed, capsys):
    client = _serve(monkeypatch, _node("broken"), _node("a"))
    assert main(["doctor"]) == 4
    assert "no torch" in capsys.readouterr().out
    doctor.measure_new_hosts(client)
    assert "assumptions" in capsys.readouterr().err
