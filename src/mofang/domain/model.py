"""Decoder-only transformer architectures and their parameter counts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mofang.errors import SpecError

__all__ = ["Attention", "MixtureOfExperts", "ModelArchitecture", "MultiHeadLatent"]


class Attention(StrEnum):
    """How keys and values are kept."""

    GROUPED = "grouped"  # multi-head, grouped-query and multi-query attention
    LATENT = "latent"  # multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1)


def _at_least(minimum: int, value: object, what: str, fields: tuple[str, ...]) -> None:
    for name in fields:
        if getattr(value, name) < minimum:
            raise SpecError(f"{what}: {name} must be at least {minimum}, not {getattr(value, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiHeadLatent:
    """Sizes of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""

    kv_lora_rank: int
    q_lora_rank: int | None
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    def __post_init__(self) -> None:
        _at_least(1, self, "latent attention", ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
        if self.q_lora_rank is not None:
            _at_least(1, self, "latent attention", ("q_lora_rank",))


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfExperts:
    """Sizes of the expert layers."""

    num_experts: int
    top_k: int
    expert_ffn: int  # hidden size of one routed expert
    num_shared: int = 0
    shared_ffn: int = 0  # hidden size of all shared experts together
    dense_layers: int = 0  # this many layers (the first ones) keep a dense feed-forward
    every: int = 1  # after those, every so many-th layer has experts, the others are dense
    router_bias: bool = False
    shared_gate: bool = False  # a learned gate on the shared experts (Qwen-MoE)

    def __post_init__(self) -> None:
        _at_least(1, self, "experts", ("num_experts", "expert_ffn", "every"))
        _at_least(0, self, "experts", ("num_shared", "shared_ffn", "dense_layers"))
        if not 1 <= self.top_k <= self.num_experts:
            raise SpecError(f"top_k must lie in 1..num_experts: {self.top_k} is not in 1..{self.num_experts}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArchitecture:
    """A decoder-only transformer: everything needed to count its parameters and its work.

    Sizes are counts of elements. ``gated_ffn`` means three matrices (SwiGLU, GeGLU), otherwise two.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    head_dim: int
    max_sequence: int
    gated_ffn: bool = True
    tied_embeddings: bool = False
    learned_positions: bool = False
    extra_positions: int = 0  # rows of the position table beyond max_sequence (OPT has two)
    embedding_norm: bool = False  # a normalisation right after the embedding (BLOOM)
    attention_bias: bool = False  # on the query, key and value projections
    output_bias: bool = False  # on the attention output projection
    ffn_bias: bool = False
    norm_bias: bool = False  # LayerNorm has one, RMSNorm has none
    norms_per_layer: int = 2  # parallel attention often has one, Gemma 2 and 3 have four
    qk_norm: bool = False  # one scale of head_dim for queries, one for keys
    qk_norm_wide: bool = False  # with qk_norm: a scale for every head of its own (OLMo 2, Command R+)
    attention_sinks: bool = False  # one learned logit a head (gpt-oss)
    final_norm: bool = True
    lm_head_bias: bool = False
    attention: Attention = Attention.GROUPED
    latent: MultiHeadLatent | None = None
    moe: MixtureOfExperts | None = None
    source: str = ""

    def __post_init__(self) -> None:
        sizes = ("layers", "hidden", "heads", "kv_heads", "vocab", "head_dim", "max_sequence")
        _at_least(1, self, f"model {self.name}", sizes)
        _at_least(0, self, f"model {self.name}", ("extra_positions", "norms_per_layer"))
        if self.ffn < 1 and not (self.moe is not None and self.expert_layers == self.layers):
            raise SpecError(f"model {self.name}: ffn must be at least 1, not {self.ffn}")
        if self.attention is Attention.GROUPED and self.heads % self.kv_heads:
            raise SpecError(
                f"model {self.name}: heads must be a multiple of kv_heads: {self.heads} = "
                f"{self.heads // self.kv_heads} x {self.kv_heads} + {self.heads % self.kv_heads}",
                hint="choose kv_heads that divides heads",
            )
        if (self.attention is Attention.LATENT) != (self.latent is not None):
            raise SpecError(f"model {self.name}: latent attention and its sizes go together")

    @property
    def attention_params(self) -> int:
        """Parameters of one layer's attention."""
        if self.latent is not None:
            return self._latent_params(self.latent)
        q_size, kv_size = self.heads * self.head_dim, self.kv_heads * self.head_dim
        weights = self.hidden * (q_size + 2 * kv_size) + q_size * self.hidden
        biases = (q_size + 2 * kv_size) * self.attention_bias + self.hidden * self.output_bias
        heads = self.heads + self.kv_heads if self.qk_norm_wide else 2
        return weights + biases + heads * self.head_dim * self.qk_norm + self.heads * self.attention_sinks

    def _latent_params(self, sizes: MultiHeadLatent) -> int:
        head = sizes.qk_nope_head_dim + sizes.qk_rope_head_dim
        if sizes.q_lora_rank is None:
            query = self.hidden * self.heads * head
        else:
            query = sizes.q_lora_rank * (self.hidden + 1 + self.heads * head)
        down = self.hidden * (sizes.kv_lora_rank + sizes.qk_rope_head_dim) + sizes.kv_lora_rank
        up = sizes.kv_lora_rank * self.heads * (sizes.qk_nope_head_dim + sizes.v_head_dim)
        return query + down + up + self.heads * sizes.v_head_dim * self.hidden

    def ffn_params(self, size: int) -> int:
        """Parameters of one feed-forward block of this hidden size."""
        matrices = 3 if self.gated_ffn else 2
        return matrices * self.hidden * size + self.ffn_bias * ((matrices - 1) * size + self.hidden)

    @property
    def norm_params(self) -> int:
        """Parameters of one normalisation."""
        return self.hidden * (2 if self.norm_bias else 1)

    def layer_params(self, index: int, *, active: bool = False) -> int:
        """Parameters of layer ``index``, or of the part of it that one token passes through."""
        experts = self.moe if self.has_experts(index) else None
        return self._layer_params(experts, active=active)

    def _layer_params(self, experts: MixtureOfExperts | None, *, active: bool) -> int:
        rest = self.attention_params + self.norms_per_layer * self.norm_params
        if experts is None:
            return rest + self.ffn_params(self.ffn)
        return rest + self._expert_params(experts, active=active)

    def has_experts(self, index: int) -> bool:
        """Whether layer ``index`` has experts in place of a dense feed-forward block."""
        moe = self.moe
        return moe is not None and index >= moe.dense_layers and (index + 1) % moe.every == 0

    @property
    def expert_layers(self) -> int:
        """Number of layers with experts."""
        if self.moe is None:
            return 0
        return max(0, self.layers // self.moe.every - self.moe.dense_layers // self.moe.every)

    def _expert_params(self, moe: MixtureOfExperts, *, active: bool) -> int:
        router = moe.num_experts * (self.hidden + moe.router_bias)
        routed = moe.top_k if active else moe.num_experts
        shared = self.ffn_params(moe.shared_ffn) + self.hidden * moe.shared_gate if moe.num_shared else 0
        return router + routed * self.ffn_params(moe.expert_ffn) + shared

    @property
    def embedding_params(self) -> int:
        """Parameters of the token and position tables, the language-model head included."""
        tables = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return tables + self._position_params + self.lm_head_bias * self.vocab

    @property
    def _position_params(self) -> int:
        return self.learned_positions * (self.max_sequence + self.extra_positions) * self.hidden

    def _total(self, *, active: bool) -> int:
        experts = self.expert_layers
        layers = experts * self._layer_params(self.moe, active=active)
        layers += (self.layers - experts) * self._layer_params(None, active=active)
        return layers + self.embedding_params + (self.final_norm + self.embedding_norm) * self.norm_params

    @property
    def params(self) -> int:
        """All parameters."""
        return self._total(active=False)

    @property
    def active_params(self) -> int:
        """Parameters that one token passes through; equal to ``params`` without experts."""
        return self._total(active=True)

    @property
    def matmul_params(self) -> int:
        """Active weights that take part in a matrix product: all but the input tables (the head counts)."""
        tables = self.vocab * self.hidden * (0 if self.tied_embeddings else 1)
        return self.active_params - tables - self._position_params

    def train_flops_per_token(self, sequence: int) -> float:
        """FLOP for one token's forward and backward pass, causal attention counted half.

        PaLM (arXiv:2204.02311, appendix B): 6 N + 12 L H Q T, whose attention term is halved here because a causal
        mask leaves half of the products.
        """
        width = self.heads * self.head_dim
        if self.latent is not None:
            per_head = self.latent.qk_nope_head_dim + self.latent.qk_rope_head_dim + self.latent.v_head_dim
            width = self.heads * per_head // 2
        return 6.0 * self.matmul_params + 6.0 * self.layers * width * sequence
