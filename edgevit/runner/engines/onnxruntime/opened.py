"""Opens a bundle's engines in ONNX Runtime, its own or in the place of another engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgevit.errors import UnsupportedError
from edgevit.runner.engines import engine_of
from edgevit.runner.engines.base import OpenedBundle
from edgevit.runner.engines.onnxruntime.session import session_from_bundle, variant_here
from edgevit.runner.engines.onnxruntime.settings import CPU

if TYPE_CHECKING:
    from edgevit.bundle import Bundle
    from edgevit.runner.engines.base import Batches
    from edgevit.runner.measure.accuracy import Normalize
    from edgevit.runner.measure.conditions import Conditions, Progress


def open_engines(
    bundle: Bundle,
    conditions: Conditions,
    batches: Batches,
    normalize: Normalize,
    progress: Progress,
    *,
    stands_in: bool,
) -> OpenedBundle:
    """Return the engines; arguments as in `edgevit.runner.engines.base.Open`.

    A graph for another engine runs without optimizations, as its manifest says.

    Raises:
        UnsupportedError: It stands in for another and a provider is asked for (EV828).
        EdgeViTError: ONNX Runtime is missing or refuses the model.
    """
    provider = conditions.provider
    if stands_in:
        provider = _stand_in_provider(bundle, provider)
    kinds: list[Any] = ["fp32", "engine"] if bundle.has_reference else ["engine"]
    sessions = {
        kind: session_from_bundle(bundle, kind, threads=conditions.threads, provider=provider)
        for kind in kinds
    }
    variant = variant_here(bundle, conditions.provider)
    clock = "cpu" if sessions["engine"].provider == CPU else "gpu"
    golden = bundle.golden(variant)
    return OpenedBundle(sessions=sessions, golden=golden, variant=variant, clock=clock)


def _stand_in_provider(bundle: Bundle, asked: str | None) -> str:
    if asked not in (None, CPU):
        raise UnsupportedError(
            "EV828",
            f"The stand-in for {engine_of(bundle.manifest).title} runs on the CPU only.",
            where=f"--provider {asked}",
            why="Other providers rewrite the graph, and no longer compute what was simulated.",
            try_next="Leave --provider out.",
        )
    return CPU
