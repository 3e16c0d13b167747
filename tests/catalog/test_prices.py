"""Prices of chips: published ones with their sources, and the user's own over them."""

from __future__ import annotations

from datetime import date

import pytest

from mofang.catalog.knowledge import Catalog
from mofang.catalog.pools import described_pool
from mofang.errors import CatalogError
from mofang.units import parse_request

H100 = "NVIDIA H100-SXM-80GB"


@pytest.fixture
def write(tmp_path):
    """Write files of the user's prices, and return the catalogue with them."""

    def files(**texts: str) -> Catalog:
        (tmp_path / "prices").mkdir(exist_ok=True)
        for name, text in texts.items():
            (tmp_path / "prices" / f"{name}.csv").write_text(text)
        return Catalog.load(tmp_path)

    return files


def test_packaged_prices_have_a_date_and_a_source():
    prices = Catalog.load().prices
    assert prices.currency == "USD"
    assert len({offer.accelerator for offer in prices.offers}) >= 15
    for offer in prices.offers:
        assert "http" in offer.source, offer
        assert date(2025, 1, 1) <= date.fromisoformat(offer.date) <= date(2027, 1, 1)
        assert 0.05 < offer.price < 60, offer


def test_the_price_is_the_median_of_the_providers():
    price = Catalog.load().prices.price_of(H100)
    assert price is not None
    assert len(price.offers) >= 5
    asked = sorted(offer.price for offer in price.offers)
    assert asked[0] < price.per_hour < asked[-1]


def test_without_a_price_the_cost_is_unknown_never_zero():
    catalog = Catalog.load()
    assert catalog.prices.price_of("Huawei Ascend 910B3 64GB") is None
    assert described_pool(parse_request("910B:8"), catalog).price_per_device_hour is None
    assert described_pool(parse_request("cpu:8"), catalog).price_per_device_hour is None


def test_pools_carry_the_price():
    catalog = Catalog.load()
    pool = described_pool(parse_request("H100:8"), catalog)
    assert pool.price_per_device_hour == catalog.prices.per_hour(H100)


def test_the_users_own_price_replaces_the_published_ones(write):
    prices = write(mine="accelerator,price_per_device_hour,currency\nh100,1.25,usd\n").prices
    price = prices.price_of(H100)
    assert price is not None
    assert price.per_hour == 1.25
    assert [offer.provider for offer in price.offers] == ["own"]
    assert prices.per_hour("NVIDIA H200-SXM-141GB") == Catalog.load().prices.per_hour("NVIDIA H200-SXM-141GB")


def test_a_price_in_another_currency_needs_the_users_rate(write):
    catalog = write(
        mine="accelerator,price_per_device_hour,currency\n910B,10,CNY\nH100,2,USD\n",
        currencies="currency,in_usd,date,source\nCNY,0.14,2026-11-01,my bank\n",
    )
    assert catalog.prices.currency == "USD"
    assert catalog.prices.per_hour("Huawei Ascend 910B3 64GB") == pytest.approx(1.4)


def test_prices_that_are_all_in_one_other_currency_make_it_the_currency(write):
    prices = write(mine="accelerator,price_per_device_hour,currency\n910B,10,CNY\nH100,30,CNY\n").prices
    assert prices.currency == "CNY"
    assert prices.per_hour("Huawei Ascend 910B3 64GB") == 10
    assert prices.per_hour("NVIDIA B200-SXM-180GB") is None  # known in dollars only, and no rate is stated


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("H100,2,XAU", r"line 2, column currency: 'XAU' is not a currency that is known \(USD, EUR"),
        ("H100,0,USD", r"column price_per_device_hour: '0' is not above zero"),
        ("H100,-1,USD", r"column price_per_device_hour: '-1' is not a number"),
        ("H100,,USD", r"column price_per_device_hour: is required"),
        ("H1000,2,USD", r"column accelerator: there is no 'H1000'"),
        ("910B,10,CNY\nH100,2,EUR", r"line 2, column currency: CNY cannot be compared with USD: no rate is stated"),
    ],
)
def test_wrong_prices_are_one_clear_line(write, row, says):
    catalog = write(mine=f"accelerator,price_per_device_hour,currency\n{row}\n")
    with pytest.raises(CatalogError, match=says) as caught:
        _ = catalog.prices
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_wrong_date_is_named(write):
    catalog = write(mine="accelerator,price_per_device_hour,currency,date\nH100,2,USD,soon\n")
    with pytest.raises(CatalogError, match="'soon' is not a date like 2026-03-31"):
        _ = catalog.prices
