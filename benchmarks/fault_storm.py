"""A storm of faults over one training job on several hosts.

    python benchmarks/fault_storm.py --faults 100 --seed 1 --json

The GPT recipe trains a tiny model on three hosts; a fourth is spare, and two are enough to go on. Hosts are namespaces
(network, processes, shared memory) where this process is root, else plain processes on loopback. Faults drawn by the
seed hit random hosts while it trains:

worker   a worker is killed                    hang   a worker is stopped for good
agent    an agent is killed                    slow   a worker gets half of the time for some seconds
node     a host loses power, comes back later  link   a host's cable is pulled and plugged in again

A minute-hand stands in for the controller: it starts agents that are dead again. At the end the job must have finished,
with the losses of an undisturbed run of the same configuration, and nothing of it may be left. Losses are compared bit
by bit up to the first step on another number of ranks; from there on they differ by the order of additions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _gpt_runs import write_text
from _hosts import Host, Hosts, can_make_hosts
from mofang.backends.local import LocalBackend
from mofang.clock import SystemClock
from mofang.domain.codec import encode
from mofang.domain.events import Event, EventKind
from mofang.domain.launch import LaunchSpec, NodeLaunch
from mofang.domain.model import ModelArchitecture
from mofang.domain.recipe import DeviceKind, GptConfig
from mofang.domain.scenario import Environment, Pretrain, RestartPolicy, TextData
from mofang.domain.strategy import Parallelism, Sharding, Strategy
from mofang.errors import MofangError
from mofang.recovery.agent.membership import Team, members, read_seats
from mofang.recovery.clear import living_agent
from mofang.recovery.processes import marked
from mofang.recovery.rundir import AttemptDir, read_number
from mofang.recovery.segments import segment_prefix
from mofang.recovery.spool import read_spool

ACTIVE, SPARE, LEAST = 3, 1, 2
STEPS_A_FAULT = (10, 40)
TAIL = 30  # steps after the last fault
AWAY_S = (2.0, 15.0)  # of a node without power
CUT_S = (0.5, 6.0)  # of a cable
SLOW_S = 3.0
PATIENCE_S = 120.0  # for the next step
TOLERANCE = 2e-3  # of a loss, relative, once the order of additions has changed
WEIGHTS = {"worker": 4, "agent": 4, "node": 3, "hang": 2, "slow": 2, "link": 3}


def configuration(folder: Path, steps: int, seed: int, sharding: Sharding) -> GptConfig:
    """Return a job of about 40 ms a step on three ranks that share two cores."""
    model = ModelArchitecture(
        name="storm", layers=2, hidden=128, heads=4, kv_heads=4, head_dim=32, ffn=344, vocab=257, max_sequence=128
    )
    task = Pretrain(
        model=model,
        data=TextData(paths=(str(write_text(folder, seed)),)),
        sequence=128,
        global_batch=12,
        steps=steps,
        checkpoint_every_steps=10,
        validate_every=0,
        sample_tokens=0,
        seed=seed,
    )
    cut = Strategy(parallelism=Parallelism(dp=ACTIVE), sharding=sharding, micro_batch=2, accumulation=2)
    return GptConfig(task=task, strategy=cut, steps=steps, device=DeviceKind.CPU)


def launch_of(name: str, folder: Path, config: GptConfig, hosts: list[Host]) -> LaunchSpec:
    """Return the attempt: one worker a host, the last host spare."""
    run_dir = folder / "runs" / name
    variables = {"GLOO_SOCKET_IFNAME": "eth0" if hosts[0].bridge else "lo", "OMP_NUM_THREADS": "1"}
    return LaunchSpec(
        job_id=name,
        attempt=1,
        fence=1,
        run_dir=str(run_dir),
        nodes=tuple(
            NodeLaunch(
                node=host.name,
                address=host.address,
                prefix=host.prefix,
                accelerator="cpu",
                device_indices=(0,),
                workers=1,
                domain=host.name,
                spare=index >= ACTIVE,
            )
            for index, host in enumerate(hosts)
        ),
        argv=(sys.executable, "-m", "mofang.recipes.gpt", "--config", str(run_dir / "attempt-0001" / "recipe.json")),
        env={"MOFANG_DATA_DIR": str(folder / "data")},
        files={"recipe.json": encode(config)},
        environment=Environment(variables=variables),
        restart=RestartPolicy(spare_nodes=SPARE, min_nodes=LEAST, hang_timeout_s=30.0, same_failure=5),
    )


@dataclass
class Job:
    """The attempt, its hosts, and a thread that starts dead agents again, as the controller does."""

    spec: LaunchSpec
    hosts: list[Host]
    backend: LocalBackend
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def directory(self) -> AttemptDir:
        """The files of the attempt."""
        return AttemptDir(Path(self.spec.attempt_dir))

    @property
    def ended(self) -> bool:
        """Whether the last word was written."""
        return self.directory.outcome.exists()

    def start(self) -> None:
        """Start the agents, and keep them alive."""
        self.backend.launch(self.spec)
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def _keep(self) -> None:
        while not self._over.wait(0.5) and not self.ended:
            dead = [node for node in range(len(self.hosts)) if not living_agent(self.directory, node)]
            if any(self.hosts[node].is_up for node in dead):
                with suppress(MofangError, OSError):
                    self.backend.launch(self.spec)

    def finish(self) -> None:
        """Keep them alive no longer."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def step(self) -> int:
        """Return the newest step that a heartbeat of the newest generation tells."""
        generation = read_number(self.directory.generation) or 0
        steps = [_beat(self.directory.heartbeat(rank, generation)) for rank in range(ACTIVE)]
        return max(steps)

    def nodes(self) -> tuple[int, ...]:
        """Return the nodes that take part."""
        generation = read_number(self.directory.generation) or 0
        return members(read_seats(self.directory, generation) or Team.of(self.spec).home)

    def worker(self, node: int) -> int | None:
        """Return the process of the worker on a node, as this machine numbers it."""
        taking_part = self.nodes()
        started = [event for event in self.events("agent-00") if event.kind is EventKind.GENERATION_STARTED]
        if node not in taking_part or not started:
            return None
        local = started[-1].data["pids"].get(str(taking_part.index(node)), 0)
        return self.hosts[node].processes().get(int(local))

    def agent(self, node: int) -> int | None:
        """Return the process of a node's agent, as this machine numbers it."""
        return self.hosts[node].processes().get(read_number(self.directory.agent_lock(node)) or 0)

    def events(self, source: str) -> list[Event]:
        """Return what one source reported."""
        return list(_spool(self.directory.path / "spool" / f"{source}.jsonl"))

    def left(self) -> list[str]:
        """Return what is still there of the job."""
        start = segment_prefix(self.spec.marker)
        shared = [name for host in self.hosts for name in host.segments(start)]
        return shared + [f"process {process.pid}" for process in marked(self.spec.marker)]


def _beat(path: Path) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(path.read_text().split()[0])
    return 0


def _spool(path: Path) -> Iterator[Event]:
    offset = 0
    while True:
        page = read_spool(path, offset)
        if page.offset == offset:
            return
        yield from page.events
        offset = page.offset


@dataclass
class Storm:
    """Injects faults, one after the other, each once training has gone on after the one before."""

    job: Job
    chance: random.Random
    injected: list[tuple[float, str, str]] = field(default_factory=list)  # time, kind, host
    _timers: list[threading.Timer] = field(default_factory=list)
    _away: dict[int, float] = field(default_factory=dict)  # nodes without power or cable, until when

    def run(self, count: int) -> None:
        """Inject so many faults, then wait until everything is mended."""
        for _ in range(count):
            if not self._progress(self.chance.randint(*STEPS_A_FAULT)):
                return
            self._inject()
        for timer in self._timers:
            timer.join()

    def _progress(self, steps: int) -> bool:
        """Wait until the newest generation has made some steps; return whether the job still runs."""
        done, since = self.job.step(), time.monotonic()
        goal = done + steps
        while not self.job.ended:
            step = self.job.step()
            if step >= goal or (step > done + STEPS_A_FAULT[0] // 2 and time.monotonic() - since > 20.0):
                return True
            if step < done:
                done, goal = step, step + steps  # a new generation counts from where it resumed
            if time.monotonic() - since > PATIENCE_S:
                sys.stderr.write(f"no step for {PATIENCE_S:.0f} s after {self.injected[-1:]}\n")
                return False
            time.sleep(0.02)
        return False

    def _inject(self) -> None:
        kind = self.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        hosts = self.job.hosts
        if not hosts[0].bridge and kind in {"node", "link"}:
            kind = "worker" if kind == "node" else "agent"
        now = time.monotonic()
        away = [node for node, until in self._away.items() if until > now]
        if kind in {"node", "link"} and len(away) > len(hosts) - LEAST - 1:
            kind = "worker"  # never fewer than are enough
        free = [node for node in range(len(hosts)) if node not in away]
        node = self.chance.choice([one for one in self.job.nodes() if one in free] or free)
        if kind in {"agent", "node", "link"}:
            node = self.chance.choice(free)  # spares too
        self.injected.append((time.time(), kind, hosts[node].name))
        getattr(self, f"_{kind}")(node)

    def _signal(self, pid: int | None, number: int) -> None:
        with suppress(OSError):
            if pid:
                os.kill(pid, number)

    def _worker(self, node: int) -> None:
        self._signal(self.job.worker(node), signal.SIGKILL)

    def _agent(self, node: int) -> None:
        self._signal(self.job.agent(node), signal.SIGKILL)

    def _hang(self, node: int) -> None:
        self._signal(self.job.worker(node), signal.SIGSTOP)

    def _slow(self, node: int) -> None:
        pid, end = self.job.worker(node), time.monotonic() + SLOW_S
        while time.monotonic() < end:
            self._signal(pid, signal.SIGSTOP)
            time.sleep(0.05)
            self._signal(pid, signal.SIGCONT)
            time.sleep(0.05)

    def _node(self, node: int) -> None:
        host, away_s = self.job.hosts[node], self.chance.uniform(*AWAY_S)
        self._away[node] = time.monotonic() + away_s + 3.0
        host.power_off()

        def back() -> None:
            host.link(up=True)
            host.boot()

        self._later(away_s, back)

    def _link(self, node: int) -> None:
        host, cut_s = self.job.hosts[node], self.chance.uniform(*CUT_S)
        self._away[node] = time.monotonic() + cut_s + 1.0
        host.link(up=False)
        self._later(cut_s, lambda: host.link(up=True))

    def _later(self, seconds: float, what: Any) -> None:
        timer = threading.Timer(seconds, what)
        timer.start()
        self._timers.append(timer)


@dataclass
class Story:
    """What the events of a job say."""

    steps: dict[int, list[Event]]  # by step, in the order of their generations
    ended: list[Event]
    workers: dict[int, int]  # generation -> ranks
    loaded: Counter[str]

    @classmethod
    def of(cls, job: Job) -> Story:
        """Return the story of a job."""
        agent = job.events("agent-00")
        steps: dict[int, list[Event]] = {}
        loaded: Counter[str] = Counter()
        for path in sorted(job.directory.path.glob("spool/r0000-g*.jsonl")):
            for event in _spool(path):
                if event.kind is EventKind.STEP:
                    steps.setdefault(int(event.data["step"]), []).append(event)
                elif event.kind is EventKind.CHECKPOINT_LOADED:
                    loaded[str(event.data.get("tier", "disk"))] += 1
        started = [event for event in agent if event.kind is EventKind.GENERATION_STARTED]
        return cls(
            steps=steps,
            ended=[event for event in agent if event.kind is EventKind.GENERATION_ENDED],
            workers={event.generation: int(event.data["workers"]) for event in started},
            loaded=loaded,
        )

    @property
    def losses(self) -> dict[int, float]:
        """The loss of every step, as last computed."""
        return {step: float(events[-1].data["loss"]) for step, events in self.steps.items()}

    @property
    def first_resized(self) -> int:
        """Return the first step that fewer ranks computed and that was kept."""
        resized = [step for step, events in self.steps.items() if self.workers.get(events[-1].generation) != ACTIVE]
        return min(resized, default=max(self.steps, default=0) + 1)


def compare(story: Story, calm: Story) -> dict[str, Any]:
    """Return how far the losses are from those of the undisturbed run."""
    here, there, first = story.losses, calm.losses, story.first_resized
    same = sum(here.get(step) == loss for step, loss in there.items() if step < first)
    far = [abs(here.get(step, math.inf) - loss) / abs(loss) for step, loss in there.items()]
    return {
        "steps": len(there),
        "first_step_on_fewer_ranks": first if first in here else None,
        "bit_equal_before": [same, sum(step < first for step in there)],
        "largest_relative_difference": max(far, default=math.inf),
        "final_loss": here.get(max(there)),
        "final_loss_undisturbed": there[max(there)],
    }


def account(story: Story, wall_s: float, faults: list[tuple[float, str, str]]) -> dict[str, Any]:
    """Return where the time went, and how long each kind of fault took until it was seen and until the next step."""
    kept = sum(float(events[-1].data["step_time_s"]) for events in story.steps.values())
    redone = sum(float(event.data["step_time_s"]) for events in story.steps.values() for event in events[:-1])
    done = sorted((event.time, event.generation) for events in story.steps.values() for event in events)
    seen_s, back_s = [], []
    for event in story.ended:
        if event.data["reason"] in {"completed", "resized"}:
            continue
        before = [at for at, _, _ in faults if at <= event.time]
        seen_s += [event.time - before[-1]] if before else []
        after = next((at for at, generation in done if generation > event.generation), None)
        back_s += [after - event.time] if after else []
    return {
        "wall_s": wall_s,
        "goodput": kept / wall_s,
        "redone": redone / wall_s,
        "rest": 1.0 - (kept + redone) / wall_s,
        "median_seen_s": _median(seen_s),
        "median_back_s": _median(back_s),
        "worst_back_s": max(back_s, default=math.nan),
    }


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else math.nan


def train(name: str, folder: Path, config: GptConfig, hosts: list[Host], *, faults: int) -> dict[str, Any]:
    """Run the job once, with so many faults; return what came of it."""
    job = Job(launch_of(name, folder, config, hosts), hosts, LocalBackend(folder, SystemClock(), hosts=()))
    began = time.time()
    weather = Storm(job, random.Random(config.task.seed))
    try:
        job.start()
        weather.run(faults)
        limit = time.monotonic() + PATIENCE_S + config.steps * 0.5
        while not job.ended and time.monotonic() < limit:
            time.sleep(0.05)
        wall = time.time() - began
        time.sleep(3.0)
    finally:
        job.finish()
        left = job.left()
        job.backend.clear(job.spec)
    outcome = json.loads(job.directory.outcome.read_text()) if job.ended else {"reason": "unfinished", "message": ""}
    return {"outcome": outcome, "left": left, "wall_s": wall, "story": Story.of(job), "injected": weather.injected}


def main() -> int:
    """Run both, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sharding", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--loopback", action="store_true", help="processes on loopback, even where hosts can be made")
    parser.add_argument("--keep", type=Path, help="leave the run directories here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    isolated = not options.loopback and can_make_hosts()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        steps = options.faults * sum(STEPS_A_FAULT) // 2 + TAIL
        config = configuration(folder, steps, options.seed, Sharding(options.sharding))
        with Hosts(ACTIVE + SPARE, folder, isolated) as hosts:
            calm = train("calm", folder, config, hosts[:ACTIVE], faults=0)
            wild = train("storm", folder, config, hosts, faults=options.faults)
    story: Story = wild["story"]
    restarts = Counter(str(event.data["reason"]) for event in story.ended if event.data["reason"] != "completed")
    found = {
        "hosts": "namespaces" if isolated else "loopback",
        "faults": dict(Counter(kind for _, kind, _ in wild["injected"])),
        "outcome": wild["outcome"],
        "left_behind": wild["left"],
        "restarts": dict(restarts),
        "loaded_from": dict(story.loaded),
        "losses": compare(story, calm["story"]),
        "time": account(story, wild["wall_s"], wild["injected"]),
        "undisturbed_wall_s": calm["wall_s"],
    }
    print(json.dumps(found, indent=None if options.json else 2))
    return 0 if passed(found, options.faults) else 1


def passed(found: dict[str, Any], faults: int) -> bool:
    """Whether the job finished, with all faults, the losses of the undisturbed run, and nothing left."""
    losses = found["losses"]
    same, of = losses["bit_equal_before"]
    return (
        found["outcome"]["reason"] == "completed"
        and sum(found["faults"].values()) == faults
        and not found["left_behind"]
        and same == of
        and losses["largest_relative_difference"] <= TOLERANCE
    )


if __name__ == "__main__":
    raise SystemExit(main())
