"""One ONNX Runtime session that runs on the device asked for, or not at all.

ONNX Runtime quietly continues on the CPU when another execution provider can't start, and lists
providers that later fail to load; so the providers of the finished session are what is checked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgevit.bundle import Bundle
from edgevit.bundle.manifest import EXACT_VARIANT
from edgevit.errors import DeviceError, UsageError
from edgevit.runner.engines import engine_of
from edgevit.runner.engines.onnxruntime.installed import onnxruntime_module
from edgevit.runner.engines.onnxruntime.probe import exact_config, saturates
from edgevit.runner.engines.onnxruntime.settings import CPU
from edgevit.runner.engines.threads import check_threads

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.engines.onnxruntime.plugin import ProviderPlugin

    Images = npt.NDArray[np.float32]
    Values = npt.NDArray[np.float32]

# Threads of an idle session would spin for a while and slow down the session measured next.
_DEFAULT_CONFIG = {"session.force_spinning_stop": "1"}
# Elsewhere than on the CPU, a node the provider can't run must not quietly run on the CPU.
_DEVICE_CONFIG = {**_DEFAULT_CONFIG, "session.disable_cpu_ep_fallback": "1"}
_LOG_NOTHING = 4  # its errors are raised, and logged with names that are not made plain


class EngineSession:
    """Runs a serialized ONNX model.

    Args:
        onnx: Serialized ModelProto.
        provider: The execution provider that has to run the model.
        threads: CPU threads within one operator; None leaves it to ONNX Runtime, which takes the
            physical cores. The attribute `threads` then says how many those are, None where that
            can't be seen.
        session_config: ONNX Runtime session configuration entries. Unless it says otherwise,
            integer sums are made exact on the CPU (`edgevit.runner.engines.onnxruntime.probe`), and
            the model is refused when another provider than the CPU can't run all of it.
        optimize: False runs the graph as it is written, without any fusion.
        save_optimized: File to which the graph is written as ONNX Runtime rewrote it.
        plugin: The provider as a registered library; None for one that ONNX Runtime has built in.
        profile: Beginning of the name of the file to which ONNX Runtime writes the time of every
            operator of every run; `end_profile` closes it.

    Raises:
        EnvironmentError_: onnxruntime is not installed (EV701) or can't be used (EV838).
        DeviceError: The provider is not available or not used (EV702), or the engine refuses the
            model (EV703), or the model is no image classifier (EV713).
        UsageError: The number of threads is not positive (EV707) or too large (EV227).
    """

    def __init__(
        self,
        onnx: bytes,
        *,
        provider: str = CPU,
        threads: int | None = None,
        session_config: Mapping[str, str] | None = None,
        optimize: bool = True,
        save_optimized: str | os.PathLike[str] | None = None,
        plugin: ProviderPlugin | None = None,
        profile: str | os.PathLike[str] | None = None,
    ) -> None:
        provider = provider if plugin is None else plugin.name
        self.provider = provider
        runtime = onnxruntime_module()
        if plugin is None and provider not in runtime.get_available_providers():
            raise _wrong_provider(provider, runtime.get_available_providers())
        defaults = _DEFAULT_CONFIG if provider == CPU else _DEVICE_CONFIG
        options = _options(runtime, threads)
        level = runtime.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        )
        if save_optimized is not None:
            options.optimized_model_filepath = os.fspath(save_optimized)
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = os.fspath(profile)
        try:
            exact = exact_config(runtime) if provider == CPU and optimize else {}
            for key, value in {**defaults, **exact, **(session_config or {})}.items():
                options.add_session_config_entry(key, value)
            before, named = _tasks(), {"providers": [provider]}
            if plugin is not None:
                options.add_provider_for_devices(list(plugin.devices), dict(plugin.options))
                named = {}  # providers in the options and by name exclude each other
            self._session = runtime.InferenceSession(onnx, options, **named)
            self.threads = _threads(before) if threads is None else threads
        except Exception as error:  # onnxruntime has no common base class for its errors
            raise _engine_failed("EV703", "The engine refuses the model.", error) from error
        if self._session.get_providers()[:1] != [provider]:
            raise _wrong_provider(provider, self._session.get_providers())
        self._session.disable_fallback()
        self.engine = f"onnxruntime {runtime.__version__}"
        self._input, self._outputs = self._ends()
        self.outputs = tuple(self._outputs)

    def run(self, images: Images) -> Values:
        """Return the main output of normalized images: of classifiers the logits.

        Args:
            images: float32 [B, 3, H, W].

        Returns:
            float32 [B, ...], of classifiers [B, classes].

        Raises:
            UsageError: The images have another dtype or shape (EV706).
            DeviceError: The engine failed (EV704) or returned NaN or infinity (EV705).
        """
        return self._run(images, self.outputs[:1])[self.outputs[0]]

    def run_all(self, images: Images) -> dict[str, Values]:
        """Return every output by name, float32 [B, ...]; arguments and errors as `run`."""
        return self._run(images, self.outputs)

    def _run(self, images: Images, names: tuple[str, ...]) -> dict[str, Values]:
        self._check_images(images)
        try:
            values = self._session.run(list(names), {self._input.name: images})
        except Exception as error:  # as above
            raise _engine_failed("EV704", "The engine failed while running.", error) from error
        for name, value in zip(names, values):
            self._check_output(name, value, len(images))
        return {name: np.asarray(value, dtype=np.float32) for name, value in zip(names, values)}

    def _check_output(self, name: str, value: Values, images: int) -> None:
        known = self._outputs[name] in (0, value.ndim)  # 0 where the model does not say
        fits = known and value.ndim > 0 and len(value) == images
        if not fits or not np.isfinite(value).all():
            raise DeviceError(
                "EV705",
                f"The engine returned {name} that can't be used.",
                where=self.provider,
                why=f"Shape {list(value.shape)}, {np.count_nonzero(~np.isfinite(value))} values"
                " are NaN or infinite.",
                try_next="Try the fp32 model on the same images: if it fails as well, its weights"
                " or the images are to blame; else write the bundle again.",
            )

    def end_profile(self) -> str:
        """Stop profiling; return the path of the file."""
        return str(self._session.end_profiling())

    def _ends(self) -> tuple[Any, dict[str, int]]:
        """Return the input, and output -> its number of dimensions, the main one first."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or not outputs or len(inputs[0].shape) != 4:
            raise DeviceError(
                "EV713",
                "The model does not take one image.",
                why=f"{len(inputs)} inputs, {len(outputs)} outputs; one image [B, 3, H, W] goes "
                "in, and something comes out.",
            )
        return inputs[0], {one.name: len(one.shape) for one in outputs}

    def _check_images(self, images: Images) -> None:
        expected = [size if isinstance(size, int) else None for size in self._input.shape]
        fits = images.ndim == len(expected) and len(images) > 0 and images.dtype == np.float32
        if not fits or any(e not in (None, n) for e, n in zip(expected, images.shape)):
            raise UsageError(
                "EV706",
                "The images do not fit the model's input.",
                why=f"{images.dtype} {list(images.shape)} instead of float32 {expected}.",
            )


def session_from_bundle(
    bundle: Bundle,
    kind: Literal["engine", "fp32"] = "engine",
    *,
    threads: int | None = None,
    provider: str | None = None,
    variant: str | None = None,
    plugin: ProviderPlugin | None = None,
    profile: str | os.PathLike[str] | None = None,
) -> EngineSession:
    """Return a session for a bundle's quantized engine or its fp32 reference.

    Args:
        bundle: An opened bundle; its session configuration applies to the quantized engine.
        kind: "engine" or "fp32".
        threads: As in `EngineSession`.
        provider: Another provider than the one the bundle was made for.
        variant: One of the bundle's variants; if left out the main one, or the form of it that is
            exact on this processor (`variant_here`).
        plugin: As in `EngineSession`, in place of the provider.
        profile: As in `EngineSession`.

    Raises:
        BundleError: The fp32 engine is asked for but not in the bundle (EV425), or the bundle asks
            its engine for something foreign (EV417).
        EdgeViTError: As `EngineSession`.
    """
    engine_of(bundle.manifest)
    if kind == "engine":
        onnx = bundle.engine_onnx(variant or variant_here(bundle, provider))
    else:
        onnx = bundle.required_reference_onnx()
    config = bundle.session_config if kind == "engine" else {}
    return EngineSession(
        onnx,
        provider=provider or bundle.provider,
        threads=threads,
        session_config=config,
        optimize=kind == "fp32" or bundle.optimizes,
        plugin=plugin,
        profile=profile,
    )


def variant_here(bundle: Bundle, provider: str | None = None) -> str:
    """Return the name of the variant whose sums ONNX Runtime computes exactly on this processor.

    Args:
        bundle: An opened bundle.
        provider: As in `session_from_bundle`; on another than the CPU it is the main one.

    Raises:
        EnvironmentError_: onnxruntime is not installed (EV701) or can't be used (EV838).
        DeviceError: The engine refuses the product (EV712).
    """
    if EXACT_VARIANT not in bundle.variants or (provider or bundle.provider) != CPU:
        return bundle.variants[0]
    runtime = onnxruntime_module()
    try:
        return EXACT_VARIANT if saturates(runtime) else bundle.variants[0]
    except Exception as error:  # as above
        raise _engine_failed("EV712", "The engine refuses a product.", error) from error


def _options(runtime: Any, threads: int | None) -> Any:
    check_threads(threads)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_NOTHING
    return options


def _tasks() -> int | None:
    """Return how many threads this process has; None where the system does not say (not Linux)."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None


def _threads(before: int | None) -> int | None:
    """Return the threads of the session just made: its own pool, and the one that calls it.

    ONNX Runtime starts the pool with the session and tells its size nowhere.
    """
    now = _tasks()
    return None if before is None or now is None else max(1, now - before + 1)


def _wrong_provider(provider: str, found: list[str]) -> DeviceError:
    return DeviceError(
        "EV702",
        f"The engine does not run on {provider}.",
        where=f"provider {provider}",
        why=f"ONNX Runtime offers {', '.join(found)} here.",
        try_next="Install the ONNX Runtime build for this device, or name another provider.",
    )


def _engine_failed(code: str, what: str, error: Exception) -> DeviceError:
    return DeviceError(
        code,
        what,
        where="onnxruntime",
        why=str(error).strip()[:2000],
        try_next="Upgrade onnxruntime; if that does not help, write the bundle again.",
    )
