"""Turns the budget of `quantize`, a mean width or a size, into widths per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgevit.errors import UsageError
from edgevit.progress import Progress
from edgevit.recipe import Recipe
from edgevit.verbs.artefact import engine_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from edgevit.graph.model import Graph
    from edgevit.quantizers.spec import Placement
    from edgevit.targets.base import Lowered, Target

MEGABYTE = 1_000_000
_MARGIN_BYTES = 2_000
"""Scales and clips differ a little between widths; the finished file is checked as well."""
_DRAFT_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class BudgetLimits:
    """The budgets that the user set; all None for widths that are the same everywhere.

    Args:
        avg_bits: Largest mean width of weights, and of activations.
        max_size_mb: Largest size of the engine's files in 10^6 bytes; leaves activations alone.
        allocation: "fisher" or "nuclear".
        fixed_weights, fixed_acts: The user gave that width, so that only the other is mixed.
        fixed_layers: What fixes widths of single layers, in words; that leaves no budget anything.
    """

    avg_bits: float | None = None
    max_size_mb: float | None = None
    allocation: str = "fisher"
    fixed_weights: bool = False
    fixed_acts: bool = False
    fixed_layers: str = ""

    @property
    def are_set(self) -> bool:
        """Return whether there is anything to allocate."""
        return self.avg_bits is not None or self.max_size_mb is not None

    def check(self) -> None:
        """Refuse what can't be meant.

        Raises:
            UsageError: An unknown criterion (EV213), or nothing left to choose (EV232).
        """
        from edgevit.calibration.mixed.widths import CRITERIA

        for name, value in (("--avg-bits", self.avg_bits), ("--max-size-mb", self.max_size_mb)):
            if value is not None and not math.isfinite(value):
                raise UsageError(
                    "EV218",
                    f"{value} is not a limit.",
                    where=name,
                    why="A limit is a finite number.",
                    try_next=f"{name} 5",
                )
        if self.allocation not in CRITERIA:
            raise UsageError(
                "EV213",
                f"There is no criterion {self.allocation!r}.",
                where="--allocation",
                try_next=f"--allocation {' or '.join(CRITERIA)}",
            )
        stuck = self.fixed_weights and (self.fixed_acts or self.max_size_mb is not None)
        if self.are_set and (stuck or self.fixed_layers):
            layers = self.fixed_layers
            fixed = f"{layers} fixes" if layers else "--weight-bits and --act-bits fix"
            raise UsageError(
                "EV232",
                "A budget leaves nothing to choose here.",
                where="--avg-bits, --max-size-mb",
                why=f"{fixed} what the budget is for.",
                try_next=f"Leave out {'layer_bits' if layers else '--weight-bits'}.",
            )


def common_bits(limits: BudgetLimits, bits: int) -> int:
    """Return the width of what no budget chooses: the whole part of the mean asked for."""
    if limits.avg_bits is None:
        return bits
    return min(max(int(limits.avg_bits), 2), 8)


def with_widths(
    recipe: Recipe,
    limits: BudgetLimits,
    graph: Graph,
    images: Tensor,
    target: Target,
    progress: Progress,
) -> tuple[Recipe, list[str]]:
    """Return the recipe with widths per layer, and notes for the report.

    Raises:
        UsageError: The budget can't be met (EV221, EV222).
    """
    from edgevit.calibration.mixed.widths import Budget, choose_widths
    from edgevit.calibration.run import Run

    def place(layer_bits: Mapping[str, tuple[int, int]]) -> Placement:
        return placement_of(recipe, graph, target, layer_bits)

    weight_bits = None if limits.fixed_weights else limits.avg_bits
    if limits.max_size_mb is not None:
        allowed = _mean_for_size(recipe, limits.max_size_mb, graph, images[:_DRAFT_IMAGES], target)
        weight_bits = allowed if weight_bits is None else min(weight_bits, allowed)
    act_bits = None if limits.fixed_acts else limits.avg_bits
    run = Run(
        graph=graph.clone(),
        placement=place({}),
        images=images,
        seed=recipe.seed,
        progress=progress,
    )
    mixed = choose_widths(
        run,
        place,
        Budget(weight_bits=weight_bits, act_bits=act_bits),
        widths=target.widths,
        criterion="nuclear" if limits.allocation == "nuclear" else "fisher",
    )
    return replace(recipe, layer_bits=mixed.layer_bits), [mixed.note()]


def placement_of(
    recipe: Recipe, graph: Graph, target: Target, layer_bits: Mapping[str, tuple[int, int]]
) -> Placement:
    """Return what the target offers for a recipe with these widths of single layers."""
    return target.place(
        graph,
        weight_bits=recipe.weight_bits,
        act_bits=recipe.act_bits,
        float_layers=recipe.float_layers,
        layer_bits=layer_bits,
    )


def _mean_for_size(
    recipe: Recipe, max_size_mb: float, graph: Graph, images: Tensor, target: Target
) -> float:
    """Return the mean width of weights at which the engine's files have this size.

    A draft with the narrowest weights is calibrated on a few images and written: what it takes
    beyond its codes (graph, scales, biases, tables) does not depend on the widths.

    Raises:
        UsageError: Even the draft is too large (EV222).
    """
    from edgevit.calibration.methods import method_named
    from edgevit.calibration.run import calibrate

    narrowest = min(target.widths)
    draft = replace(recipe, weight_bits=narrowest)
    placement = placement_of(draft, graph, target, {})
    method = method_named(recipe.method)
    lowered = target.lower(calibrate(graph, placement, images, method, seed=recipe.seed))
    smallest = engine_bytes(lowered) + _MARGIN_BYTES
    limit = max_size_mb * MEGABYTE
    if not limit >= smallest:
        raise too_large(max_size_mb, smallest)
    weights: int = sum(row["parameters"] for row in lowered.layers if row.get("weight_bits"))
    return narrowest + 8 * (limit - smallest) / max(weights, 1)


def check_size(lowered: Lowered, limits: BudgetLimits) -> None:
    """Refuse a finished model that is larger than was asked for.

    Raises:
        UsageError: It is (EV222).
    """
    size = engine_bytes(lowered)
    if limits.max_size_mb is not None and size > limits.max_size_mb * MEGABYTE:
        raise too_large(limits.max_size_mb, size)


def too_large(max_size_mb: float, possible_bytes: int) -> UsageError:
    """Return the error for a size that can't be met."""
    possible = -(-possible_bytes // 1000) / 1000  # rounded up, so that it works
    return UsageError(
        "EV222",
        f"The engine can't be made as small as {max_size_mb:g} MB.",
        where="--max-size-mb",
        why=f"Graph, scales and biases keep their size; the codes can't shrink below "
        f"what gives {possible:.3f} MB.",
        try_next=f"The smallest possible is --max-size-mb {possible:.3f}.",
    )
