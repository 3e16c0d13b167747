"""Commands of serving frameworks: vLLM, SGLang and TensorRT-LLM, on loopback unless told otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mofang.domain.hardware import Precision
from mofang.domain.plan import Plan, Role, Service
from mofang.domain.scenario import Serve
from mofang.domain.strategy import Parallelism
from mofang.errors import SpecError
from mofang.launchers.flagtable import flag_table
from mofang.launchers.program import Program

__all__ = ["service_program"]

_LOOPBACK = "127.0.0.1"
_PORT = 8000
_MEMORY_FRACTION = 0.90


def service_program(task: Serve, plan: Plan, attempt_dir: Path, *, role: Role | None = None) -> Program:
    """Return the command of one node; it starts the ranks of its node itself.

    Args:
        task: the model and its service.
        plan: the deployment; its framework is vllm, sglang or tensorrt-llm.
        attempt_dir: where files of the command lie.
        role: which part of a disaggregated deployment: ``PREFILL`` or ``DECODE``.

    Raises:
        SpecError: the model has no folder, or this framework cannot be started so.
    """
    service = plan.service
    if service is None:
        raise SpecError("a plan for a service must say how it is deployed")
    if task.model_path is None:
        raise SpecError(f"model {task.model.name} has no folder to serve from", hint="name the folder of its weights")
    makers: dict[str, Callable[[Serve, Plan, Service, Path, Role | None], Program]] = {
        "vllm": _vllm,
        "sglang": _sglang,
        "tensorrt-llm": _tensorrt,
    }
    framework = plan.strategy.framework
    if framework not in makers:
        raise SpecError(f"there is no serving command for {framework}", hint=f"use one of {', '.join(makers)}")
    return makers[framework](task, plan, service, attempt_dir, role)


def _cut(plan: Plan, role: Role | None) -> tuple[Parallelism, int]:
    """Return how one replica is cut, and how many replicas one command starts."""
    if role is not None:
        part = next((part for part in plan.parts if part.role is role), None)
        if part is None:
            raise SpecError(f"the plan has no part for {role}")
        return part.parallelism, max(1, part.replicas // part.placement.num_nodes)
    replicas = plan.service.replicas if plan.service is not None else 1
    each = plan.placement.devices_per_node
    if plan.strategy.parallelism.world_size > each:
        spanned = -(-plan.strategy.parallelism.world_size // each)
        raise SpecError(
            f"one replica of this plan spans {spanned} nodes, and no launcher writes such a command",
            hint="--pick N takes another plan of the table, or fix it: strategy: {pp: 1}",
        )
    return plan.strategy.parallelism, max(1, replicas // plan.placement.num_nodes)


def _common(task: Serve, plan: Plan, service: Service, role: Role | None) -> dict[str, Any]:
    cut, replicas = _cut(plan, role)
    return {
        "host": _LOOPBACK,
        "port": task.port or _PORT,
        "tp": cut.tp,
        "pp": cut.pp,
        "dp": replicas,
        "max_sequence": task.max_sequence,
        "concurrency": service.concurrency,
    }


def _dtype(precision: Precision) -> str:
    return {Precision.FP16: "float16", Precision.FP32: "float32"}.get(precision, "bfloat16")


def _vllm(task: Serve, plan: Plan, service: Service, attempt_dir: Path, role: Role | None) -> Program:
    del attempt_dir
    table = flag_table("vllm")
    transfer = {Role.PREFILL: "kv_producer", Role.DECODE: "kv_consumer"}
    quantised = {Precision.FP8: "fp8", Precision.FP4: "modelopt_fp4", Precision.INT8: "compressed-tensors"}
    values = {
        **_common(task, plan, service, role),
        "dtype": _dtype(service.precision),
        "quantization": quantised.get(service.precision),
        "kv_dtype": "fp8" if service.kv_precision is Precision.FP8 else "auto",
        "expert_parallel": plan.strategy.parallelism.ep > 1,
        "memory_fraction": _MEMORY_FRACTION,
        "prefix_cache": task.traffic.prefix_hit > 0,
        "kv_transfer": json.dumps({"kv_connector": "NixlConnector", "kv_role": transfer[role]}) if role else None,
        "seed": task.seed,
    }
    if service.attention_dp:  # attention as so many copies, whose experts are spread over all of them
        values |= {"dp": values["dp"] * values["tp"], "tp": 1, "expert_parallel": True}
    return Program(argv=(*table.program, task.model_path or "", *table.words(values)), one_per_node=True)


def _sglang(task: Serve, plan: Plan, service: Service, attempt_dir: Path, role: Role | None) -> Program:
    del attempt_dir
    table = flag_table("sglang")
    quantised = {Precision.FP8: "fp8", Precision.FP4: "modelopt_fp4", Precision.INT8: "w8a8_int8"}
    values = {
        **_common(task, plan, service, role),
        "dtype": _dtype(service.precision),
        "quantization": quantised.get(service.precision),
        "kv_dtype": "fp8_e4m3" if service.kv_precision is Precision.FP8 else "auto",
        "ep": plan.strategy.parallelism.ep if plan.strategy.parallelism.ep > 1 else None,
        "attention_dp": service.attention_dp,
        "memory_fraction": _MEMORY_FRACTION,
        "role": role.value if role else None,
        "seed": task.seed,
    }
    if service.attention_dp:
        values["dp"] = values["tp"]
    return Program(
        argv=(sys.executable, *table.program, task.model_path or "", *table.words(values)), one_per_node=True
    )


def _tensorrt(task: Serve, plan: Plan, service: Service, attempt_dir: Path, role: Role | None) -> Program:
    table = flag_table("tensorrt-llm")
    if role is not None:
        raise SpecError("trtllm-serve is not started as prefill or decode alone", hint="use vllm or sglang")
    common = _common(task, plan, service, role)
    copies = common.pop("dp")  # trtllm-serve starts one replica
    options = {
        "enable_attention_dp": service.attention_dp,
        "kv_cache_config": {"dtype": "fp8" if service.kv_precision is Precision.FP8 else "auto"},
    }
    name = "serving.yaml"
    values = {
        **common,
        "ep": plan.strategy.parallelism.ep if plan.strategy.parallelism.ep > 1 else None,
        "memory_fraction": _MEMORY_FRACTION,
        "options": str(attempt_dir / name),
    }
    return Program(
        argv=(*table.program, task.model_path or "", *table.words(values)),
        files={name: json.dumps(options, indent=2)},  # JSON is YAML
        one_per_node=True,
        copies=copies,
    )
