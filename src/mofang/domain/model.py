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


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiHeadLatent:
    """Sizes of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""

    kv_lora_rank: int
    q_lora_rank: int | None
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfExperts:
    """Sizes of the expert layers."""

    num_experts: int
    top_k: int
    expert_ffn: int  # hidden size of one routed expert
    num_shared: int = 0
    shared_ffn: int = 0  # hidden size of all shared experts together
    dense_layers: int = 0  # this many layers (the first ones) keep a dense feed-forward


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
    attention_bias: bool = False  # on the query, key and value projections
    output_bias: bool = False  # on the attention output projection
    ffn_bias: bool = False
    norm_bias: bool = False  # LayerNorm has one, RMSNorm has none
    norms_per_layer: int = 2
    qk_norm: bool = False
    final_norm: bool = True
    lm_head_bias: bool = False
    attention: Attention = Attention.GROUPED
    latent: MultiHeadLatent | None = None
    moe: MixtureOfExperts | None = None
    source: str = ""

    def __post_init__(self) -> None:
        for field_name in ("layers", "hidden", "heads", "kv_heads", "vocab", "head_dim", "max_sequence"):
            value = getattr(self, field_name)
            if value < 1:
                raise SpecError(f"model {self.name}: {field_name} must be at least 1, not {value}")
        if self.attention is Attention.GROUPED and self.heads % self.kv_heads:
            raise SpecError(
                f"model {self.name}: heads must be a multiple of kv_heads: {self.heads} = "
                f"{self.heads // self.kv_heads} x {self.kv_heads} + {self.heads % self.kv_heads}",
                hint="choose kv_heads that divides heads",
            )
        if (self.attention is Attention.LATENT) != (self.latent is not None):
            raise SpecError(f"model {self.name}: latent attention and its sizes go together")
        if self.moe is not None and not 1 <= self.moe.top_k <= self.moe.num_experts:
            raise SpecError(
                f"model {self.name}: top_k must lie in 1..num_experts: "
                f"{self.moe.top_k} is not in 1..{self.moe.num_experts}"
            )

    @property
    def attention_params(self) -> int:
        """Parameters of one layer's attention."""
        if self.latent is not None:
            return self._latent_params(self.latent)
        q_size, kv_size = self.heads * self.head_dim, self.kv_heads * self.head_dim
        weights = self.hidden * (q_size + 2 * kv_size) + q_size * self.hidden
        biases = (q_size + 2 * kv_size) * self.attention_bias + self.hidden * self.output_bias
        return weights + biases + 2 * self.head_dim * self.qk_norm

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
        total = self.attention_params + self.norms_per_layer * self.norm_params
        moe = self.moe
        if moe is None or index < moe.dense_layers:
            return total + self.ffn_params(self.ffn)
        routed = moe.top_k if active else moe.num_experts
        shared = self.ffn_params(moe.shared_ffn) if moe.num_shared else 0
        return total + self.hidden * moe.num_experts + routed * self.ffn_params(moe.expert_ffn) + shared

    @property
    def embedding_params(self) -> int:
        """Parameters of the token and position tables, the language-model head included."""
        tables = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return tables + self.learned_positions * self.max_sequence * self.hidden + self.lm_head_bias * self.vocab

    def _total(self, *, active: bool) -> int:
        dense = self.moe.dense_layers if self.moe else self.layers
        first = self.layer_params(0, active=active) * min(dense, self.layers)
        rest = self.layer_params(self.layers, active=active) * max(0, self.layers - dense) if self.moe else 0
        return first + rest + self.embedding_params + self.final_norm * self.norm_params

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
        return self.active_params - tables - self.learned_positions * self.max_sequence * self.hidden

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
