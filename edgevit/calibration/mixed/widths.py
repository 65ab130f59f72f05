"""Mixed precision: one width per layer, so that the loss is least and mean widths in a budget.

Sensitivities (`criteria`) -> knapsack (`allocation`), for weights and activations apart, because
their losses add up and neither budget can pay for the other. The mean of the weights' widths counts
every weight once, that of the activations every value that enters a product for one image,
once. The image keeps its 8 bits and is not counted, as in uniform quantization; nor is what
stays in float32. On a device that carries every code in 8 bits, widths of activations make
nothing smaller or faster: their budget serves comparisons at equal mean width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from edgevit.calibration.mixed.additivity import (
    ALLOCATIONS,
    IMAGES,
    Additivity,
    log_probabilities,
    mean_kl,
    random_choices,
)
from edgevit.calibration.mixed.allocation import Losses, allocate
from edgevit.calibration.mixed.candidates import Candidates, Place, candidates
from edgevit.calibration.mixed.criteria import fisher_losses, nuclear_losses
from edgevit.calibration.mixed.units import (
    Unit,
    activation_units,
    modules,
    single_layers,
    weight_units,
)
from edgevit.calibration.run import Run
from edgevit.errors import UsageError

Criterion = Literal["fisher", "nuclear"]
CRITERIA: tuple[Criterion, ...] = ("fisher", "nuclear")
ENOUGH = 0.9
"""Correlation of predicted and true losses below which the report warns."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Largest mean widths; None leaves all weights, or all activations, as they are."""

    weight_bits: float | None = None
    act_bits: float | None = None


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Widths per layer and what is known of them.

    Args:
        layer_bits: Module path of a product -> (weight bits, activation bits).
        weight_mean, act_mean: Mean widths, as the module's text says.
        criterion: "fisher" or "nuclear".
        additivity: Predicted sums against true KLs of random allocations.
    """

    layer_bits: dict[str, tuple[int, int]]
    weight_mean: float
    act_mean: float
    criterion: Criterion
    additivity: Additivity

    def note(self) -> str:
        """Return one line for the report."""
        correlation = self.additivity.correlation
        doubt = "" if correlation >= ENOUGH else "; losses of single layers do not add up well"
        return (
            f"mixed precision by {self.criterion}: mean widths of what is quantized "
            f"{self.weight_mean:.2f} (weights) and {self.act_mean:.2f} (activations); "
            f"correlation of predicted loss and true KL "
            f"{correlation:.2f} over {len(self.additivity.true)} random allocations{doubt}"
        )


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Units of one kind, what they lose at each width [U, B], and their common width."""

    units: list[Unit]
    losses: Losses
    widths: tuple[int, ...]
    usual: int

    def chosen(self, mean_bits: float | None) -> list[int]:
        """Return a width per unit."""
        if mean_bits is None:
            return [self.usual] * len(self.units)
        sizes = np.array([unit.cost for unit in self.units], dtype=np.int64)  # [U]
        costs = sizes[:, None] * np.array(self.widths, dtype=np.int64)  # [U, B]
        choices = allocate(self.losses, costs, mean_bits * float(sizes.sum()) + 1e-6)
        if choices is None:
            raise ValueError(f"a mean of {mean_bits} bits is below {min(self.widths)}")
        return [self.widths[choice] for choice in choices]

    def loss(self, bits: list[int]) -> float:
        """Return the predicted loss of these widths."""
        places = [self.widths.index(b) for b in bits]
        return sum(float(row[at]) for row, at in zip(self.losses, places, strict=True))

    def mean(self, bits: list[int]) -> float:
        """Return the mean width."""
        total = sum(unit.cost for unit in self.units)
        return sum(u.cost * b for u, b in zip(self.units, bits, strict=True)) / max(total, 1)


def choose_widths(
    run: Run, place: Place, budget: Budget, *, widths: tuple[int, ...], criterion: Criterion
) -> Mixed:
    """Choose the widths of all layers.

    Args:
        run: Its graph is rewritten; its placement says the usual widths and what is in float.
        place: Asks the target for other widths.
        budget: Largest mean widths.
        widths: Those the target runs.
        criterion: What is added up.

    Raises:
        UsageError: The budget can't be met (EV221).
    """
    _refuse_too_small(budget, widths)
    found = candidates(run, place, widths)
    weights, activations = _tables(found, widths, criterion)
    chosen = weights.chosen(budget.weight_bits), activations.chosen(budget.act_bits)
    by_gemm = _by_gemm(found, weights, activations, *chosen)
    return Mixed(
        layer_bits={found.graph.gemm(name).module: pair for name, pair in by_gemm.items()},
        weight_mean=weights.mean(chosen[0]),
        act_mean=activations.mean(chosen[1]),
        criterion=criterion,
        additivity=_additivity(found, weights, activations, chosen),
    )


def _refuse_too_small(budget: Budget, widths: tuple[int, ...]) -> None:
    for value in (budget.weight_bits, budget.act_bits):
        if value is not None and not value >= min(widths):  # also refuses NaN
            raise UsageError(
                "EV221",
                f"A mean width of {value:g} bits can't be met.",
                where="--avg-bits",
                why=f"The target's widths are {', '.join(map(str, widths))}.",
                try_next=f"The smallest possible is --avg-bits {min(widths)}.",
            )


def _tables(
    found: Candidates, widths: tuple[int, ...], criterion: Criterion
) -> tuple[_Table, _Table]:
    """Return the tables of weights and activations."""
    graph, placement = found.graph, found.run.placement
    groups = modules(graph) if criterion == "nuclear" else single_layers(graph)
    of_weights = weight_units(graph, groups, found.run.sites)
    of_acts = activation_units(graph, groups, found.run.sites)
    judged = nuclear_losses if criterion == "nuclear" else fisher_losses
    losses = judged(found, of_weights, of_acts, widths)
    usual = placement.weight_bits, placement.act_bits
    return (
        _Table(units=of_weights, losses=losses.weights, widths=widths, usual=usual[0]),
        _Table(units=of_acts, losses=losses.activations, widths=widths, usual=usual[1]),
    )


def _by_gemm(
    found: Candidates, weights: _Table, activations: _Table, w_bits: list[int], a_bits: list[int]
) -> dict[str, tuple[int, int]]:
    """Return gemm name -> (weight bits, activation bits) of every product with grids."""
    placement = found.run.placement
    w = {n: b for u, b in zip(weights.units, w_bits, strict=True) for n in u.gemms}
    a = {n: b for u, b in zip(activations.units, a_bits, strict=True) for n in u.gemms}
    pairs = {}
    for gemm in found.gemms:
        act = a.get(gemm.name, placement.act_bits)
        weight = placement.weight_bits if gemm.weight is not None else act
        pairs[gemm.name] = (w.get(gemm.name, weight), act)
    return pairs


def _additivity(
    found: Candidates,
    weights: _Table,
    activations: _Table,
    chosen: tuple[list[int], list[int]],
) -> Additivity:
    """Compare predicted sums with true KLs of random allocations around the chosen mean."""
    generator = torch.Generator().manual_seed(found.run.seed)
    images = found.run.images[:IMAGES]
    expected = log_probabilities(found, images)
    near = [_near(t, t.mean(bits)) for t, bits in zip((weights, activations), chosen, strict=True)]
    predicted, true = [], []
    for done in range(ALLOCATIONS):
        w = random_choices(generator, len(weights.units), near[0])
        a = random_choices(generator, len(activations.units), near[1])
        predicted.append(weights.loss(w) + activations.loss(a))
        quantized = found.quantized(_by_gemm(found, weights, activations, w, a))
        true.append(mean_kl(quantized, images, expected))
        found.run.progress("additivity", done + 1, ALLOCATIONS)
    return Additivity(predicted=tuple(predicted), true=tuple(true))


def _near(table: _Table, mean: float) -> list[int]:
    """Return the widths at most two bits away from a mean."""
    return [b for b in table.widths if abs(b - mean) <= 2]
