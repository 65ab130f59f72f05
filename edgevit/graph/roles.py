"""The names of the canonical graph: roles, sites and gemms.

A *gemm* is a product that may run in integers; a *site* is one of its two operands, and its
*role* says where that tensor comes from, which is what decides the grid it gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from edgevit.graph.window import Window

Kind = Literal["linear", "conv", "qk", "pv", "matmul"]


class Role(str, Enum):
    """Origin of an operand, looking through pure layout operators."""

    PATCH_IN = "patch_in"
    """The image itself, cut into patches."""
    LN_OUT = "ln_out"
    """Output of a LayerNorm."""
    QUERY = "query"
    """Left operand of q k^T."""
    KEY = "key"
    """Right operand of q k^T."""
    SOFTMAX_OUT = "softmax_out"
    """Attention probabilities, the left operand of P V."""
    VALUE = "value"
    """Right operand of P V."""
    ATTN_OUT = "attn_out"
    """Output of P V, the input of the projection behind the attention."""
    GELU_OUT = "gelu_out"
    """Output of a GELU."""
    RESIDUAL = "residual"
    """A sum of two activations that enters a linear without a LayerNorm in between."""
    HEAD_IN = "head_in"
    """Input of a linear whose output is the model's logits."""
    LINEAR_IN = "linear_in"
    """Anything else that enters a linear or a product."""
    WEIGHT = "weight"
    """The weight of a linear."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A tensor that may be quantized: one operand of one gemm.

    Args:
        name: Module path and operand, e.g. ``"blocks.0.attn.qkv:input"``. Operands: input and
            weight of linears and convolutions; query and key of q k^T; softmax and value of P V;
            left and right.
        role: Where the tensor comes from.
        gemm: The gemm's fx node name.
        operand: 0 (left) or 1 (right).
        producer: fx node name of the operand.
    """

    name: str
    role: Role
    gemm: str
    operand: int
    producer: str


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """A matrix product of the graph.

    Args:
        name: fx node name.
        module: Module path; for attention the attention module's path + ".qk" or ".pv".
        kind: "linear", "conv" (a convolution in one group), "qk" (q k^T), "pv" (softmax times v) or
            "matmul" (any other).
        left: float32 [..., M, K]; of a convolution the patches [B, H' W', kh kw C] of its input.
        right: [..., K, N], or for a linear or convolution its weight [N, K].
        weight: Constant name of the weight of a linear [out, in] or of a convolution
            [out, C, kh, kw], else None.
        bias: Constant name of its bias [out], else None.
        window: How a convolution reads its input, else None.
    """

    name: str
    module: str
    kind: Kind
    left: Site
    right: Site
    weight: str | None = None
    bias: str | None = None
    window: Window | None = None
