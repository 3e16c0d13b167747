"""How fast the search is, on one core, beside evaluating the same candidates one at a time.

Four figures. (1) Candidates a second, counting only those estimated in full (memory, time, goodput, energy, cost, ranks
and the Pareto front), in a search that leaves nothing out. (2) Llama 3.1 405B on 1,024 H100. (3) Llama 3.1 405B over
every accelerator of the catalogue and every number of devices up to 16,384. (4) Seeded problems on which the pruned
search must find what the whole one finds: plans, their order, and the front. The baseline calls the same functions for
one candidate at a time, on a sample of the same candidates.

The process is pinned to one core; times are those of its processor, and of the clock beside them. The first search of a
process also reads tables from disk: it is made once before, on another model.

    python benchmarks/matching_speed.py [--problems 200] [--seed 20261122] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from mofang.catalog.knowledge import Catalog
from mofang.catalog.pools import described_pool
from mofang.clock import seeded
from mofang.domain.hardware import CPU, Pool
from mofang.domain.plan import MatchResult
from mofang.domain.scenario import Goal, Pretrain, Scenario, TextData
from mofang.matching import match
from mofang.matching.evaluation import evaluate, fitting
from mofang.matching.options import Option
from mofang.matching.units import units_of
from mofang.matching.work import work_of
from mofang.units import DeviceRequest, Range

SEED = 20261122
AIMS = {"candidates_per_s": 2e6, "h100_s": 1.0, "catalogue_s": 10.0}
MODELS = ("llama-3-8b", "llama-2-13b", "llama-3-70b", "qwen3-30b-a3b", "gpt3-13b", "llama-3.2-1b")
CHIPS = ("H100", "A100", "H200", "MI300X", "910B2", "L40S", "GB200", "B200")

T = TypeVar("T")


@dataclass(frozen=True)
class Timed:
    """Seconds of the processor and of the clock."""

    cpu_s: float
    wall_s: float


def timed(call: Callable[[], T]) -> tuple[T, Timed]:
    """Return what a call returns, and how long it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = call()
    return found, Timed(time.process_time() - cpu, time.perf_counter() - wall)


def pretrain(catalog: Catalog, model: str, batch: int, sequence: int, goal: Goal = Goal.TIME) -> Scenario:
    """Return a scenario of pre-training."""
    task = Pretrain(
        model=catalog.model(model),
        data=TextData(paths=("text",)),
        sequence=sequence,
        global_batch=batch,
        steps=10_000,
    )
    return Scenario(name="benchmark", task=task, goal=goal)


def pool_of(catalog: Catalog, name: str, counts: Range, price: float | None = None) -> Pool:
    """Return a described pool."""
    return replace(described_pool(DeviceRequest(name, counts), catalog), price_per_device_hour=price)


def rate(catalog: Catalog, rounds: int) -> dict[str, float]:
    """Return candidates a second of a search that leaves nothing out, and of one at a time."""
    scenario = pretrain(catalog, "llama-3-8b", 5040, 4096)
    pool = pool_of(catalog, "H200", Range(8, 16384))
    best: tuple[MatchResult, Timed] | None = None
    for _ in range(rounds):
        found = timed(lambda: match(scenario, [pool], prune=False))
        best = found if best is None or found[1].cpu_s < best[1].cpu_s else best
    result, took = best
    return {
        "candidates": result.candidates,
        "estimated": result.estimated,
        "cpu_s": took.cpu_s,
        "wall_s": took.wall_s,
        "candidates_per_s": result.estimated / took.cpu_s,
        "one_at_a_time_per_s": one_at_a_time(scenario, pool),
    }


def one_at_a_time(scenario: Scenario, pool: Pool, count: int = 300) -> float:
    """Return candidates a second where each is evaluated by itself; tables of the model are warm, as above."""
    units, _ = units_of(scenario, work_of(scenario.task), Option(pool=pool, counts=pool.counts), first=0)
    unit = max(units, key=lambda one: len(one.space))
    numbers = np.linspace(0, len(unit.space) - 1, count).astype(np.int64)
    candidates = unit.space.pick(numbers)
    evaluate(unit, candidates)

    def every() -> None:
        for row in range(count):
            one = candidates.where(slice(row, row + 1))
            fitting(scenario, unit, one)
            evaluate(unit, one)

    _, took = timed(every)
    return count / took.cpu_s


def drawn(catalog: Catalog, seed: int) -> tuple[Scenario, list[Pool]]:
    """Return one problem: a model, a batch, a goal and two or three pools, the same for the same seed."""
    chance = seeded(seed)
    scenario = pretrain(
        catalog,
        chance.choice(MODELS),
        chance.choice((48, 64, 120, 256)),
        chance.choice((2048, 4096, 8192)),
        chance.choice(tuple(Goal)),
    )
    pools = [
        pool_of(
            catalog,
            name,
            Range(1, chance.choice((8, 16, 64, 128))),
            chance.choice((None, chance.uniform(0.5, 8.0))),
        )
        for name in chance.sample(CHIPS, chance.choice((2, 3)))
    ]
    return scenario, pools


def agreement(catalog: Catalog, problems: int, seed: int) -> dict[str, float]:
    """Return on how many problems the pruned search finds what the whole one finds, and how much it left out."""
    same = same_front = estimated = whole_estimated = 0
    for index in range(problems):
        scenario, pools = drawn(catalog, seed + index)
        pruned, whole = (match(scenario, pools, prune=prune) for prune in (True, False))
        same += pruned.plans == whole.plans
        same_front += pruned.front == whole.front
        estimated += pruned.estimated
        whole_estimated += whole.estimated
    return {
        "problems": problems,
        "seed": seed,
        "same_plans": same,
        "same_front": same_front,
        "estimated": estimated,
        "estimated_unpruned": whole_estimated,
    }


def summary(name: str, found: tuple[MatchResult, Timed]) -> dict[str, object]:
    """Return a search as a row."""
    result, took = found
    best = result.plans[0]
    return {
        "what": name,
        "cpu_s": took.cpu_s,
        "wall_s": took.wall_s,
        "candidates": result.candidates,
        "estimated": result.estimated,
        "front": len(result.front),
        "best": f"{best.placement.num_devices} x {best.placement.accelerator}, {best.strategy.framework}",
    }


def report(speed: dict[str, float], searches: list[dict[str, object]], agreed: dict[str, float]) -> None:
    """Print the tables."""
    one, base = speed["candidates_per_s"], speed["one_at_a_time_per_s"]
    print(f"{'':<44} {'per second':>12}")
    print(f"{'estimated in full, nothing left out':<44} {one:12,.0f}   aim {AIMS['candidates_per_s']:,.0f}")
    print(f"{'one at a time (baseline)':<44} {base:12,.0f}   {one / base:,.0f} times slower")
    print()
    print(f"{'search':<44} {'cpu':>8} {'wall':>8} {'candidates':>12} {'estimated':>10} {'front':>6}  best")
    for row in searches:
        print(
            f"{row['what']:<44} {row['cpu_s']:7.2f}s {row['wall_s']:7.2f}s {row['candidates']:12,} "
            f"{row['estimated']:10,} {row['front']:6}  {row['best']}"
        )
    print()
    print(
        f"pruned = whole search: plans on {agreed['same_plans']} of {agreed['problems']} problems, fronts on "
        f"{agreed['same_front']}; {agreed['estimated']:,} candidates estimated in place of "
        f"{agreed['estimated_unpruned']:,}"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200, help="seeded problems (default: 200)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the first problem (default: {SEED})")
    parser.add_argument("--rounds", type=int, default=3, help="of the rate; the fastest counts (default: 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    catalog = Catalog.load()
    match(pretrain(catalog, "llama-2-7b", 64, 2048), [pool_of(catalog, "A100", Range(8, 8))])
    large = pretrain(catalog, "llama-3.1-405b", 2048, 8192)
    every = [pool_of(catalog, chip.name, Range(1, 16384)) for chip in catalog.accelerators if chip.name != CPU]
    searches = [
        summary("405B on 1,024 H100", timed(lambda: match(large, [pool_of(catalog, "H100", Range(1024, 1024))]))),
        summary(f"405B, {len(every)} kinds of chips, 1 to 16,384", timed(lambda: match(large, every))),
    ]
    speed = rate(catalog, options.rounds)
    agreed = agreement(catalog, options.problems, options.seed)
    report(speed, searches, agreed)
    if options.json:
        print(json.dumps({"rate": speed, "searches": searches, "agreement": agreed, "aims": AIMS}))


if __name__ == "__main__":
    main()
