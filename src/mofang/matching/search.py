"""The search: options and frameworks -> spaces of candidates -> bounds -> blocks of estimates -> ranks -> plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mofang.domain.hardware import Pool
from mofang.domain.plan import MatchResult
from mofang.domain.reasons import Rejection
from mofang.domain.scenario import Command, Scenario, Serve
from mofang.errors import UsageError
from mofang.matching.answer import answer
from mofang.matching.commands import match_command
from mofang.matching.evaluation import Unit
from mofang.matching.experience import Experience
from mofang.matching.mixed_plans import goal_of, mixed_plan
from mofang.matching.mixtures import mixtures
from mofang.matching.options import Option, find_options
from mofang.matching.rejections import merge_rejections
from mofang.matching.sweep import Sweep
from mofang.matching.units import units_of
from mofang.matching.work import Work, work_of

__all__ = ["match"]

_DEPTH = 4  # times the plans to show are kept to choose from: the best are often near-twins


def match(
    scenario: Scenario,
    pools: Sequence[Pool],
    *,
    num_plans: int = 8,
    prune: bool = True,
    known: Experience | None = None,
) -> MatchResult:
    """Return the best plans of a scenario on these pools, and why the others are not among them.

    A pool of a cluster is used as ``scenario.resources`` says; a pool that is only described (without a cluster) stands
    for itself. The plans are frozen and ranked by the scenario's goal; ``duration_s`` becomes a number of steps by the
    predicted step time, kept in ``Plan.steps``. Checkpoint intervals in seconds are left to the launcher, which has the
    same estimate. No plan at all is a result too: then ``rejections`` says why.

    Args:
        scenario: what is wanted.
        pools: the hardware.
        num_plans: how many plans to return at most; the front may hold others.
        prune: leave out candidates that cannot be among the plans or on the front. The plans are the same without.
        known: what the user's own measurements add to the packaged ones.

    Raises:
        UsageError: ``num_plans`` is less than one.
    """
    if num_plans < 1:
        raise UsageError(f"num_plans must be at least 1, not {num_plans}", hint="ask for one plan or more")
    task = scenario.task
    if isinstance(task, Serve):
        from mofang.matching.serving import match_service  # noqa: PLC0415 - its tables only where a service is planned

        return match_service(scenario, pools, num_plans, known=known)
    options, rejections = find_options(scenario, pools, known)
    if isinstance(task, Command):
        return match_command(scenario, task, options, rejections, num_plans=num_plans)
    return _match_training(scenario, work_of(task), options, rejections, num_plans=num_plans, prune=prune)


def _match_training(
    scenario: Scenario,
    work: Work,
    options: Sequence[Option],
    rejections: list[Rejection],
    *,
    num_plans: int,
    prune: bool,
) -> MatchResult:
    units: list[Unit] = []
    for option in options:
        found, refused = units_of(scenario, work, option, first=len(units))
        units += found
        rejections += refused
    sweep = Sweep(scenario=scenario, units=units, num_plans=_DEPTH * num_plans, prune=prune)
    sweep.run()
    result = answer(scenario, work, sweep, num_plans)
    result = _with_mixture(scenario, work, options, result, num_plans)
    rows = merge_rejections([*rejections, *result.rejections])
    count = sum(rejection.candidates for rejection in rejections)
    return replace(result, rejections=tuple(rows), candidates=result.candidates + count)


def _with_mixture(
    scenario: Scenario, work: Work, options: Sequence[Option], result: MatchResult, num_plans: int
) -> MatchResult:
    """Put the best mixture of two kinds of chips last, if it beats every plan on one kind: nothing starts it yet."""
    if scenario.resources.ordered:
        return result
    limits, best = scenario.limits, result.plans[0] if result.plans else None
    for mixture in mixtures(scenario, work, options):
        plan = mixed_plan(scenario, work, mixture)
        late = (
            limits.deadline_s is not None
            and plan.estimate is not None
            and plan.estimate.total_time_s > limits.deadline_s
        )
        dear = limits.budget is not None and (plan.estimate is None or (plan.estimate.cost or 0.0) > limits.budget)
        if not (late or dear) and (best is None or goal_of(scenario.goal, plan) < goal_of(scenario.goal, best)):
            best = plan
    if best is None or not best.parts:
        return result
    if result.plans and num_plans == 1:
        return result
    return replace(result, plans=(*result.plans[: num_plans - 1], best))
