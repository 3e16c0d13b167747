"""``mofang catalog prices``: what an hour of each chip costs, and who says so."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from mofang.cli.output import emit, print_table

if TYPE_CHECKING:
    from mofang.catalog.knowledge import Catalog
    from mofang.catalog.prices import Price

__all__ = ["show"]


def show(args: argparse.Namespace, catalog: Catalog) -> None:
    """Print the price of every chip that has one.

    Raises:
        CatalogError: a price of the user is wrong.
    """
    known = catalog.prices
    found = [price for chip in catalog.accelerators if (price := known.price_of(chip.name)) is not None]
    if args.output != "table":
        emit([asdict(price) for price in found], args.output)
        return
    missing = len(catalog.accelerators) - len(found)
    print_table(
        ["ACCELERATOR", "AN HOUR", "FROM", "TO", "PROVIDERS", "READ"],
        [_cells(price) for price in found],
        title=f"{len(found)} prices in {known.currency} a device and hour, on demand: the median of the providers; "
        f"{missing} chips have none",
    )


def _cells(price: Price) -> list[str]:
    asked = [offer.price for offer in price.offers]
    providers = dict.fromkeys(offer.provider for offer in price.offers)
    dates = sorted(offer.date for offer in price.offers if offer.date)
    same = {offer.currency for offer in price.offers} == {price.currency}
    return [
        price.accelerator,
        f"{price.per_hour:.2f}",
        f"{min(asked):.2f}" if same else "-",
        f"{max(asked):.2f}" if same else "-",
        ", ".join(providers),
        f"{dates[0][:7]}..{dates[-1][:7]}"
        if dates and dates[0][:7] != dates[-1][:7]
        else "".join(dates[:1])[:7] or "-",
    ]
