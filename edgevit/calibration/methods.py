"""Named calibration methods: each is a handful of choices over the same sites and grids."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from edgevit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Method:
    """One calibration method.

    Args:
        name: As given to ``--method``.
        summary: One line for tables.
        source: Paper, or what it is.
        activations: How activation grids are chosen.
        weights: How weight scales are chosen.
        per_tensor_weights: One scale per tensor (three for a fused qkv), not per channel.
        symmetric_activations: Zero points in the middle of the code range.
        twin: Use twin grids where the target offers them and they have less error.
        fold_layernorms: Reparameterise LayerNorms (RepQ-ViT).
        equalize_heads: One step per attention head instead of one per tensor.
        correct_biases: Move mean errors into the biases.
    """

    name: str
    summary: str
    source: str
    activations: Literal["minmax", "percentile", "mse", "fisher"]
    weights: Literal["minmax", "percentile", "mse", "gram"]
    per_tensor_weights: bool = False
    symmetric_activations: bool = False
    twin: bool = False
    fold_layernorms: bool = False
    equalize_heads: bool = True
    correct_biases: bool = False

    @property
    def needs_gradient(self) -> bool:
        """Whether it needs the Fisher pass (a backward pass through the model)."""
        return self.activations == "fisher" or self.weights == "gram"


METHODS = {
    method.name: method
    for method in (
        Method(
            name="edgevit",
            summary="Fisher-weighted search, LayerNorm reparameterisation, bias correction",
            source="this project: arXiv 2111.12293, 2212.08254 and 1906.04721 together",
            activations="fisher",
            weights="gram",
            twin=True,
            fold_layernorms=True,
            correct_biases=True,
        ),
        Method(
            name="ptq4vit",
            summary="Hessian-guided search with twin uniform grids",
            source="Yuan et al., ECCV 2022, arXiv 2111.12293 (true Fisher gradient, ratio 2^m)",
            activations="fisher",
            weights="gram",
            per_tensor_weights=True,
            symmetric_activations=True,
            twin=True,
        ),
        Method(
            name="minmax",
            summary="Ranges that cover everything seen",
            source="arXiv 2106.08295, section 3.1",
            activations="minmax",
            weights="minmax",
        ),
        Method(
            name="percentile",
            summary="The best of three percentiles by squared error",
            source="RepQ-ViT's initialiser, arXiv 2212.08254, section 4.1",
            activations="percentile",
            weights="percentile",
        ),
        Method(
            name="mse",
            summary="Least squared error of each tensor on its own",
            source="arXiv 2106.08295, section 3.1",
            activations="mse",
            weights="mse",
        ),
    )
}


def method_named(name: str) -> Method:
    """Return the method of this name.

    Raises:
        UsageError: There is none (EV202).
    """
    if name in METHODS:
        return METHODS[name]
    near = get_close_matches(name, METHODS, n=1)
    raise UsageError(
        "EV202",
        f"There is no calibration method {name!r}.",
        where="--method",
        why="Known methods: " + ", ".join(METHODS),
        try_next=f"--method {near[0] if near else 'edgevit'}",
    )
