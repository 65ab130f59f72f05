"""Opens what is measured with TensorRT: a bundle's variants are built, tried, and one is kept.

The decision with its rows, and what the engine made of each layer, go into the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgevit.bundle.golden import as_main
from edgevit.data.tasks import CLASSIFY
from edgevit.errors import DeviceError
from edgevit.runner.engines.base import OpenedBundle
from edgevit.runner.engines.tensorrt.building import BuildSettings
from edgevit.runner.engines.tensorrt.choosing import choose_variant, engine_tables
from edgevit.runner.engines.tensorrt.cuda import open_device
from edgevit.runner.engines.tensorrt.gate import gate_against
from edgevit.runner.engines.tensorrt.library import TENSORRT, Library
from edgevit.runner.engines.tensorrt.opening import EngineOptions, build_engine
from edgevit.runner.engines.tensorrt.parity import simulated_outputs
from edgevit.runner.engines.tensorrt.trial_plan import TrialPlan

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.bundle import Bundle
    from edgevit.runner.engines.base import Batches
    from edgevit.runner.engines.tensorrt.policy import Decision
    from edgevit.runner.measure.accuracy import Normalize
    from edgevit.runner.measure.conditions import Conditions, Progress


def open_kept(
    bundle: Bundle,
    conditions: Conditions,
    batches: Batches,
    normalize: Normalize,
    progress: Progress,
    *,
    stands_in: bool,
    library: Library = TENSORRT,
) -> OpenedBundle:
    """Return the engines; arguments as in `edgevit.runner.engines.base.Open`.

    Args:
        library: TensorRT, or TensorRT for RTX.

    Raises:
        DeviceError: No variant may be used (EV827).
        EdgeViTError: What TensorRT and CUDA raise.
    """
    settings = BuildSettings(best_batch=conditions.batch, max_batch=max(16, conditions.batch))
    options = EngineOptions(settings=settings, library=library, trust_code=conditions.trust_code)
    golden, gate, sessions = bundle.golden(), None, {}
    notes: list[str] = []
    _check_device(library)
    if bundle.has_reference:
        progress("build fp32", 0, 1)
        fp32 = build_engine(bundle, "fp32", options=options)
        sessions["fp32"] = fp32.session
        notes += fp32.notes
        progress("build fp32", 1, 1)
        gate = gate_against(
            sessions["fp32"],
            conditions.max_drop,
            batches,
            normalize,
            classifies=bundle.task == CLASSIFY,
        )
    plan = TrialPlan(
        golden=golden, normalize=normalize, batch=conditions.batch, rounds=conditions.rounds
    )
    decision, _ = choose_variant(
        bundle,
        plan,
        options=options,
        gate=gate,
        progress=progress,
        on_opened=lambda engine: notes.extend(engine.notes),
    )
    kept = keep_text(decision)
    built = build_engine(bundle, kept, options=options)
    sessions["engine"] = built.session
    rows, table = engine_tables(
        bundle, built, normalize(golden["images"][:1]), max_batch=settings.max_batch
    )
    shown = {"layers": [row.to_dict() for row in rows], "kernels": table.to_dict()}
    return OpenedBundle(
        sessions=sessions,
        golden=golden_of(golden, kept),
        variant=kept,
        build={**decision.to_dict(), **shown},
        warnings=tuple(dict.fromkeys(notes)),
    )


def _check_device(library: Library) -> None:
    """Refuse a machine without the device at once, not once for each variant."""
    library.load()
    library.capabilities(open_device().facts())


def golden_of(golden: Mapping[str, npt.NDArray[Any]], variant: str) -> dict[str, npt.NDArray[Any]]:
    """Return the golden arrays as if the variant were the only one."""
    simulated_outputs(golden, variant)  # refuses where there are none
    return as_main(golden, variant)


def keep_text(decision: Decision) -> str:
    """Return the variant that is kept.

    Raises:
        DeviceError: None may be used (EV827).
    """
    if decision.kept is None:
        raise DeviceError(
            "EV827",
            "No variant of the bundle may be used on this device.",
            why=decision.reason,
            try_next="Quantize with more bits or another method, or allow a larger --max-drop.",
        )
    return decision.kept
