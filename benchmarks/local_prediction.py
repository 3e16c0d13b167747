"""Predicted against measured step time on configurations that nothing was fitted to, on this machine.

Configurations are drawn from a published seed over the ranges below. The host is probed, every configuration is
predicted from the probe alone, then run by the GPT recipe; the error is that of the median step time. Some are run
twice, which shows how much two runs of the same thing differ. The baseline is what one would do without a model: peak
FLOP/s x a constant MFU.

    python benchmarks/local_prediction.py --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from _gpt_runs import (
    BF16_SHARE,
    HEAD_DIMS,
    bare_task,
    cores_pool,
    describe_model,
    divisors,
    draw_model,
    start_workers,
    step_flops,
    write_text,
)
from mofang.clock import seeded
from mofang.domain.codec import from_data
from mofang.domain.hardware import Pool, Precision
from mofang.domain.plan import Plan
from mofang.domain.rates import HostRates
from mofang.domain.recipe import DeviceKind, GptConfig
from mofang.domain.scenario import Pretrain, Scenario, StrategyChoice
from mofang.domain.strategy import Recompute, Sharding
from mofang.matching import match

SEED = 20261122
LAYERS = (1, 6)
HEADS = (2, 8)
VOCABULARIES = (256, 1024, 4096, 16384)
SEQUENCES = (64, 128, 256, 512)
MICRO_BATCHES = (1, 2, 4, 8)
ACCUMULATIONS = (1, 2, 4)
LAYOUTS = ((1, 1), (1, 2), (2, 1))  # workers, threads
# Redrawn beyond this work in a step, so that the whole benchmark takes minutes.
MOST_FLOP = {Precision.FP32: 60e9, Precision.BF16: 1.5e9}
STEPS, WARMUP = 9, 3
BASELINE_MFU = 0.5


@dataclass(frozen=True)
class Configuration:
    """One thing to predict and to run."""

    task: Pretrain
    workers: int
    threads: int


def draw(seed: int, count: int, data: Path, layouts: tuple[tuple[int, int], ...]) -> list[Configuration]:
    """Return ``count`` configurations, the same for the same seed."""
    chance = seeded(seed)
    found: list[Configuration] = []
    while len(found) < count:
        heads, head_dim = chance.randint(*HEADS), chance.choice(HEAD_DIMS)
        kv_heads, sequence = chance.choice(divisors(heads)), chance.choice(SEQUENCES)
        model = draw_model(
            chance,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            sequence=sequence,
            layers=LAYERS,
            vocabularies=VOCABULARIES,
        )
        workers, threads = chance.choice(layouts)
        micro_batch, accumulation = chance.choice(MICRO_BATCHES), chance.choice(ACCUMULATIONS)
        choice = StrategyChoice(
            workers=workers,
            threads=threads,
            sharding=chance.choice((Sharding.DDP, Sharding.FSDP)) if workers > 1 else None,
            precision=Precision.BF16 if chance.random() < BF16_SHARE else Precision.FP32,
            recompute=chance.choice((Recompute.NONE, Recompute.FULL)),
            micro_batch=micro_batch,
        )
        batch = micro_batch * accumulation * workers
        task = bare_task(model, data, global_batch=batch, steps=STEPS, strategy=choice)
        if step_flops(task) <= MOST_FLOP[choice.precision]:
            found.append(Configuration(task, workers, threads))
    return found


def probe() -> HostRates:
    """Probe this host as `mofang doctor` does."""
    command = [sys.executable, "-m", "mofang.backends.local.probe"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            values = json.loads(line)
            if sys.stderr.isatty():
                print(f"\rprobe {values['progress']:4.0%}  {values['what']:<50}", end="", file=sys.stderr, flush=True)
            if "rates" in values:
                return from_data(HostRates, values["rates"])
    raise SystemExit("the probe failed")


def predict(configuration: Configuration, pool: Pool) -> Plan:
    """Return the plan of a configuration, in which everything is fixed."""
    result = match(Scenario(name="benchmark", task=configuration.task), [pool], num_plans=1)
    if not result.plans:
        raise SystemExit(f"no plan: {result.rejections}")
    return result.plans[0]


def measure(configuration: Configuration, plan: Plan) -> list[float]:
    """Run the recipe and return the seconds of its steps after the warm-up."""
    config = GptConfig(
        task=configuration.task,
        strategy=plan.strategy,
        steps=STEPS,
        peak_flops=plan.estimate.peak_flops,
        device=DeviceKind.CPU,
    )
    with tempfile.TemporaryDirectory() as folder:
        workers = start_workers(config, Path(folder))
        errors = [worker.communicate(timeout=300)[1] for worker in workers]
        if any(worker.returncode for worker in workers):
            raise SystemExit(f"the recipe failed: {errors}")
        events = [json.loads(line) for line in Path(folder, "spool", "r0000-g0001.jsonl").read_text().splitlines()]
    times = [event["data"]["step_time_s"] for event in events if event["kind"] == "step"]
    return times[WARMUP:]


def describe(configuration: Configuration) -> str:
    """Return a configuration on one line."""
    choice = configuration.task.strategy
    sharding = choice.sharding.value if choice.sharding else "-"
    accumulation = configuration.task.global_batch // (choice.micro_batch * configuration.workers)
    return (
        f"{describe_model(configuration.task.model)} mb{choice.micro_batch}x{accumulation} "
        f"{configuration.workers}x{configuration.threads} {sharding} {choice.precision.value} {choice.recompute.value}"
    )


def _error(predicted: float, measured: float) -> float:
    return abs(predicted - measured) / measured


def _quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=int, default=24, help="how many configurations (default: 24)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the draw (default: {SEED})")
    parser.add_argument("--repeats", type=int, default=6, help="how many of them to run twice (default: 6)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    rates = probe()
    pool = cores_pool(rates, cores=int(rates.facts["cores"]), memory_bytes=int(rates.facts["memory_bytes"]))
    layouts = tuple(pair for pair in LAYOUTS if pair[0] * pair[1] <= pool.devices_per_node)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        text = write_text(Path(folder), options.seed)
        print(f"probed in {rates.seconds:.0f} s; seed {options.seed}; {options.configs} configurations")
        print(f"{'configuration':<78} {'predicted':>10} {'measured':>10} {'error':>7} {'naive':>7} {'again':>7}")
        for index, configuration in enumerate(draw(options.seed, options.configs, text, layouts)):
            plan = predict(configuration, pool)
            estimate = plan.estimate
            times = measure(configuration, plan)
            measured = statistics.median(times)
            again = statistics.median(measure(configuration, plan)) if index < options.repeats else None
            naive = step_flops(configuration.task) / (estimate.peak_flops * BASELINE_MFU)
            row = {
                "configuration": describe(configuration),
                "predicted_s": estimate.step_time_s,
                "measured_s": measured,
                "fastest_s": min(times),
                "error": _error(estimate.step_time_s, measured),
                "baseline_error": _error(naive, measured),
                "noise": None if again is None else _error(again, measured),
                "in_interval": estimate.step_time_90.low <= measured <= estimate.step_time_90.high,
                "parts_s": dict(estimate.time),
            }
            rows.append(row)
            noise = "" if row["noise"] is None else f"{row['noise']:7.1%}"
            print(
                f"{row['configuration']:<78} {row['predicted_s'] * 1e3:8.1f}ms {measured * 1e3:8.1f}ms "
                f"{row['error']:7.1%} {row['baseline_error']:7.1%} {noise}",
                flush=True,
            )
    errors = [row["error"] for row in rows]
    noises = [row["noise"] for row in rows if row["noise"] is not None]
    result = {
        "median_ape": statistics.median(errors),
        "p90_ape": _quantile(errors, 0.9),
        "noise_median": statistics.median(noises) if noises else None,
        "baseline_median_ape": statistics.median(row["baseline_error"] for row in rows),
        "interval_coverage": sum(row["in_interval"] for row in rows) / len(rows),
        "bias": statistics.median(row["predicted_s"] / row["measured_s"] for row in rows) - 1.0,
        "seed": options.seed,
        "probe_s": rates.seconds,
        "configs": rows,
    }
    print(
        f"median error {result['median_ape']:.1%}, p90 {result['p90_ape']:.1%}, bias {result['bias']:+.1%}, "
        f"in the 90 % interval {result['interval_coverage']:.0%}; baseline (peak x {BASELINE_MFU:.0%}) "
        f"{result['baseline_median_ape']:.1%}; repeat-run noise "
        + ("not measured" if not noises else f"{result['noise_median']:.1%}")
    )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
