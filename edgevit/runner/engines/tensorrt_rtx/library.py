"""TensorRT for RTX as a `Library`: engines are compiled for a capability, specialised on the card.

An engine that was compiled ahead of time gets its kernels on the card, at the first run of a batch
size. They are kept in a runtime cache beside the engine, for this card and this driver.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgevit.errors import EnvironmentError_
from edgevit.runner.engines.tensorrt.bindings import MessageLog
from edgevit.runner.engines.tensorrt.library import Library, Running
from edgevit.runner.engines.tensorrt_rtx.bindings import load_rtx
from edgevit.runner.engines.tensorrt_rtx.bundled import bundled_engine
from edgevit.runner.engines.tensorrt_rtx.compiling import capability_of, check_capabilities
from edgevit.runner.engines.tensorrt_rtx.validity import check_engine

if TYPE_CHECKING:
    from edgevit.runner.engines.tensorrt.cuda_device import DeviceFacts
    from edgevit.runner.engines.tensorrt.kept_kernels import KernelStore

_NOT_FITTING = (
    "the kernels kept for this engine are of another driver, card or version, or damaged; they"
    " are made anew"
)


def _capabilities(facts: DeviceFacts) -> tuple[str, ...]:
    """Return the card's own; raises EV771 for a card that the compiler has no code for."""
    found = (capability_of(facts.compute_capability),)
    check_capabilities(found)
    return found


def _version(trt: Any) -> str:
    return str(trt.__version__)


def _started(trt: Any, engine: Any, store: KernelStore | None, log: MessageLog) -> Running:
    """Return a context whose kernels are specialised before they run, and kept."""
    runtime_config = engine.create_runtime_config()
    # The session captures graphs itself, for both libraries; two captures can't be nested.
    runtime_config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
    # Lazily, the first runs of a batch size would be measured with kernels that are replaced later.
    runtime_config.dynamic_shapes_kernel_specialization_strategy = (
        trt.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    runtime_cache = runtime_config.create_runtime_cache()
    notes = _restored(runtime_cache, store)
    runtime_config.set_runtime_cache(runtime_cache)
    context = engine.create_execution_context(runtime_config)
    return Running(context, lambda: _keep(runtime_cache, store), notes)


def _restored(runtime_cache: Any, store: KernelStore | None) -> tuple[str, ...]:
    """Put kept kernels into the cache; return a note if there are some that don't fit."""
    known = None if store is None else store.read()
    if store is None or known is None or (known and runtime_cache.deserialize(known)):
        return ()
    store.forget()
    return (_NOT_FITTING,)


def _keep(runtime_cache: Any, store: KernelStore | None) -> None:
    """Store the kernels; where there is no room they are made anew next time."""
    data = None if store is None else runtime_cache.serialize()
    if store is not None and data is not None:
        with suppress(EnvironmentError_):
            store.write(bytes(data))


RTX = Library(
    name="tensorrt_rtx",
    title="TensorRT for RTX",
    load=load_rtx,
    version=_version,
    capabilities=_capabilities,
    check=check_engine,
    start=_started,
    bundled=bundled_engine,
)
