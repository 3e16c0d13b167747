"""Pools of hardware that is only described."""

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.catalog.pools import described_pool
from mofang.catalog.rows import read_rows
from mofang.catalog.table import DATA
from mofang.errors import CatalogError
from mofang.units import DeviceRequest, Range, parse_request

CATALOG = Catalog.load()


def pool(text, catalog=CATALOG):
    return described_pool(parse_request(text), catalog)


def test_an_h100_pool_is_a_row_of_dgx():
    found = pool("H100:8..64")
    assert (found.cluster, found.accelerator.name) == ("", "NVIDIA H100-SXM-80GB")
    assert (found.counts.minimum, found.counts.maximum) == (8, 64)
    assert found.devices_per_node == 8
    assert found.intra.bandwidth == 450e9  # half of NVLink's 900 GB/s both ways
    assert found.inter.bandwidth == 50e9  # 400 Gb/s
    assert found.node_memory_bytes == 2 * 10**12
    assert found.price_per_device_hour == CATALOG.prices.per_hour(found.accelerator.name)
    assert found.rates is None


def test_an_older_part_has_an_older_network():
    assert pool("A100:16").inter.bandwidth == 25e9


def test_an_nvl72_rack_is_one_node():
    found = pool("GB200:72")
    assert found.devices_per_node == 72
    assert found.intra.bandwidth == 900e9


def test_bridged_cards_meet_over_pcie():
    found = pool("H100-NVL:8")
    assert found.intra.bandwidth == 64e9
    assert found.intra.latency_s > pool("H100:8").intra.latency_s


def test_cores_share_their_hosts_memory():
    found = pool("cpu:4")
    assert found.is_cpu
    assert found.accelerator.memory_bytes == 0
    assert found.node_memory_bytes > 0


@pytest.mark.parametrize("chip", CATALOG.accelerators, ids=lambda chip: chip.name)
def test_every_chip_makes_a_pool(chip):
    found = described_pool(DeviceRequest(chip.name, Range(1, 8)), CATALOG)
    assert found.devices_per_node >= 1
    assert found.node_memory_bytes > 0
    assert found.intra.bandwidth > 0
    assert 0 < found.intra.latency_s < found.inter.latency_s
    assert found.inter.bandwidth > 0


def test_a_chip_of_the_user_takes_its_node_from_his_servers(tmp_path):
    (tmp_path / "accelerators").mkdir()
    (tmp_path / "accelerators" / "x.yaml").write_text(
        "name: NPU\nmemory_gib: 64\nmemory_bandwidth_gb_per_s: 1000\nbf16_tflops: 300\nsource: me\n"
        "scaleup_both_ways_gb_per_s: 400\nscaleup_domain: 4\n"
    )
    assert pool("NPU:4", Catalog.load(tmp_path)).devices_per_node == 8  # the default of PCIe cards
    (tmp_path / "servers").mkdir()
    (tmp_path / "servers" / "x.yaml").write_text(
        "name: Box\naccelerator: npu\naccelerators: 4\nhost_memory_gb: 700\nsource: me\n"
        "network_gbit_per_s_per_accelerator: 80\n"
    )
    found = pool("NPU:4", Catalog.load(tmp_path))
    assert (found.devices_per_node, found.node_memory_bytes) == (4, 700 * 10**9)
    assert (found.intra.bandwidth, found.inter.bandwidth) == (200e9, 10e9)


def test_an_unknown_chip_is_refused():
    with pytest.raises(CatalogError, match="there is no accelerator 'H10O'"):
        pool("H10O:8")


def test_every_assumption_names_a_chip_and_a_source():
    for row in read_rows(DATA / "nodes.csv"):
        name = row.cells["accelerator"]
        assert row.cells["source"]
        assert name.startswith("default: ") or CATALOG.accelerator(name).name == name
