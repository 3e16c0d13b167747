"""Published and own measurements of training and serving: what one row of the knowledge base says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mofang.domain.hardware import Precision
from mofang.domain.model import ModelArchitecture
from mofang.domain.scenario import Finetune, Pretrain
from mofang.domain.strategy import Method, Recompute, Sharding, Strategy

__all__ = ["FlopConvention", "Run", "ServingMeasurement", "TokenCount", "TrainingMeasurement", "publisher"]


class FlopConvention(StrEnum):
    """What a source counts as FLOP where it states FLOP/s or MFU."""

    MODEL = "model"  # forward and backward, causal attention counted half or the source's own way
    FULL_ATTENTION = "full-attention"  # 6 N + 12 L h s: attention not halved (llm-foundry, Megatron-LM)
    HARDWARE = "hardware"  # activations computed again are counted
    UNKNOWN = "unknown"


class TokenCount(StrEnum):
    """Which tokens a serving throughput counts."""

    OUTPUT = "output"
    TOTAL = "total"  # input and output together
    UNSTATED = "unstated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a job of Mofang's own ran, and on which cluster: more than a published row says."""

    task: Pretrain | Finetune
    strategy: Strategy
    cluster: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMeasurement:
    """One measured training configuration; None: the source does not state it.

    Per-device figures are per accelerator as the source counts them. ``architecture`` is None where the sizes are
    missing. ``accelerator`` and ``framework`` are the catalogue's names ("" where nothing matches), the ``_text``
    fields what the source wrote. ``run`` is there where a job of Mofang's own was measured.
    """

    source_id: str
    source: str
    line: int
    model: str
    architecture: ModelArchitecture | None
    accelerator: str
    accelerator_text: str
    num_devices: int | None
    devices_per_node: int | None
    framework: str
    framework_text: str
    task: str  # pretrain, sft, lora, dpo ..., "(MLPerf)" marks a benchmark's fixed segment
    method: Method
    precision: Precision | None
    precision_text: str
    sequence: int | None
    tp: int | None = None
    pp: int | None = None
    cp: int | None = None
    ep: int | None = None
    dp: int | None = None
    vpp: int | None = None
    sharding: Sharding | None = None
    micro_batch: int | None = None
    global_batch: int | None = None
    recompute: Recompute | None = None
    flash_attention: bool | None = None
    inter_bandwidth: float | None = None  # bytes/s per device, one way, between nodes
    tokens_per_s_per_device: float | None = None
    step_time_s: float | None = None
    flops_per_device: float | None = None  # FLOP/s as the source counts
    mfu: float | None = None
    hfu: float | None = None
    flop_convention: FlopConvention = FlopConvention.UNKNOWN
    memory_bytes: float | None = None
    time_to_train_s: float | None = None
    notes: str = ""
    run: Run | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingMeasurement:
    """One measured serving configuration; None: the source does not state it. Throughput is of the whole deployment."""

    source_id: str
    source: str
    line: int
    model: str
    architecture: ModelArchitecture | None
    accelerator: str
    accelerator_text: str
    num_devices: int | None
    framework: str
    framework_text: str
    version: str
    precision: Precision | None
    kv_precision: Precision | None
    precision_text: str = ""  # what the source wrote of the weights: 4-bit integers are FP4 in ``precision``
    scenario: str  # offline, online, online-disagg, server, interactive, latency, online-agentic
    tp: int | None = None
    pp: int | None = None
    ep: int | None = None
    dp: int | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    concurrency: float | None = None  # None: saturated
    tokens_per_s: float | None = None
    token_count: TokenCount = TokenCount.UNSTATED
    ttft_s: float | None = None
    tpot_s: float | None = None
    notes: str = ""


def publisher(source_id: str) -> str:
    """Return who published a source: its id up to the first ``_`` or ``-``."""
    return source_id.replace("-", "_").split("_", 1)[0]
