"""What an hour of a chip costs: published list prices, and the user's own in their place.

One comparison has one currency. It is the US dollar of the packaged list, or, where the user's own prices are all in
one other currency and he states no rate, that currency; then the packaged prices say nothing. A price in a further
currency needs a rate of the user's (``prices/currencies.csv``): none is assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from mofang.catalog.rows import Row, read_rows
from mofang.catalog.schema import Column, Schema, name, number, text
from mofang.catalog.table import DATA

if TYPE_CHECKING:
    from mofang.catalog.table import Table
    from mofang.domain.hardware import Accelerator

__all__ = ["CURRENCIES", "Offer", "Price", "Prices", "load_prices"]

CURRENCIES = ("USD", "EUR", "CNY", "GBP", "JPY", "KRW", "INR", "CHF", "CAD", "AUD", "SGD")
_PACKAGED = "USD"
_RATES = "currencies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one provider asks for an hour of one chip, on demand."""

    accelerator: str
    provider: str
    instance: str
    price: float  # per device-hour
    currency: str
    date: str  # when the price was read
    source: str
    notes: str = ""
    own: bool = False  # the user's


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a device-hour of a chip is taken to cost: the median of the providers' offers, or the user's own."""

    accelerator: str
    per_hour: float
    currency: str
    offers: tuple[Offer, ...]


class Prices:
    """Prices by chip, in one currency.

    Args:
        offers: in the order in which they were read.
        rates: what one unit of a currency is worth in ``currency``.
        currency: of every answer.
    """

    def __init__(self, offers: Iterable[Offer], rates: Mapping[str, float], currency: str) -> None:
        self.currency = currency
        self.offers = tuple(offers)
        self._rates = {**rates, currency: 1.0}

    def price_of(self, accelerator: str) -> Price | None:
        """Return the price of the chip of this name in the catalogue; None where none is known, never zero.

        Each provider counts once, with the median of its offers; the user's own offers replace all others.
        """
        offers = [offer for offer in self.offers if offer.accelerator == accelerator and offer.currency in self._rates]
        offers = [offer for offer in offers if offer.own] or offers
        if not offers:
            return None
        providers: dict[str, list[float]] = {}
        for offer in offers:
            providers.setdefault(offer.provider, []).append(offer.price * self._rates[offer.currency])
        return Price(
            accelerator=accelerator,
            per_hour=median(median(prices) for prices in providers.values()),
            currency=self.currency,
            offers=tuple(offers),
        )

    def per_hour(self, accelerator: str) -> float | None:
        """Return the price of a device-hour in ``currency``, or None."""
        found = self.price_of(accelerator)
        return None if found is None else found.per_hour


def load_prices(user_dir: Path | None, accelerators: Table[Accelerator]) -> Prices:
    """Return the packaged prices with the user's in ``user_dir``/prices/ over them.

    Raises:
        CatalogError: a row is wrong, names an unknown chip or currency, or has a currency without a rate; it says
            file, line, column and why.
    """
    rates: dict[str, float] = {}
    rows: list[Row] = []
    for file in _user_files(user_dir):
        if file.stem == _RATES:
            rates |= _read_rates(file)
        else:
            rows += read_rows(file)
    own = [_offer(row, accelerators, own=True) for row in rows]
    currency = _currency(own, rates)
    _check_rates(zip(rows, own, strict=True), rates, currency)
    return Prices([*_packaged(accelerators), *own], rates, currency)


def _user_files(user_dir: Path | None) -> Sequence[Path]:
    folder = None if user_dir is None else user_dir / "prices"
    if folder is None or not folder.is_dir():
        return ()
    known = {".csv", ".yaml", ".yml"}
    return sorted(file for file in folder.iterdir() if file.suffix in known and not file.name.startswith("."))


def _packaged(accelerators: Table[Accelerator]) -> list[Offer]:
    return [_offer(row, accelerators) for row in _packaged_rows()]


@cache
def _packaged_rows() -> tuple[Row, ...]:
    return tuple(read_rows(DATA / "prices.csv"))


def _offer(row: Row, accelerators: Table[Accelerator], *, own: bool = False) -> Offer:
    values: dict[str, Any] = _OFFERS.read(row)
    chip = accelerators.find(values["accelerator"])
    if chip is None:
        raise row.error(
            "accelerator", f"there is no {values['accelerator']!r}", accelerators.hint(values["accelerator"])
        )
    return Offer(
        accelerator=chip.name,
        provider=values["provider"],
        instance=values["instance"],
        price=values["price_per_device_hour"],
        currency=values["currency"],
        date=values["date"],
        source=values["source"],
        notes=values["notes"],
        own=own,
    )


def _currency(own: Sequence[Offer], rates: Mapping[str, float]) -> str:
    written = {offer.currency for offer in own}
    return next(iter(written)) if len(written) == 1 and not rates else _PACKAGED


def _check_rates(own: Iterable[tuple[Row, Offer]], rates: Mapping[str, float], currency: str) -> None:
    for row, offer in own:
        if offer.currency != currency and offer.currency not in rates:
            raise row.error(
                "currency",
                f"{offer.currency} cannot be compared with {currency}: no rate is stated",
                hint=f"state it in prices/{_RATES}.csv (currency,in_usd,date,source), or give all your prices in one",
            )


def _read_rates(file: Path) -> dict[str, float]:
    found = {}
    for row in read_rows(file):
        values = _RATE.read(row)
        found[values["currency"]] = values["in_usd"]
    return found


def _above_zero(written: str) -> float:
    value = number(written)
    if value == 0:
        raise ValueError("above zero; where it is unknown, leave the row out")
    return value


def _code(written: str) -> str:
    code = written.upper()
    if code not in CURRENCIES:
        raise ValueError(f"a currency that is known ({', '.join(CURRENCIES)})")
    return code


def _day(written: str) -> str:
    try:
        return date.fromisoformat(written).isoformat()
    except ValueError:
        raise ValueError("a date like 2026-03-31") from None


_OFFERS = Schema(
    Column("accelerator", name, ...),
    Column("provider", text, "own"),
    Column("instance", text, ""),
    Column("price_per_device_hour", _above_zero, ...),
    Column("currency", _code, ...),
    Column("date", _day, ""),
    Column("source", text, ""),
    Column("notes", text, ""),
)
_RATE = Schema(
    Column("currency", _code, ...),
    Column("in_usd", _above_zero, ...),
    Column("date", _day, ""),
    Column("source", text, ""),
)
