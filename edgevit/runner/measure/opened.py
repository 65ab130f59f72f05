"""Opens what is measured: the quantized engine and the fp32 reference, on the engine chosen.

With TensorRT a bundle's variants are built and tried first (`edgevit.runner.engines.tensorrt`); the
one that the policy keeps is the engine, and the decision with its rows goes into the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.errors import DeviceError
from edgevit.runner.engines.choice import onnxruntime_session
from edgevit.runner.engines.onnxruntime.session import variant_here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt

    from edgevit.bundle import Bundle
    from edgevit.runner.engines.choice import EngineChoice
    from edgevit.runner.engines.tensorrt import Decision
    from edgevit.runner.measure.accuracy import Batch, Normalize
    from edgevit.runner.measure.conditions import Conditions, Progress

    Batches = Callable[[], Iterable[Batch]]


@dataclass(frozen=True)
class Opened:
    """Engines that are ready to be measured.

    Args:
        sessions: "engine", and "fp32" where the bundle has a reference.
        golden: Golden images with the simulated logits of the variant that "engine" is.
        variant: Which one that is.
        build: The decision among the variants, its rows, and what the engine made of each layer;
            None where there was no choice.
    """

    sessions: dict[str, Any]
    golden: Mapping[str, npt.NDArray[Any]]
    variant: str
    build: Mapping[str, Any] | None = None


def open_all(
    bundle: Bundle,
    choice: EngineChoice,
    conditions: Conditions,
    batches: Batches,
    normalize: Normalize,
    progress: Progress,
) -> Opened:
    """Open a bundle's engines; with TensorRT build, try and choose among its variants.

    Args:
        bundle: An opened bundle.
        choice: What `choose_engine` said.
        conditions: How it is measured.
        batches: Returns the labelled images anew each time; they judge each variant's accuracy.
        normalize: Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W].
        progress: Called with (stage, done, total).

    Raises:
        DeviceError: No variant may be used (EV827).
        EdgeViTError: What the engines raise.
    """
    if choice.name == "tensorrt":
        return _tensorrt(bundle, conditions, batches, normalize, progress)
    kinds: list[Any] = ["fp32", "engine"] if bundle.has_reference else ["engine"]
    sessions = {
        kind: onnxruntime_session(
            bundle, kind, choice, threads=conditions.threads, provider=conditions.provider
        )
        for kind in kinds
    }
    variant = variant_here(bundle, conditions.provider)
    return Opened(sessions=sessions, golden=bundle.golden(variant), variant=variant)


def _tensorrt(
    bundle: Bundle,
    conditions: Conditions,
    batches: Batches,
    normalize: Normalize,
    progress: Progress,
) -> Opened:
    from edgevit.runner.engines.tensorrt import EngineOptions, TrialPlan, engine_for, layer_table
    from edgevit.runner.engines.tensorrt import choose_engine as choose_variant
    from edgevit.runner.engines.tensorrt.building import BuildSettings
    from edgevit.runner.engines.tensorrt.gate import gate_against

    settings = BuildSettings(best_batch=conditions.batch, max_batch=max(16, conditions.batch))
    options, golden = EngineOptions(settings=settings, tool="python"), bundle.golden()
    gate, sessions = None, {}
    if bundle.has_reference:
        progress("build fp32", 0, 1)
        sessions["fp32"] = engine_for(bundle, "fp32", options=options)
        progress("build fp32", 1, 1)
        gate = gate_against(sessions["fp32"], conditions.max_drop, batches, normalize)
    plan = TrialPlan(
        golden=golden, normalize=normalize, batch=conditions.batch, rounds=conditions.rounds
    )
    decision, _ = choose_variant(bundle, plan, options=options, gate=gate, progress=progress)
    kept = _kept(decision)
    sessions["engine"] = engine_for(bundle, kept, options=options)
    rows = layer_table(bundle, kept, sessions["engine"], normalize(golden["images"][:1]))
    return Opened(
        sessions=sessions,
        golden=_golden_of(golden, kept),
        variant=kept,
        build={**decision.to_dict(), "layers": [row.to_dict() for row in rows]},
    )


def _golden_of(golden: Mapping[str, npt.NDArray[Any]], variant: str) -> dict[str, npt.NDArray[Any]]:
    """Return the golden arrays as if the variant were the only one."""
    from edgevit.runner.engines.tensorrt.parity import simulated_logits

    return {**golden, "logits_simulated": simulated_logits(golden, variant)}


def _kept(decision: Decision) -> str:
    if decision.kept is None:
        raise DeviceError(
            "EV827",
            "No variant of the bundle may be used on this device.",
            why=decision.reason,
            try_next="Quantize with more bits or another method, or allow a larger --max-drop.",
        )
    return decision.kept
