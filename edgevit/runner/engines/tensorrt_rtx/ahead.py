"""Compiles a graph for several cards, in as few engines as lose nothing.

One engine for several cards has the kernels that all of them can run, which may be more than one
of them needs: of q, k and v in FP8 that are three products SM120 makes more than SM89. So each card
is compiled for by itself first, and those with equally many kernels share an engine where that has
no more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Mapping, Sequence

from edgevit.errors import UnsupportedError
from edgevit.runner.engines.tensorrt.building import BuildSettings
from edgevit.runner.engines.tensorrt_rtx.compiling import (
    CompiledEngine,
    check_capabilities,
    compiled_from_onnx,
)

_NUMBER = re.compile(r"(?:sm_?)?([0-9]{1,3})\.?([0-9])\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Compilation:
    """Engines of one graph.

    Args:
        engines: Each for one or several cards; no card has two.
        refused: Capability -> why there is none for it.
    """

    engines: tuple[CompiledEngine, ...]
    refused: Mapping[str, UnsupportedError] = field(default_factory=dict)


def capabilities_from_texts(texts: Sequence[str]) -> tuple[str, ...]:
    """Return ("SM86", "SM120") for "sm86", "SM86" or "8.6", and "12.0".

    Raises:
        UsageError: The compiler has no code for one of them, or one stands twice (EV771).
    """
    names = tuple(_capability(text.strip()) for text in texts)
    check_capabilities(names)
    return names


def _capability(text: str) -> str:
    found = _NUMBER.match(text)
    return f"SM{found[1]}{found[2]}" if found else text


def compilation_from_onnx(
    onnx: bytes, capabilities: Sequence[str], settings: BuildSettings
) -> Compilation:
    """Compile a graph for several cards.

    Args:
        onnx: As for `compiled_from_onnx`.
        capabilities: As for `compiled_from_onnx`.
        settings: Batch sizes above all.

    Raises:
        EdgeViTError: As `compiled_from_onnx`; cards without a unit for a type of the graph are
            told in the result.
    """
    alone: dict[str, CompiledEngine] = {}
    refused: dict[str, UnsupportedError] = {}
    for name in capabilities:
        try:
            alone[name] = compiled_from_onnx(onnx, (name,), settings=settings)
        except UnsupportedError as error:
            # Its traceback would keep the builder alive, and the next one's messages go to its log.
            refused[name] = error.with_traceback(None)
    engines: list[CompiledEngine] = []
    for group in _equally_many_kernels(alone):
        engines += _shared(onnx, [alone[name] for name in group], settings)
    return Compilation(tuple(engines), refused)


def _equally_many_kernels(alone: Mapping[str, CompiledEngine]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, engine in alone.items():
        groups.setdefault(len(engine.layers), []).append(name)
    return list(groups.values())


def _shared(
    onnx: bytes, alone: Sequence[CompiledEngine], settings: BuildSettings
) -> Sequence[CompiledEngine]:
    """Return one engine for the cards of several, or these where it would have more kernels."""
    if len(alone) == 1:
        return alone
    names = [engine.capabilities[0] for engine in alone]
    together = compiled_from_onnx(onnx, names, settings=settings)
    return [together] if len(together.layers) <= len(alone[0].layers) else alone
