"""A storm of corruptions and torn writes over snapshots in memory and checkpoints on the disk.

    python benchmarks/corruption_storm.py --injections 1000 --seed 1 --json

A small state of two ranks is kept in both tiers, newest in memory: steps 10, 20, 30 on the disk, 40 and 50 in memory.
Each injection damages some of it, or kills a real process (SIGKILL) or fills the disk at one of its calls to the disk
while it saves; then two ranks recover. The state is a function of the step, so the checker knows every bit of what must
come back:

1. what comes back is, bit for bit, that of the step it is said to be;
2. it is the newest step of which nothing was damaged; after a kill, no older than the last save that returned;
3. what was damaged is noticed, and said.

Beside it the same kind of bit flips in files of ``torch.save`` and of torch's distributed checkpoints (DCP), read by
their own loaders. A bit that flips in a part of a file that nobody reads does no harm and is counted apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from _disk_faults import Calls, killed, no_space
from _storm_world import (
    CLOCK,
    LATER,
    RANKS,
    STEPS,
    World,
    newest_slot,
    recover,
    save_background,
    save_disk,
    save_memory,
    state_of,
    values,
)
from mofang.errors import CheckpointError
from mofang.recovery.checkpoint import files, parts
from mofang.recovery.checkpoint.complete import complete
from mofang.recovery.checkpoint.parts import Share
from mofang.recovery.snapshot.arena import Arena
from mofang.recovery.snapshot.layout import read_slot

KILLED_AFTER_S = 0.03
PAGE = 4096
RECORD_AT, RECORD_BYTES = (256, 512), 36  # in an arena's header
Stored = tuple[tuple[int, int, int], tuple[bytes, bytes, bytes, int]]

# Damage. Each function damages one file and returns whether anything is different now.


def flip(path: Path, dice: random.Random, _: World) -> bool:
    """Flip one bit."""
    at = dice.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << dice.randrange(8))]))
    return True


def truncate(path: Path, dice: random.Random, _: World) -> bool:
    """Cut a file off."""
    os.truncate(path, dice.randrange(path.stat().st_size))
    return True


def zero(path: Path, dice: random.Random, _: World) -> bool:
    """Zero one page."""
    data = path.read_bytes()
    at = dice.randrange(len(data)) // PAGE * PAGE
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(min(PAGE, len(data) - at)))
    return any(data[at : at + PAGE])


def missing(path: Path, _: random.Random, __: World) -> bool:
    """Remove a file."""
    path.unlink()
    return True


def swap(path: Path, dice: random.Random, _: World) -> bool:
    """Put another file of the same kind in its place: of another step, or of another rank."""
    kind = path.name.split("-")[0]
    others = [other for other in path.parent.parent.glob(f"*/{kind}*") if other != path]
    before = path.read_bytes()
    shutil.copyfile(dice.choice(sorted(others)), path)
    return path.read_bytes() != before


def grow(path: Path, dice: random.Random, _: World) -> bool:
    """Append what does not belong there."""
    with path.open("ab") as file:
        file.write(dice.randbytes(dice.randrange(1, PAGE)))
    return True


DAMAGES = {
    "bit flip": flip,
    "truncation": truncate,
    "zeroed page": zero,
    "missing file": missing,
    "swapped file": swap,
    "grown file": grow,
}


@dataclass
class Verdict:
    """What became of one injection."""

    kind: str
    wrong: bool = False  # a state that is not that of its step
    stale: bool = False  # not the newest good one
    unseen: bool = False  # nobody said anything
    harmless: bool = False  # nothing was different after all
    note: str = ""


@dataclass
class Tally:
    """All verdicts of one kind."""

    injections: int = 0
    wrong: int = 0
    stale: int = 0
    unseen: int = 0
    harmless: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        """Count one."""
        self.injections += 1
        for name in ("wrong", "stale", "unseen", "harmless"):
            setattr(self, name, getattr(self, name) + bool(getattr(verdict, name)))
        if verdict.wrong or verdict.stale or verdict.unseen:
            self.notes.append(verdict.note)

    @property
    def bad(self) -> int:
        """Injections that were not handled."""
        return self.wrong + self.stale + self.unseen


def judge(kind: str, world: World, expected: set[int], *, changed: bool = True, said: bool = False) -> Verdict:
    """Recover, and compare with what must come back."""
    found = recover(world)
    return Verdict(
        kind=kind,
        wrong=not found.right,
        stale=found.step not in expected,
        unseen=changed and not found.said and not said,
        harmless=not changed,
        note=f"{kind}: step {found.step} of {sorted(expected)}, {found.said[:2]}",
    )


def on_disk(world: World, dice: random.Random, damage: str) -> Verdict:
    """Damage shards or manifests of the newest step, or of the newest two, with nothing in memory."""
    shutil.rmtree(world.memory)
    world.memory.mkdir()
    hit = dice.choice([STEPS[-1:], STEPS[-2:]])
    changed = []
    for step in hit:
        path = dice.choice(sorted([*world.step(step).glob("shard-*"), world.step(step) / "manifest.json"]))
        changed.append(DAMAGES[damage](path, dice, world))
    good = [step for step in STEPS if not (step in hit and changed[hit.index(step)])]
    return judge(f"disk: {damage}", world, {good[-1]}, changed=good[-1] != STEPS[-1])


def on_pointer(world: World, dice: random.Random, damage: str) -> Verdict:
    """Damage ``latest``: the newest complete step must be found without it."""
    shutil.rmtree(world.memory)
    world.memory.mkdir()
    DAMAGES[damage](world.disk / "latest", dice, world)
    said = files.latest_checkpoint(world.disk) is None
    whole = files.latest_checkpoint(world.disk) == STEPS[-1]  # only its last line, the sum, is gone
    return judge(f"latest: {damage}", world, {STEPS[-1]}, changed=not whole, said=said)


def on_commit(world: World, dice: random.Random, damage: str) -> Verdict:
    """Damage a commit record or a shard's length before rank 0 completes the step."""
    kind = f"commit record: {damage}"
    draft = files.draft_dir(world.disk, 60, 7)
    draft.mkdir()
    for rank in range(RANKS):
        part = parts.from_image(_image(world, rank), Share())
        parts.commit(draft, parts.write_contribution(draft, part))
    changed = DAMAGES[damage](dice.choice(sorted(draft.glob("commit-*"))), dice, world)
    shutil.rmtree(world.memory)
    world.memory.mkdir()
    try:
        complete(world.disk, draft, step=LATER[-1], world_size=RANKS, scalars=state_of(0, LATER[-1]).scalars, keep=3)
    except CheckpointError:
        return judge(kind, world, {STEPS[-1]}, changed=changed, said=True)
    return judge(kind, world, {LATER[-1]}, changed=changed)


def _image(world: World, rank: int) -> Any:
    slot = newest_slot(world, rank)
    return read_slot(slot.arena.slot(slot.index)[: slot.record.length])


def _aim(path: Path, dice: random.Random) -> int:
    """Return a place in an arena that means something: mostly in a snapshot, now and then in the header."""
    held = [stored[0] for stored in _slots(path).values()]
    record, start, length = dice.choice(held)
    if dice.random() < 0.8:
        return start + dice.randrange(length)
    return dice.choice((dice.randrange(16), record + dice.randrange(RECORD_BYTES)))


def flip_used(path: Path, dice: random.Random, _: World) -> bool:
    """Flip one bit that means something."""
    with path.open("r+b") as file:
        at = _aim(path, dice)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << dice.randrange(8))]))
    return True


def zero_used(path: Path, dice: random.Random, _: World) -> bool:
    """Zero one page that means something."""
    with path.open("r+b") as file:
        file.seek(_aim(path, dice) // PAGE * PAGE)
        file.write(bytes(PAGE))
    return True


def swap_slots(path: Path, _: random.Random, __: World) -> bool:
    """Exchange what the two slots of an arena hold, but not their records."""
    arena = Arena.open(path)
    if arena is None:
        return False
    first, second = arena.slot(0), arena.slot(1)
    first[:], second[:] = bytes(second), bytes(first)
    return True


def swap_arenas(path: Path, _: random.Random, world: World) -> bool:
    """Put the other rank's arena in this one's place."""
    shutil.copyfile(world.arena(1 - int(path.name[-1])), path)
    return True


MEMORY_DAMAGES = {
    "bit flip": flip_used,
    "truncation": truncate,
    "zeroed page": zero_used,
    "missing file": missing,
    "swapped file": swap_arenas,
    "swapped slots": swap_slots,
}


def in_memory(world: World, dice: random.Random, damage: str) -> Verdict:
    """Damage an arena: where the newest slot is hit, the other one or the disk must serve."""
    path = world.arena(dice.randrange(RANKS))
    held = _slots(path)
    MEMORY_DAMAGES[damage](path, dice, world)
    good = [step for step, what in sorted(held.items()) if _slots(path, held).get(step) == what]
    expected = good[-1] if good else STEPS[-1]
    return judge(f"memory: {damage}", world, {expected}, changed=expected != LATER[-1], said=True)


def _slots(path: Path, known: dict[int, Stored] | None = None) -> dict[int, Stored]:
    """Return all that counts of each step in an arena: magic, record and bytes. What lies between them is of no use.

    Args:
        path: of the arena.
        known: where the steps lay before; None: as the arena says itself.
    """
    data = path.read_bytes() if path.exists() else b""
    if known is None:
        arena = Arena.open(path)
        if arena is None:
            raise RuntimeError("there is no arena")
        places = {
            record.step: (RECORD_AT[index], PAGE + index * arena.slot_bytes, record.length)
            for index, record in arena.records().items()
        }
    else:
        places = {step: stored[0] for step, stored in known.items()}
    return {
        step: (
            place,
            (data[:16], data[place[0] : place[0] + RECORD_BYTES], data[place[1] : place[1] + place[2]], len(data)),
        )
        for step, place in places.items()
    }


@contextlib.contextmanager
def child(action: Callable[[Callable[[int], None]], None]) -> Iterator[tuple[int, Callable[[], int]]]:
    """Run something in a process of its own; yields its id and what tells the last step it said was done."""
    board = mmap.mmap(-1, 8)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            action(lambda step: board.__setitem__(slice(0, 8), step.to_bytes(8, "little")))
        except BaseException:  # the end of a process that only its parent knows
            os._exit(1)
        os._exit(0)
    try:
        yield pid, lambda: int.from_bytes(board[:8], "little")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def killed_in_memory(world: World, dice: random.Random, _: str) -> Verdict:
    """Kill a process while it takes one snapshot after the other."""

    def snapshots(done: Callable[[int], None]) -> None:
        done(1)
        save_memory(world, tuple(range(60, 600, 10)), done)

    with child(snapshots) as (pid, told):
        while not told():
            CLOCK.sleep(0.0002)
        CLOCK.sleep(dice.random() * KILLED_AFTER_S)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        least = max(LATER[-1], told())
    return judge("memory: SIGKILL in a snapshot", world, {least, least + 10}, said=True)


def _torn_save(world: World, dice: random.Random, how: str, save: Callable[[int], None]) -> Verdict:
    """Kill, or fill the disk, at one call of a save; then recover from the disk alone, save again, recover again."""
    with Calls().installed() as counted:
        save(60)  # once more over a step that is there, as after a way back: no call is left out
    at = dice.randrange(1, counted.count + 1)
    least = 60
    if how.endswith("SIGKILL at a call"):

        def doomed(done: Callable[[int], None]) -> None:
            with Calls(at, killed).installed():
                save(70)
            done(70)

        with child(doomed) as (pid, told):
            os.waitpid(pid, 0)
            least = max(least, told())
    else:
        with Calls(at, no_space).installed(), contextlib.suppress(CheckpointError):
            save(70)
    shutil.rmtree(world.memory)
    world.memory.mkdir()
    verdict = judge(how, world, {least, 70}, said=True)
    save_disk(world, 80)
    after = judge(how, world, {80}, said=True)
    left = [path.name for path in world.disk.glob(".step*")]
    return replace(verdict if verdict.wrong or verdict.stale else after, unseen=bool(left), note=f"{after.note} {left}")


def torn_save(world: World, dice: random.Random, how: str) -> Verdict:
    """Tear a save in which all ranks wait for each other."""
    return _torn_save(world, dice, f"disk: {how}", lambda step: save_disk(world, step))


def torn_background(world: World, dice: random.Random, how: str) -> Verdict:
    """Tear a save in the background, from slots."""
    return _torn_save(world, dice, f"background: {how}", lambda step: save_background(world, step, []))


KINDS: list[tuple[Callable[[World, random.Random, str], Verdict], str]] = [
    *((on_disk, name) for name in DAMAGES),
    *((on_pointer, name) for name in ("bit flip", "truncation", "zeroed page", "missing file", "grown file")),
    *((on_commit, name) for name in DAMAGES),
    *((in_memory, name) for name in MEMORY_DAMAGES),
    (killed_in_memory, ""),
    *(
        (action, name)
        for action in (torn_save, torn_background)
        for name in ("SIGKILL at a call", "disk full at a call")
    ),
]


def storm(injections: int, seed: int, folder: Path) -> dict[str, Tally]:
    """Run the storm, every kind in turn; return what became of each kind."""
    template = World(folder / "template")
    template.memory.mkdir(parents=True)
    for step in STEPS:
        save_disk(template, step)
    save_memory(template, LATER)
    tallies: dict[str, Tally] = {}
    for number in range(injections):
        world = World(folder / "world")
        shutil.copytree(template.root, world.root)
        action, name = KINDS[number % len(KINDS)]
        verdict = action(world, random.Random(f"{seed}.{number}"), name)
        verdict.note = f"injection {number}: {verdict.note}"
        tallies.setdefault(verdict.kind, Tally()).add(verdict)
        shutil.rmtree(world.root)
    return tallies


# The baseline.


def baseline(flips: int, seed: int, folder: Path) -> dict[str, Counter[str]]:
    """Flip single bits in files of other formats, and load them with their own loaders."""
    state = {"matrix": values(10), "vector": values(20, rows=8)}
    folder.mkdir()
    torch.save(state, folder / "whole.pt")
    quiet(lambda: dcp.save(dict(state), checkpoint_id=folder / "dcp"))

    def load_torch(copy: Path) -> dict[str, torch.Tensor]:
        loaded: dict[str, torch.Tensor] = torch.load(copy / "whole.pt", weights_only=True)
        return loaded

    def load_dcp(copy: Path) -> dict[str, torch.Tensor]:
        blank = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        quiet(lambda: dcp.load(blank, checkpoint_id=copy / "dcp"))
        return blank

    dice = random.Random(f"{seed}.baseline")
    outcomes: dict[str, Counter[str]] = {}
    for name, pattern, load in (("torch.save", "whole.pt", load_torch), ("DCP", "dcp/*.distcp", load_dcp)):
        outcomes[name] = Counter()
        for _ in range(flips):
            copy = folder.with_name("copy")
            shutil.copytree(folder, copy)
            flip(dice.choice(sorted(copy.glob(pattern))), dice, World(copy))
            outcomes[name][_outcome(load, copy, state)] += 1
            shutil.rmtree(copy)
    return outcomes


def quiet(action: Callable[[], object]) -> None:
    """Do something without the warnings of a library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        action()


def _outcome(load: Callable[[Path], dict[str, torch.Tensor]], copy: Path, want: dict[str, torch.Tensor]) -> str:
    try:
        loaded = load(copy)
    except (Exception, CheckpointException):  # loaders raise what they like; DCP's is no Exception
        return "refused"
    same = loaded.keys() == want.keys() and all(torch.equal(loaded[name], tensor) for name, tensor in want.items())
    return "harmless" if same else "wrong, silently"


def main() -> None:
    """Run the storm, print the table, fail if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--injections", type=int, default=1000)
    parser.add_argument("--flips", type=int, default=200, help="of each baseline")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mofang-storm-") as folder:
        tallies = storm(options.injections, options.seed, Path(folder))
        others = baseline(options.flips, options.seed, Path(folder) / "baseline")
    seconds = time.monotonic() - started
    if options.json:
        rows = {kind: {**vars(tally), "bad": tally.bad} for kind, tally in tallies.items()}
        print(json.dumps({"kinds": rows, "baseline": others, "seconds": seconds, "seed": options.seed}))
    else:
        show(tallies, others, seconds)
    if any(tally.bad for tally in tallies.values()):
        raise SystemExit(1)


def show(tallies: dict[str, Tally], others: dict[str, Counter[str]], seconds: float) -> None:
    """Print the table."""
    print(f"{'kind':<44}{'injections':>11}{'no harm':>9}{'unseen':>8}{'stale':>7}{'wrong':>7}")
    total = Tally()
    for kind, tally in sorted(tallies.items()):
        print(f"{kind:<44}{tally.injections:>11}{tally.harmless:>9}{tally.unseen:>8}{tally.stale:>7}{tally.wrong:>7}")
        for name in ("injections", "harmless", "unseen", "stale", "wrong"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
        for note in tally.notes:
            print(f"    {note}")
    print(f"{'all':<44}{total.injections:>11}{total.harmless:>9}{total.unseen:>8}{total.stale:>7}{total.wrong:>7}")
    for name, counts in others.items():
        number = sum(counts.values())
        print(
            f"single bit flips, {name}: {number}, loaded wrong and unseen {counts['wrong, silently']}, "
            f"refused {counts['refused']}, harmless {counts['harmless']}"
        )
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()
