"""TensorRT and TensorRT for RTX as values: same classes and calls, and the few things that differ.

Everything else of building, running, measuring and choosing is the same code for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.runner.engines.tensorrt.bindings import (
    MessageLog,
    load_tensorrt,
    version_from_text,
    version_text,
)

if TYPE_CHECKING:
    from edgevit.bundle import Bundle
    from edgevit.runner.engines.tensorrt.cuda_device import DeviceFacts
    from edgevit.runner.engines.tensorrt.kept_kernels import KernelStore


@dataclass(frozen=True)
class BundledEngine:
    """An engine that was compiled ahead of time and put into a bundle.

    Args:
        version: Of what compiled it; the engine runs with no other.
        capabilities: What it was compiled for, such as ("SM86", "SM89").
        max_batch: Its largest batch.
        read: Returns the serialized engine.
    """

    version: str
    capabilities: tuple[str, ...]
    max_batch: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Running:
    """An execution context, and what it learns while it runs.

    Args:
        context: The library's IExecutionContext.
        keep: Called after the first run of each batch size; keeps what was made for this card.
        notes: What did not go as it should, and does not matter.
    """

    context: Any
    keep: Callable[[], None]
    notes: tuple[str, ...] = ()


def _no_engine(bundle: Bundle, variant: str, wanted: tuple[str, ...]) -> BundledEngine | None:
    return None


def _fits(trt: Any, runtime: Any, plan: bytes, log: MessageLog) -> None:
    """Ask nothing: TensorRT tells what is wrong when it loads an engine."""


def _own_device(facts: DeviceFacts) -> tuple[str, ...]:
    return ()


def _version(trt: Any) -> str:
    return version_text(version_from_text(trt.__version__))


def _started(trt: Any, engine: Any, store: KernelStore | None, log: MessageLog) -> Running:
    return Running(engine.create_execution_context(), lambda: None)


@dataclass(frozen=True)
class Library:
    """One of NVIDIA's two libraries.

    Args:
        name: As it is imported, and the name of its engine.
        title: For people.
        load: Returns the module, or raises what is wrong with it.
        version: Returns the version of the module that engines are bound to.
        capabilities: Returns what an engine for a card is compiled for; none for the device here.
        check: Refuses an engine that can't run here: (module, runtime, engine, log).
        start: Returns an execution context: (module, engine, store of kernels, log).
        bundled: Returns the engine that a bundle holds of a variant, the one for these capabilities
            if there is such a one; None for none.
    """

    name: str
    title: str
    load: Callable[[], Any]
    version: Callable[[Any], str] = _version
    capabilities: Callable[[DeviceFacts], tuple[str, ...]] = _own_device
    check: Callable[[Any, Any, bytes, MessageLog], None] = _fits
    start: Callable[[Any, Any, KernelStore | None, MessageLog], Running] = _started
    bundled: Callable[[Bundle, str, tuple[str, ...]], BundledEngine | None] = _no_engine


TENSORRT = Library(name="tensorrt", title="TensorRT", load=load_tensorrt)
