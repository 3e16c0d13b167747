"""Fleet files: what they say is what plans see, and an exported fleet reads back the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.catalog.knowledge import Catalog
from mofang.errors import MofangError
from mofang.spec.fleet_file import fleet_to_yaml, parse_fleet_file

CATALOG = Catalog.load()
NAMES = ("H100", "A100-80GB", "910B", "MI300X", "Gaudi2", "L40S", "cpu")


def fleet(*nodes, name="a"):
    lines = "\n".join(f"      - {{{node}}}" for node in nodes)
    return f"kind: fleet\nclusters:\n  - name: {name}\n    nodes:\n{lines}\n"


def read(text):
    return parse_fleet_file(text, "fleet.yaml", CATALOG)


def test_what_is_left_out_is_the_typical_node():
    (pool,) = read(fleet("accelerator: H100, count: 16"))
    assert pool.cluster == "a"
    assert pool.accelerator.name == "NVIDIA H100-SXM-80GB"
    assert (pool.devices_per_node, pool.counts.minimum, pool.counts.maximum) == (8, 1, 128)
    assert pool.inter.bandwidth == 400e9 / 8
    assert pool.rates is None


def test_what_is_written_is_used():
    text = (
        "accelerator: H100, devices: 4, memory: 1TB, device_memory: 94GB, link: 300GB/s, network: 100Gb/s, price: 2.5"
    )
    (pool,) = read(fleet(text))
    assert pool.devices_per_node == 4
    assert pool.accelerator.memory_bytes == 94e9
    assert (pool.intra.bandwidth, pool.inter.bandwidth) == (300e9, 100e9 / 8)
    assert (pool.node_memory_bytes, pool.price_per_device_hour) == (10**12, 2.5)


@given(
    groups=st.lists(
        st.tuples(st.sampled_from(NAMES), st.integers(1, 64), st.integers(1, 16), st.integers(1, 10**12)),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=30, deadline=None)
def test_an_exported_fleet_reads_back_the_same(groups):
    rows = [
        f"accelerator: {name}, count: {count}, devices: {devices}, network: {bandwidth}B/s, price: 1.25"
        for name, count, devices, bandwidth in groups
    ]
    pools = read(fleet(*rows))
    assert read(fleet_to_yaml(pools)) == pools


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (fleet("accelerator: H1000"), "no accelerator 'H1000'"),
        (fleet("accelerator: H100, network: -1GB/s"), "not a data rate"),
        (fleet("accelerator: H100, link: 0GB/s"), "must be more than nothing"),
        (fleet("accelerator: H100, count: 0"), "must be at least 1"),
        (fleet("accelerator: H100, price: -2"), "must be > 0"),
        (fleet("accelerator: H100, chips: 8"), "no key 'chips'"),
        ("kind: fleet\nclusters: []\n", "clusters"),
        ("kind: pretrain\n", "kind"),
        (fleet("accelerator: H100") + "  - {name: a, nodes: [{accelerator: cpu}]}\n", "two clusters 'a'"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(text, message):
    with pytest.raises(MofangError) as caught:
        read(text)
    assert message in caught.value.message
    assert "fleet.yaml:" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint
