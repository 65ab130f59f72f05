"""The conditions of a measurement: engine, threads, batch, rounds and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Conditions:
    """The conditions under which a bundle is measured.

    Args:
        engine: One of `edgevit.runner.engines.choice.engine_choices`.
        threads: CPU threads of the engines, None to leave it to them; TensorRT has no use for it.
        provider: ONNX Runtime provider; None for the one the bundle was made for.
        batch: Batch size of the latency runs.
        rounds: Alternating latency rounds.
        max_drop: Points of top-1 that a TensorRT variant may lose against fp32; see
            `edgevit.runner.engines.tensorrt.gate`.
        trust_code: Run a compiled engine in the bundle that another machine compiled.
    """

    engine: str = "auto"
    threads: int | None = None
    provider: str | None = None
    batch: int = 1
    rounds: int = 50
    max_drop: float = 1.0
    trust_code: bool = False
