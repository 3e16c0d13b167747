"""What is done about a loss that goes wrong and about weights that differ between ranks: when to go back, how far."""

from __future__ import annotations

from dataclasses import dataclass, field

from mofang.domain.events import EventKind
from mofang.domain.scenario import LossPolicy, OnTrouble
from mofang.errors import JobFailedError, NotFiniteError, SilentCorruptionError
from mofang.recipes.training.compare import Comparison
from mofang.recipes.training.reporter import Reporter
from mofang.recovery.guard import Guard, Skips, Trouble, TroubleKind, steps_back

__all__ = ["Back", "Watch"]

_HINT = "lower the learning rate, or look at the data of the steps before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Back:
    """Go back to a state of at most ``at_most`` steps, and leave out the data of ``count`` steps up to ``step``."""

    step: int
    at_most: int
    count: int
    why: str


@dataclass(slots=True, kw_only=True)
class Watch:
    """Judges the steps of one generation; every rank comes to the same verdict."""

    policy: LossPolicy
    reporter: Reporter
    comparison: Comparison
    rank: int
    skips: Skips = field(default_factory=Skips)
    _guard: Guard = field(default_factory=Guard)
    _backs: int = 0
    _corrupt_before: bool = False

    def begin(self, step: int) -> None:
        """Take in that training goes on from the state of a step."""
        self._guard.forget()
        self.comparison.begin(step)

    def loss(self, done: int, loss: float, norm: float) -> Back | None:
        """Judge a step by its loss and gradient norm, both alike on every rank; return how far to go back, if at all.

        Args:
            done: steps before it.
            loss: of the step.
            norm: of its gradient.

        Raises:
            NotFiniteError: there is no going on, and none back.
        """
        trouble = self._guard.judge(done + 1, loss, norm)
        if trouble is None:
            return None
        spike = trouble.kind is TroubleKind.SPIKE
        if spike:
            self.reporter.tell(
                EventKind.LOSS_SPIKE, step=done + 1, loss=loss, grad_norm=norm, score=trouble.score,
                message=trouble.message,
            )  # fmt: skip
        wanted = self.policy.on_spike if spike else self.policy.on_not_finite
        if wanted is OnTrouble.STOP or (not spike and wanted is OnTrouble.REPORT):
            raise NotFiniteError(trouble.message, hint=_HINT)
        return self._back(done, trouble) if wanted is OnTrouble.ROLL_BACK else None

    def _back(self, done: int, trouble: Trouble) -> Back | None:
        self._backs += 1
        if self._backs > self.policy.roll_backs:
            if trouble.kind is TroubleKind.SPIKE:
                return None  # it can be lived with
            times = f", after going back {self.policy.roll_backs} times" if self.policy.roll_backs else ""
            raise NotFiniteError(f"{trouble.message}{times}", hint=_HINT)
        count = min(steps_back(self._backs), done + 1)
        return Back(step=done, at_most=done + 1 - count, count=count, why=trouble.message)

    def weights(self, done: int) -> Back | None:
        """Compare the weights after so many steps; return how far to go back where ranks differ. Collective.

        Raises:
            SilentCorruptionError: they differ again, on the ranks that have other weights than most.
            JobFailedError: they differ again, on the others.
        """
        odd = self.comparison.look(done)
        if not odd:
            return None
        ranks = ", ".join(map(str, odd))
        why = f"the weights of rank {ranks} differ from the others' after step {done}"
        if len(odd) == self.comparison.worker.world_size:
            why = f"the ranks hold different weights after step {done}"
        self.reporter.tell(EventKind.CORRUPTION_DETECTED, step=done, ranks=odd, what="weights")
        if not self._corrupt_before:
            self._corrupt_before = True
            return Back(step=done, at_most=self.comparison.good, count=0, why=why)
        if self.rank in odd:
            raise SilentCorruptionError(f"{why}, again", hint="have the memory and the device of its node tested")
        raise JobFailedError(f"rank {ranks} failed: {why}, again")
