"""Chooses one width per unit so that the summed loss is least and the summed cost in a budget.

A multiple-choice knapsack (Sinha and Zoltners, Operations Research 27, 1979), solved exactly by
dynamic programming over the budget. Where the budget has too many steps for that, costs are
rounded up to a whole number of buckets: the budget still holds, the loss is least up to that.
"""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np
import numpy.typing as npt

Losses = npt.NDArray[np.float64]
Costs = npt.NDArray[np.int64]
BUCKETS = 20_000


def allocate(
    losses: Losses, costs: Costs, budget: float, *, buckets: int = BUCKETS
) -> list[int] | None:
    """Return the choice of every unit, or None if even the cheapest choices exceed the budget.

    Args:
        losses: [U, B], what each of B choices loses at each of U units.
        costs: int64 [U, B], not negative.
        budget: What the chosen costs may sum to.
        buckets: Steps of the dynamic programme.
    """
    steps, limit = _bucket(costs, budget, buckets)
    if int(steps.min(1).sum()) > limit:  # rounding up may be what does not fit
        cheapest = [int(choice) for choice in costs.argmin(1)]
        return cheapest if int(costs.min(1).sum()) <= budget else None
    least = np.zeros(limit + 1)  # least[k]: loss of the units so far within k steps
    taken = np.zeros((len(losses), limit + 1), dtype=np.int16)
    for unit in range(len(losses)):
        options = np.stack([_shift(least, int(step)) for step in steps[unit]])  # [B, K + 1]
        options += losses[unit][:, None]
        taken[unit] = options.argmin(0)
        least = options.min(0)
    return _trace(taken, steps, limit)


def _bucket(costs: Costs, budget: float, buckets: int) -> tuple[Costs, int]:
    """Return the costs in whole steps, rounded up, and how many steps the budget has."""
    divisor = max(int(np.gcd.reduce(costs.reshape(-1))), 1)
    budget = min(budget, float(costs.max(1).sum()))  # more can't be spent
    if budget < buckets * divisor:
        return costs // divisor, floor(budget / divisor)
    step = budget / buckets
    return np.ceil(costs / step - 1e-9).astype(np.int64), buckets


def _shift(least: npt.NDArray[Any], step: int) -> npt.NDArray[Any]:
    """Return what was least `step` steps earlier; infinite where there is no such place."""
    moved = np.full_like(least, np.inf)
    if step < len(least):
        moved[step:] = least[: len(least) - step]
    return moved


def _trace(taken: npt.NDArray[Any], steps: Costs, place: int) -> list[int]:
    """Return the choices that led to a place, the last unit's first."""
    chosen = []
    for unit in range(len(taken) - 1, -1, -1):
        chosen.append(int(taken[unit, place]))
        place -= int(steps[unit, chosen[-1]])
    return chosen[::-1]
