"""The columns of accelerators and servers, in the units people write, and how they become domain values in SI units.

``memory_gib`` is what a device reports, in GiB (a chip sold as 80 GB reports about 80 GiB); ``*_gb_per_s`` are 10^9
bytes a second, ``*_gbit_per_s_*`` 10^9 bits a second and one direction; peaks are dense 10^12 operations a second;
``both_ways`` counts the two directions of a link together.
"""

from __future__ import annotations

from typing import Any

from mofang.catalog.schema import Column, Schema, count, name, names, number, text
from mofang.catalog.table import Kind
from mofang.domain.hardware import Accelerator, Precision, Server
from mofang.errors import CatalogError

__all__ = ["ACCELERATORS", "SERVERS"]

_GB = 1e9  # bytes
_GBIT = 1e9 / 8  # bytes

_PEAKS = {
    Precision.FP64: "fp64_tflops",
    Precision.FP32: "fp32_tflops",
    Precision.TF32: "tf32_tflops",
    Precision.BF16: "bf16_tflops",
    Precision.FP16: "fp16_tflops",
    Precision.FP8: "fp8_tflops",
    Precision.INT8: "int8_tops",
    Precision.FP4: "fp4_tflops",
}


def _accelerator(row: dict[str, Any]) -> Accelerator:
    peaks = {
        precision: float(round(row[column] * 1e12)) for precision, column in _PEAKS.items() if row[column] is not None
    }
    if not peaks:
        raise CatalogError(f"accelerator {row['name']}: no peak is given", hint="give bf16_tflops, or another peak")
    if row["scaleup_both_ways_gb_per_s"] and not row["scaleup_domain"]:
        raise CatalogError(
            f"accelerator {row['name']}: scaleup_domain is missing",
            hint="how many chips does the scale-up link join? 8 in most servers",
        )
    return Accelerator(
        name=row["name"],
        vendor=row["vendor"],
        memory_bytes=round(row["memory_gib"] * 2**30),
        memory_type=row["memory_type"],
        memory_bandwidth=row["memory_bandwidth_gb_per_s"] * _GB,
        peak_flops=peaks,
        architecture=row["architecture"],
        year=row["year"],
        scaleup_link=row["scaleup_link"],
        scaleup_bandwidth=row["scaleup_both_ways_gb_per_s"] * _GB,
        scaleup_domain=row["scaleup_domain"] or 1,
        pcie_generation=row["pcie_gen"],
        pcie_bandwidth=row["pcie_both_ways_gb_per_s"] * _GB,
        tdp_w=row["tdp_w"],
        form_factor=row["form_factor"],
        aliases=row["aliases"],
        source=_source(row),
        notes=row["notes"],
    )


def _source(row: dict[str, Any]) -> str:
    unread = row["from_memory"]
    return f"{row['source']} (from memory: {unread})" if unread else str(row["source"])


def _server(row: dict[str, Any]) -> Server:
    if row["accelerators"] < 1:
        raise CatalogError(f"server {row['name']}: accelerators must be at least 1, not {row['accelerators']}")
    network, memory = row["network_gbit_per_s_per_accelerator"], row["host_memory_gb"]
    return Server(
        name=row["name"],
        vendor=row["vendor"],
        accelerator=row["accelerator"],
        num_accelerators=row["accelerators"],
        interconnect=row["interconnect"],
        nics="; ".join(part for part in (row["nics"], row["host_networking"]) if part),
        network_bandwidth=None if network is None else network * _GBIT,
        cpu=row["cpu"],
        num_cpus=row["cpus"],
        host_memory_bytes=None if memory is None else round(memory * _GB),
        power_w=row["power_w"],
        cooling=row["cooling"],
        rack_units=row["rack_u"],
        source=row["source"],
        notes=row["notes"],
    )


ACCELERATORS = Kind(
    word="accelerator",
    schema=Schema(
        Column("name", name, ...),
        Column("aliases", names, ()),
        Column("vendor", text, ""),
        Column("architecture", text, ""),
        Column("year", count),
        *(Column(column, number) for column in _PEAKS.values()),
        Column("memory_gib", number, ...),
        Column("memory_type", text, ""),
        Column("memory_bandwidth_gb_per_s", number, ...),
        Column("scaleup_link", text, ""),
        Column("scaleup_both_ways_gb_per_s", number, 0.0),
        Column("scaleup_domain", count),
        Column("pcie_gen", count),
        Column("pcie_both_ways_gb_per_s", number, 0.0),
        Column("tdp_w", number),
        Column("form_factor", text, ""),
        Column("source", text, ...),
        Column("from_memory", text, ""),
        Column("notes", text, ""),
    ),
    build=_accelerator,
)

SERVERS = Kind(
    word="server",
    schema=Schema(
        Column("name", name, ...),
        Column("aliases", names, ()),
        Column("vendor", text, ""),
        Column("accelerator", name, ...),
        Column("accelerators", count, ...),
        Column("interconnect", text, ""),
        Column("nics", text, ""),
        Column("host_networking", text, ""),
        Column("network_gbit_per_s_per_accelerator", number),
        Column("cpu", text, ""),
        Column("cpus", count),
        Column("host_memory_gb", number),
        Column("power_w", number),
        Column("cooling", text, ""),
        Column("rack_u", count),
        Column("source", text, ...),
        Column("notes", text, ""),
    ),
    build=_server,
)
