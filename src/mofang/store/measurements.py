"""What was measured: the rates of hosts, and the step times of finished jobs beside their predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.sqlite import insert

from mofang.domain.codec import decode, encode
from mofang.domain.rates import HostRates
from mofang.store.tables import host_rates, measurements, plain_rows
from mofang.store.writer import one_by_one

__all__ = ["add", "all_rates", "newest", "record_rates", "rows"]

_rates = insert(host_rates)
_KEEP_RATES = _rates.on_conflict_do_update(
    index_elements=["host"], set_={"measured_at": _rates.excluded.measured_at, "rates": _rates.excluded.rates}
)


@one_by_one
def record_rates(connection: Connection, rates: HostRates) -> None:
    """Keep a host's newest rates."""
    values = {"host": rates.host, "measured_at": rates.measured_at, "rates": encode(rates)}
    connection.execute(_KEEP_RATES, values)


def all_rates(connection: Connection) -> dict[str, HostRates]:
    """Return the rates of every host that was probed, by its name."""
    return {row.host: decode(HostRates, row.rates) for row in connection.execute(select(host_rates))}


def add(connection: Connection, row: Mapping[str, Any]) -> None:
    """Keep a finished job's measurement; a second one of the same job is dropped."""
    connection.execute(insert(measurements).on_conflict_do_nothing(), dict(row))


def rows(connection: Connection, most: int | None = None) -> list[dict[str, Any]]:
    """Return every measurement, or the newest ``most``, oldest first.

    Scenario, strategy, placement and nodes are JSON text.
    """
    found = plain_rows(connection.execute(select(measurements).order_by(measurements.c.id.desc()).limit(most)))
    return found[::-1]


def newest(connection: Connection) -> int | None:
    """Return the number of the newest measurement; None where there is none."""
    return connection.execute(select(func.max(measurements.c.id))).scalar()
