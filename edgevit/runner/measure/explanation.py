"""Time of an engine, block by block, beside the engine that it is compared with."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Iterable, Sequence

from edgevit.runner.measure.reason import Reason


@dataclass(frozen=True)
class Part:
    """One kernel or operator of an engine.

    Args:
        block: Block of the model that it belongs to.
        kind: What it does, such as "integer product".
        precision: Of the product that it holds; empty if it holds none.
        time_ms: Its time.
        bound: What most of its time waits for, such as "memory"; empty where it is not known.
    """

    block: str
    kind: str
    precision: str
    time_ms: float
    bound: str = ""


@dataclass(frozen=True)
class Share:
    """All parts of one block, or of one kind.

    Args:
        name: The block or the kind.
        time_ms: Their time.
        parts: How many they are.
        products: Precision -> products in it.
    """

    name: str
    time_ms: float
    parts: int
    products: dict[str, int]


@dataclass(frozen=True)
class Form:
    """One form of the model as an engine.

    Args:
        name: Such as "int8" or "fp32".
        time_ms: Time of all parts.
        blocks: In execution order.
        kinds: By time, the longest first.
        reasons: Why it is not faster than the form it is compared with, costliest first.
        crossover_batch: Batch from which on it is predicted to be faster; None if there is none or
            nothing is predicted.
        bounds: What most of a part's time waits for -> milliseconds of such parts; empty where it
            is not known.
    """

    name: str
    time_ms: float
    blocks: tuple[Share, ...]
    kinds: tuple[Share, ...]
    reasons: tuple[Reason, ...] = ()
    crossover_batch: int | None = None
    bounds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


def form_of(
    name: str,
    parts: Sequence[Part],
    reasons: Iterable[Reason] = (),
    crossover_batch: int | None = None,
) -> Form:
    """Return a form of its parts, given in execution order."""
    kinds = sorted(_shares(parts, "kind"), key=lambda share: -share.time_ms)
    return Form(
        name=name,
        time_ms=sum(part.time_ms for part in parts),
        blocks=tuple(_shares(parts, "block")),
        kinds=tuple(kinds),
        reasons=tuple(reasons),
        crossover_batch=crossover_batch,
        bounds={one.name: one.time_ms for one in _shares(parts, "bound") if one.name},
    )


def _shares(parts: Sequence[Part], key: str) -> list[Share]:
    """Return one share per value of a field, in the order in which they first come."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(getattr(part, key), []).append(part)
    return [
        Share(name, sum(part.time_ms for part in group), len(group), _counted(group))
        for name, group in groups.items()
    ]


def _counted(parts: Iterable[Part]) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in parts:
        if part.precision:
            found[part.precision] = found.get(part.precision, 0) + 1
    return found
