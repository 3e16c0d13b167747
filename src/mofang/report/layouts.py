"""Plans in words: on what hardware, cut how; for the command line and the report."""

from __future__ import annotations

from mofang.domain.hardware import CPU
from mofang.domain.plan import Placement, Plan, Role, Service
from mofang.domain.strategy import Method, Offload, Parallelism, Recompute, Sharding, Strategy
from mofang.report.words import plural

__all__ = ["batch_text", "chip_text", "cuts_text", "hardware_text", "layout_text", "numbers_text"]

_VENDORS = frozenset(
    {"NVIDIA", "AMD", "Intel", "Huawei", "Google", "AWS", "Cambricon", "Hygon", "MetaX"}
)  # names are told without them
_RECOMPUTES = {Recompute.FULL: "recompute", Recompute.SELECTIVE: "selective recompute"}
_ROLES = {Role.STAGES: "of the layers", Role.REPLICAS: "of the batch"}


def chip_text(name: str) -> str:
    """Return a chip's name without its vendor's: the catalogue knows it so too."""
    vendor, _, rest = name.partition(" ")
    return rest if rest and vendor in _VENDORS else name


def hardware_text(plan: Plan, *, with_cluster: bool = True) -> str:
    """Return what a plan runs on: ``cpu:2 (local)``, ``H100-SXM-80GB:64 on 8 nodes``, one kind + another."""
    if not plan.parts:
        return _placement_text(plan.placement, with_cluster)
    return " + ".join(_placement_text(part.placement, with_cluster) for part in plan.parts)


def _placement_text(placement: Placement, with_cluster: bool) -> str:
    nodes = f" on {placement.num_nodes} nodes" if placement.num_nodes > 1 else ""
    cluster = f" ({placement.cluster})" if placement.cluster and with_cluster else ""
    return f"{chip_text(placement.accelerator)}:{placement.num_devices}{nodes}{cluster}"


def layout_text(plan: Plan, *, with_numbers: bool = True, with_method: bool = True) -> str:
    """Return how a plan cuts the job: ``dp2 ddp, fp32, 1 thread``, ``2 x (tp8), fp8``.

    Args:
        plan: the plan.
        with_numbers: whether its number formats are told.
        with_method: whether it is told that adapters are trained.
    """
    if plan.service is not None:
        return _service_text(plan, plan.service, with_numbers=with_numbers)
    strategy = plan.strategy
    threads = [plural(strategy.threads, "thread")] if plan.placement.accelerator == CPU else []
    if plan.steps is None:  # the user's own program: what its workers do is not ours to know
        return ", ".join([plural(plan.workers, "worker"), *threads])
    cuts = [_mixture_text(plan)] if plan.parts else _training_cuts(strategy)
    method = [strategy.method.value] if with_method and strategy.method is not Method.FULL else []
    numbers = [strategy.precision.value] if with_numbers else []
    return ", ".join([*cuts, *method, *numbers, *_savings(strategy), *threads])


def _training_cuts(strategy: Strategy) -> list[str]:
    """Return the degrees, and how the state is held by data and context parallel ranks together."""
    cut = cuts_text(strategy.parallelism)
    if strategy.sharding is Sharding.NONE:
        return [cut or "1 worker"]
    return [f"{cut} {strategy.sharding.value}".strip()]


def cuts_text(degrees: Parallelism, names: tuple[str, ...] = ("dp", "tp", "pp", "vpp", "cp", "ep")) -> str:
    """Return the degrees above one: ``dp8 tp4 pp16 vpp4``."""
    return " ".join(f"{name}{size}" for name in names if (size := getattr(degrees, name)) > 1)


def _savings(strategy: Strategy) -> list[str]:
    """Return what is done to save memory or time."""
    found = [_RECOMPUTES[strategy.recompute]] if strategy.recompute in _RECOMPUTES else []
    if strategy.offload is not Offload.NONE:
        found.append(f"offload {strategy.offload.value}")
    return [*found, "compiled"] if strategy.compile else found


def _mixture_text(plan: Plan) -> str:
    """Return the parts of a training job on two kinds of chips: ``61% + 39% of the batch, dp8 tp4 + dp4 tp8 zero1``."""
    shares = " + ".join(f"{part.share:.0%}" for part in plan.parts)
    cuts = [cuts_text(part.parallelism) or "1 rank" for part in plan.parts]
    cut = cuts[0] if len(set(cuts)) == 1 else " + ".join(cuts)
    return f"{shares} {_ROLES.get(plan.parts[0].role, '')}, {cut} {plan.strategy.sharding.value}"


def _service_text(plan: Plan, service: Service, *, with_numbers: bool) -> str:
    if plan.parts:
        cuts = " + ".join(
            f"{part.role.value} {_copies(part.replicas, cuts_text(part.parallelism, _SERVED))}" for part in plan.parts
        )
    else:
        cuts = _copies(service.replicas, cuts_text(plan.strategy.parallelism, _SERVED))
    spread = ["attention dp"] if service.attention_dp else []
    return ", ".join([cuts, *spread, *([numbers_text(plan)] if with_numbers else [])])


_SERVED = ("tp", "pp", "ep")


def _copies(count: int, cut: str) -> str:
    return f"{count} x ({cut})" if cut else plural(count, "replica")


def numbers_text(plan: Plan) -> str:
    """Return the number formats: of products, or of a service's weights and its key-value cache where that differs."""
    service = plan.service
    if service is None:
        return plan.strategy.precision.value
    weights, cache = service.precision.value, service.kv_precision.value
    return weights if weights == cache else f"{weights}, kv {cache}"


def batch_text(plan: Plan) -> str:
    """Return micro-batch x accumulation x data parallel size = global batch, in sequences.

    Nothing for a command, or where the parts of a plan take unequal shares.
    """
    strategy = plan.strategy
    if plan.steps is None or plan.parts:
        return ""
    return f"{strategy.micro_batch} x {strategy.accumulation} x {strategy.parallelism.dp} = {strategy.global_batch}"
