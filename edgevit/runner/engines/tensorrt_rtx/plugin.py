"""The second way to run TensorRT for RTX: its execution provider for ONNX Runtime, a plugin.

It is NVIDIA's package `onnxruntime-ep-nv-tensorrt-rtx-cu13`, with the libraries of TensorRT for
RTX inside and compiles the graph when a session is opened. Asked for by its provider's name.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from edgevit.data.tasks import CLASSIFY
from edgevit.errors import EnvironmentError_
from edgevit.runner.engines.base import OpenedBundle
from edgevit.runner.engines.onnxruntime.installed import onnxruntime_module
from edgevit.runner.engines.onnxruntime.plugin import ProviderPlugin
from edgevit.runner.engines.onnxruntime.session import EngineSession, session_from_bundle
from edgevit.runner.engines.tensorrt.caching import EngineCache
from edgevit.runner.engines.tensorrt.cuda_device import driver_too_old, no_card
from edgevit.runner.engines.tensorrt.gate import gate_against
from edgevit.runner.engines.tensorrt.opened import golden_of, keep_text
from edgevit.runner.engines.tensorrt.trial_plan import OpenedVariant, TrialPlan
from edgevit.runner.engines.tensorrt.trials import try_variants

if TYPE_CHECKING:
    from edgevit.bundle import Bundle
    from edgevit.runner.engines.base import Batches
    from edgevit.runner.measure.accuracy import Normalize
    from edgevit.runner.measure.conditions import Conditions, Progress

PROVIDER = "NvTensorRTRTXExecutionProvider"
_CACHE_OPTION = "nv_runtime_cache_path"  # of the provider: where kernels for the card are kept


def open_with_plugin(
    bundle: Bundle,
    conditions: Conditions,
    batches: Batches,
    normalize: Normalize,
    progress: Progress,
    *,
    stands_in: bool,
) -> OpenedBundle:
    """Return the engines; arguments as in `edgevit.runner.engines.base.Open`.

    Raises:
        DeviceError: There is no driver (EV772) or card (EV773), or no variant may be used (EV827).
        EdgeViTError: The plugin is missing (EV779), or ONNX Runtime refuses the model.
    """
    plugin, golden = registered_plugin(EngineCache()), bundle.golden()
    gate, sessions = None, {}
    if bundle.has_reference:
        sessions["fp32"] = session_from_bundle(bundle, "fp32", plugin=plugin)
        gate = gate_against(
            sessions["fp32"],
            conditions.max_drop,
            batches,
            normalize,
            classifies=bundle.task == CLASSIFY,
        )

    def session(variant: str) -> EngineSession:
        return session_from_bundle(bundle, variant=variant, plugin=plugin)

    plan = TrialPlan(
        golden=golden, normalize=normalize, batch=conditions.batch, rounds=conditions.rounds
    )
    ordered = sorted(bundle.variants, key=lambda name: name != "fp16")  # the baseline first
    decision, _ = try_variants(
        ordered, lambda name: OpenedVariant(session(name)), plan, gate=gate, progress=progress
    )
    kept = keep_text(decision)
    sessions["engine"] = session(kept)
    return OpenedBundle(
        sessions=sessions,
        golden=golden_of(golden, kept),
        variant=kept,
        build={**decision.to_dict(), "layers": []},
    )


def registered_plugin(cache: EngineCache) -> ProviderPlugin:
    """Return the provider, with the cards it runs on.

    Args:
        cache: Where it keeps the kernels made for them.

    Raises:
        EnvironmentError_: It is not installed or does not load (EV779), or the cache can't be
            written (EV755).
        DeviceError: There is no driver (EV772) or no card (EV773).
    """
    runtime = onnxruntime_module()
    _register(runtime)
    devices = tuple(one for one in runtime.get_ep_devices() if one.ep_name == PROVIDER)
    if not devices:
        raise no_card("get_ep_devices", f"{PROVIDER} finds no card that it runs on.")
    return ProviderPlugin(PROVIDER, devices, {_CACHE_OPTION: str(cache.part("plugin"))})


@lru_cache(maxsize=1)
def _register(runtime: Any) -> None:
    """Register the library, once a process."""
    if not hasattr(runtime, "register_execution_provider_library"):
        raise _not_there(f"ONNX Runtime {runtime.__version__} takes no plugins; 1.24 does.")
    try:
        import onnxruntime_ep_nv_tensorrt_rtx as package

        runtime.register_execution_provider_library(PROVIDER, package.get_library_path())
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        said = str(error).strip()[:1000]
        if "libcuda.so" in said or "nvcuda.dll" in said:  # what the driver brings
            raise driver_too_old("register_execution_provider_library", said) from error
        raise _not_there(said) from error


def _not_there(why: str) -> EnvironmentError_:
    return EnvironmentError_(
        "EV779",
        "The provider of TensorRT for RTX can't be loaded into ONNX Runtime.",
        where=f"--provider {PROVIDER}",
        why=why,
        try_next="pip install 'onnxruntime>=1.24' onnxruntime-ep-nv-tensorrt-rtx-cu13 (-cu12 where"
        " the driver has CUDA 12 only), or leave --provider out.",
    )
