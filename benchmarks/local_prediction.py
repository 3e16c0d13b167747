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
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from mofang.clock import seeded
from mofang.domain.codec import encode, from_data
from mofang.domain.hardware import CPU, Accelerator, Link, Pool, Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.plan import Plan
from mofang.domain.rates import HostRates
from mofang.domain.recipe import DeviceKind, GptConfig
from mofang.domain.scenario import Pretrain, Scenario, StrategyChoice, TextData
from mofang.domain.strategy import Recompute, Sharding
from mofang.matching import match
from mofang.units import Range

SEED = 20261122
LAYERS = (1, 6)
HEADS = (2, 8)
HEAD_DIMS = (32, 64)
FFN_RATIOS = (2.0, 8 / 3, 4.0)
VOCABULARIES = (256, 1024, 4096, 16384)
SEQUENCES = (64, 128, 256, 512)
MICRO_BATCHES = (1, 2, 4, 8)
ACCUMULATIONS = (1, 2, 4)
LAYOUTS = ((1, 1), (1, 2), (2, 1))  # workers, threads
BF16_SHARE = 0.25
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
        hidden = heads * head_dim
        kv_heads = chance.choice([size for size in range(1, heads + 1) if heads % size == 0])
        sequence = chance.choice(SEQUENCES)
        model = ModelArchitecture(
            name="drawn",
            layers=chance.randint(*LAYERS),
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            ffn=int(hidden * chance.choice(FFN_RATIOS)) // 32 * 32,
            vocab=chance.choice(VOCABULARIES),
            head_dim=head_dim,
            max_sequence=sequence,
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
        if model.train_flops_per_token(sequence) * batch * sequence > MOST_FLOP[choice.precision]:
            continue
        task = Pretrain(
            model=model,
            data=TextData(paths=(str(data),)),
            sequence=sequence,
            global_batch=batch,
            steps=STEPS,
            strategy=choice,
            checkpoint_every_steps=0,
            validate_every=0,
            sample_tokens=0,
        )
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


def local_pool(rates: HostRates) -> Pool:
    """Return this machine's cores as matching sees them."""
    cores = int(rates.facts["cores"])
    cpu = Accelerator(name=CPU, vendor="", memory_bytes=0, memory_bandwidth=0.0, peak_flops={})
    link = Link(latency_s=0.0, bandwidth=1e9)
    return Pool(
        cluster="local",
        accelerator=cpu,
        devices_per_node=cores,
        counts=Range(1, cores),
        intra=link,
        inter=link,
        node_memory_bytes=int(rates.facts["memory_bytes"]),
        rates=rates,
    )


def predict(configuration: Configuration, pool: Pool) -> Plan:
    """Return the plan of a configuration, in which everything is fixed."""
    result = match(Scenario(name="benchmark", task=configuration.task), [pool], num_plans=1)
    if not result.plans:
        raise SystemExit(f"no plan: {result.rejections}")
    return result.plans[0]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def measure(configuration: Configuration, plan: Plan) -> list[float]:
    """Run the recipe and return the seconds of its steps after the warm-up."""
    task = replace(configuration.task, model=configuration.task.model)
    config = GptConfig(
        task=task,
        strategy=plan.strategy,
        steps=STEPS,
        peak_flops=plan.estimate.peak_flops,
        device=DeviceKind.CPU,
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in ("spool", "heartbeat"):
            Path(folder, name).mkdir()
        path = Path(folder, "recipe.json")
        path.write_text(encode(config))
        common = os.environ | {
            "WORLD_SIZE": str(plan.workers),
            "LOCAL_WORLD_SIZE": str(plan.workers),
            "NODE_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "OMP_NUM_THREADS": str(plan.strategy.threads),
            "MOFANG_JOB": "benchmark",
            "MOFANG_ATTEMPT": "1",
            "MOFANG_GENERATION": "1",
            "MOFANG_ATTEMPT_DIR": folder,
            "MOFANG_DATA_DIR": folder,
        }
        command = [sys.executable, "-m", "mofang.recipes.gpt", "--config", str(path)]
        workers = [
            subprocess.Popen(
                command,
                env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(plan.workers)
        ]
        errors = [worker.communicate(timeout=300)[1] for worker in workers]
        if any(worker.returncode for worker in workers):
            raise SystemExit(f"the recipe failed: {errors}")
        events = [json.loads(line) for line in Path(folder, "spool", "r0000-g0001.jsonl").read_text().splitlines()]
    times = [event["data"]["step_time_s"] for event in events if event["kind"] == "step"]
    return times[WARMUP:]


def describe(configuration: Configuration) -> str:
    """Return a configuration on one line."""
    model, choice = configuration.task.model, configuration.task.strategy
    sharding = choice.sharding.value if choice.sharding else "-"
    accumulation = configuration.task.global_batch // (choice.micro_batch * configuration.workers)
    return (
        f"L{model.layers} h{model.hidden} {model.heads}/{model.kv_heads} f{model.ffn} v{model.vocab} "
        f"s{configuration.task.sequence} mb{choice.micro_batch}x{accumulation} "
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
    pool = local_pool(rates)
    layouts = tuple(pair for pair in LAYOUTS if pair[0] * pair[1] <= pool.devices_per_node)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        text.write_bytes(bytes(seeded(options.seed).choices(range(97, 123), k=400_000)))
        print(f"probed in {rates.seconds:.0f} s; seed {options.seed}; {options.configs} configurations")
        print(f"{'configuration':<78} {'predicted':>10} {'measured':>10} {'error':>7} {'naive':>7} {'again':>7}")
        for index, configuration in enumerate(draw(options.seed, options.configs, text, layouts)):
            plan = predict(configuration, pool)
            estimate = plan.estimate
            times = measure(configuration, plan)
            measured = statistics.median(times)
            again = statistics.median(measure(configuration, plan)) if index < options.repeats else None
            task = configuration.task
            flops = task.model.train_flops_per_token(task.sequence) * task.global_batch * task.sequence
            naive = flops / (estimate.peak_flops * BASELINE_MFU)
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
