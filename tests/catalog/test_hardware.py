"""The packaged chips and servers, and the names they answer to."""

import csv
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofang.catalog.knowledge import Catalog
from mofang.catalog.names import key
from mofang.domain.hardware import CPU, Precision
from mofang.errors import CatalogError
from mofang.units import parse_request

CATALOG = Catalog.load()


def test_every_row_is_there_with_its_source():
    assert len(CATALOG.accelerators) >= 65
    assert len(CATALOG.servers) >= 154
    assert all(row.source for row in (*CATALOG.accelerators, *CATALOG.servers))


def test_units_become_si():
    h100 = CATALOG.accelerator("NVIDIA H100-SXM-80GB")
    assert h100.memory_bytes == 80 * 2**30
    assert h100.memory_bandwidth == 3.35e12
    assert h100.peak_flops[Precision.BF16] == 989e12
    assert h100.scaleup_bandwidth == 900e9
    dgx = CATALOG.server("NVIDIA DGX H100")
    assert dgx.network_bandwidth == 50e9  # 400 Gb/s
    assert dgx.host_memory_bytes == 2 * 10**12
    assert (dgx.num_accelerators, dgx.rack_units, dgx.power_w) == (8, 8, 10200)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("H100", "NVIDIA H100-SXM-80GB"),
        ("h100 sxm", "NVIDIA H100-SXM-80GB"),
        ("H100-80GB-SXM", "NVIDIA H100-SXM-80GB"),
        ("H100-96GB", "NVIDIA H100-SXM-96GB"),
        ("A100", "NVIDIA A100-SXM-80GB"),
        ("a800_80gb", "NVIDIA A800-SXM-80GB"),
        ("910B", "Huawei Ascend 910B3 64GB"),
        ("MI300X", "AMD Instinct MI300X"),
        ("4090", "NVIDIA RTX 4090"),
        ("tpu-V5E", "Google TPU v5e"),
        ("cpu", CPU),
    ],
)
def test_aliases(written, name):
    assert CATALOG.accelerator(written).name == name


def test_no_name_is_claimed_twice():
    for table in (CATALOG.accelerator_table, CATALOG.server_table, CATALOG.model_table):
        claims = Counter()
        for entry in table.entries:
            claims.update({key(entry.name), *map(key, entry.aliases)})
        assert [name for name, times in claims.items() if times > 1] == []


@settings(max_examples=80, deadline=None)
@given(entry=st.sampled_from(CATALOG.accelerator_table.entries), data=st.data())
def test_case_and_separators_do_not_matter(entry, data):
    name = data.draw(st.sampled_from([entry.name, *entry.aliases]))
    changed = "".join(data.draw(st.sampled_from([char.upper(), char.lower()])) for char in name)
    separator = data.draw(st.sampled_from([" ", "-", "_", ""]))
    assert CATALOG.accelerator(changed.replace("-", separator).replace(" ", separator)) is entry.value


@pytest.mark.parametrize(
    ("kind", "written", "meant"),
    [
        ("accelerator", "H10O", "'H100'"),
        ("accelerator", "MI300", "'MI300X'"),
        ("server", "DGX H1000", "'DGX H100'"),
        ("model", "lama-3-8b", "'llama-3-8b'"),
    ],
)
def test_an_unknown_name_says_what_was_probably_meant(kind, written, meant):
    with pytest.raises(CatalogError, match=f"there is no {kind} '{written}'") as caught:
        getattr(CATALOG, kind)(written)
    assert meant in caught.value.hint
    assert f"mofang catalog {kind}s" in caught.value.hint


@pytest.mark.parametrize("find", [CATALOG.accelerator, CATALOG.server, CATALOG.model], ids=["chip", "server", "model"])
@pytest.mark.parametrize("written", ["", "   ", "---", "zzzzzzzz", "x" * 5000, "~nobody/x", "a\0b"])
def test_nonsense_is_refused_with_a_hint(find, written):
    with pytest.raises(CatalogError, match="there is no") as caught:
        find(written)
    assert caught.value.hint


@pytest.mark.parametrize("chip", CATALOG.accelerators, ids=lambda chip: chip.name)
def test_every_name_can_stand_in_a_request(chip):
    request = parse_request(f"{chip.name}:8..64")
    assert parse_request(str(request)) == request
    assert CATALOG.accelerator(request.name) is chip


def test_servers_name_chips_of_the_catalogue():
    known = [server for server in CATALOG.servers if CATALOG.accelerator_table.find(server.accelerator)]
    assert len(known) >= 141  # the others carry chips of which no figures are published here
    names = {chip.name for chip in CATALOG.accelerators}
    assert {server.accelerator for server in known} <= names


def test_peaks_are_plausible():
    for chip in CATALOG.accelerators:
        assert chip.peak_flops, chip.name
        assert all(flops > 0 for flops in chip.peak_flops.values()), chip.name
        assert chip.memory_bandwidth > 0, chip.name


@pytest.fixture(scope="module")
def reference():
    folder = os.environ.get("MOFANG_REFERENCE_DATA")
    if not folder:
        pytest.skip("MOFANG_REFERENCE_DATA is not set: the reference measurements are not at hand")
    return Path(folder)


@pytest.mark.parametrize(
    ("file", "share_of_rows"), [("training_measurements.csv", 1.0), ("inference_measurements.csv", 0.99)]
)
def test_accelerators_of_the_reference_measurements_resolve(reference, file, share_of_rows):
    with (reference / file).open(encoding="utf-8", newline="") as rows:
        spellings = Counter(row["accelerator"] for row in csv.DictReader(rows))
    known = {name: times for name, times in spellings.items() if CATALOG.accelerator_table.find(name)}
    # What is left out: processors by their trade names, two mixed clusters, Jetson and the bare 310P.
    assert sum(known.values()) >= share_of_rows * sum(spellings.values()), sorted(set(spellings) - set(known))
