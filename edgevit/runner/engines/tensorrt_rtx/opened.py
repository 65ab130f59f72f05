"""Opens a bundle with TensorRT for RTX: natively, or as the provider of ONNX Runtime asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgevit.errors import UnsupportedError

if TYPE_CHECKING:
    from edgevit.bundle import Bundle
    from edgevit.runner.engines.base import OpenedBundle
    from edgevit.runner.measure.conditions import Conditions


def open_rtx(
    bundle: Bundle, conditions: Conditions, *arguments: Any, **options: Any
) -> OpenedBundle:
    """Return the engines; arguments as in `edgevit.runner.engines.base.Open`.

    Raises:
        UnsupportedError: A provider is asked for that is another engine's (EV780).
        EdgeViTError: What the library, CUDA or ONNX Runtime raise.
    """
    from edgevit.runner.engines.tensorrt_rtx.plugin import PROVIDER, open_with_plugin

    if conditions.provider == PROVIDER:
        return open_with_plugin(bundle, conditions, *arguments, **options)
    if conditions.provider is not None:
        raise UnsupportedError(
            "EV780",
            "Bundles for RTX cards run on no such provider.",
            where=f"--provider {conditions.provider}",
            why="Other providers rewrite the graph, and no longer compute what was simulated.",
            try_next=f"Leave --provider out, or --provider {PROVIDER}.",
        )
    from edgevit.runner.engines.tensorrt.opened import open_kept
    from edgevit.runner.engines.tensorrt_rtx.library import RTX

    return open_kept(bundle, conditions, *arguments, **options, library=RTX)
