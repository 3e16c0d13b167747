"""Which frameworks a training task may be planned for on a pool, and why not the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from mofang.catalog.frameworks import Framework, frameworks
from mofang.domain.hardware import Pool
from mofang.domain.model import Attention, ModelArchitecture
from mofang.domain.reasons import Reason, Rejection
from mofang.domain.strategy import Sharding
from mofang.matching.options import Option
from mofang.matching.work import Work

__all__ = ["LOCAL", "choose_frameworks", "is_recipe", "model_kind"]

_NO_LAUNCHER = "has no launcher"
LOCAL = "local"  # the cluster of the hosts that run Mofang itself, where nothing but its own recipes is installed


def is_recipe(framework: Framework) -> bool:
    """Whether it is one of Mofang's own programs, which run on any device."""
    return framework.recipe


def model_kind(model: ModelArchitecture) -> str:
    """Return what a framework must know to build the model: dense, moe or mla."""
    if model.attention is Attention.LATENT:
        return "mla"
    return "dense" if model.moe is None else "moe"


def choose_frameworks(work: Work, kind: str, option: Option) -> tuple[tuple[Framework, ...], list[Rejection]]:
    """Return the frameworks to plan with for a task of this ``kind``, or a rejection that says what each lacks.

    Mofang's own recipes alone are taken where they run without more: on processor cores, and on this machine's chips;
    elsewhere all that it writes commands for. Where there is none, those that it only knows: such a plan is to compare
    hardware with, and says so.
    """
    known = (_startable(one.name, kind) for one in frameworks().values() if kind in one.tasks)
    lacks = {one.name: tuple(_lacks(one, work, kind, option.pool)) for one in known}
    can = [_startable(name, kind) for name, missing in lacks.items() if not missing]
    own = [one for one in can if is_recipe(one)]
    at_home = option.pool.is_cpu or option.pool.cluster == LOCAL
    if at_home and own and work.strategy.framework is None:
        return tuple(own), []
    can = can or [one for one in frameworks().values() if kind in one.tasks and _only_known(one, work, kind, option)]
    return (tuple(can), []) if can else ((), [_rejection(work, option, lacks)])


def _only_known(framework: Framework, work: Work, kind: str, option: Option) -> bool:
    """Whether the framework lacks nothing but that Mofang writes a command for it."""
    return tuple(_lacks(framework, work, kind, option.pool)) == (_NO_LAUNCHER,)


@cache
def _startable(name: str, kind: str) -> Framework:
    """Return the framework with those of its methods that Mofang writes commands for: a plan must be one to start."""
    framework = frameworks()[name]
    launched = framework.launches.get(kind, frozenset())
    return replace(framework, methods=framework.methods & launched)


def _lacks(framework: Framework, work: Work, kind: str, pool: Pool) -> Iterator[str]:
    """Yield what the framework cannot do of what is asked."""
    asked = work.strategy
    if asked.framework is not None and asked.framework not in {framework.name, *framework.aliases}:
        yield f"is not {asked.framework}"
    if kind not in framework.launches:
        yield _NO_LAUNCHER
    if not framework.runs_on("" if pool.is_cpu else pool.accelerator.vendor):
        yield f"does not run on {pool.accelerator.vendor or 'cores'}"
    model = model_kind(work.model)
    if model not in framework.models:
        yield f"does not build {model} models"
    yield from _lacks_methods(framework, work)
    for name in ("tp", "pp", "cp", "ep", "vpp"):
        degree = getattr(asked, name)
        if degree is not None and degree > 1 and name not in framework.cuts:
            yield f"has no {name}"


def _lacks_methods(framework: Framework, work: Work) -> Iterator[str]:
    asked = work.strategy
    if not framework.methods.intersection(work.methods):
        yield f"does not train with {' or '.join(method.value for method in work.methods)}"
    for value, can in (
        (asked.recompute, framework.recomputes),
        (asked.offload, framework.offloads),
        (None if asked.sharding is Sharding.NONE else asked.sharding, framework.shardings),
    ):
        if value is not None and value not in can:
            name = type(value).__name__.lower()
            yield f"has no {name} {value.value}"


_DEGREES = ("tp", "pp", "cp", "ep", "vpp")


def _rejection(work: Work, option: Option, lacks: dict[str, tuple[str, ...]]) -> Rejection:
    """Say what is missing: the cut, where the frameworks that run here lack nothing else; else all of it."""
    degrees = {name: size for name in _DEGREES if (size := getattr(work.strategy, name)) not in {None, 1}}
    here = {name: why for name, why in lacks.items() if not any(_is_elsewhere(reason) for reason in why)}
    cut = bool(degrees) and bool(here) and all(all(why.startswith("has no ") for why in row) for row in here.values())
    names = ", ".join(here) or "none"
    if cut:
        return Rejection(
            code=Reason.PARALLELISM,
            what=f"{', '.join(f'{name} = {size}' for name, size in degrees.items())}, {option.name}",
            need=max(degrees.values()),
            have=1,
            hint=f"frameworks here ({names}) do not cut so: leave {', '.join(degrees)} out, and use fsdp to cut the "
            "state over devices",
            data=dict(degrees),
        )
    nearest = min(lacks.items(), key=lambda row: len(row[1]), default=("", ()))
    return Rejection(
        code=Reason.FRAMEWORK,
        what=f"{model_kind(work.model)} model, {_asked(work)}{option.name}",
        hint=f"{nearest[0]} {' and '.join(nearest[1])}" if nearest[0] else "no framework does this task",
        data={name: "; ".join(why) for name, why in lacks.items()},
    )


def _is_elsewhere(reason: str) -> bool:
    return reason.startswith(("does not run on", _NO_LAUNCHER, "is not ", "does not build", "does not train"))


def _asked(work: Work) -> str:
    parts: Sequence[str] = [work.strategy.framework or "", *(method.value for method in work.methods)]
    return "".join(f"{part}, " for part in parts if part)
