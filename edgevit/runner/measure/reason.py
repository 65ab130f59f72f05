"""A reason why one engine is not faster than another: what it costs, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Iterable

_MOST_REASONS = 3


@dataclass(frozen=True)
class Reason:
    """One reason.

    Args:
        cost_ms: Milliseconds that it costs.
        text: What it is, as a sentence.
        remedy: What to do, as a sentence.
    """

    cost_ms: float
    text: str
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


def costliest(reasons: Iterable[Reason]) -> list[Reason]:
    """Return the three costliest reasons, the costliest first."""
    return sorted(reasons, key=lambda reason: -reason.cost_ms)[:_MOST_REASONS]
