"""The verb `explain`: where an engine's time goes, block by block, and why 8 bits are not faster.

A bundle for ONNX Runtime is run here, beside fp32. One for a GPU is predicted from its kernels,
which NVIDIA's compiler lists without the GPU; the report says PREDICTION everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bundle import Bundle
from edgevit.errors import EnvironmentError_, UnsupportedError
from edgevit.progress import Progress, no_progress
from edgevit.runner.engines import engine_of, open_for_engine, target_name
from edgevit.runner.measure.limits import check_runs

if TYPE_CHECKING:
    from edgevit.runner.engines.tensorrt.kernel_table import KernelTable
    from edgevit.runner.measure.explanation import Form
    from edgevit.targets.tensorrt.profiles import DeviceProfile

_SCHEMA_VERSION = 1
PREDICTION, MEASURED = "prediction", "measured"
_COMPILED_BY = ("tensorrt", "tensorrt_rtx")


def explain(
    bundle: str | Path | Bundle,
    *,
    batch: int = 1,
    variant: str | None = None,
    threads: int | None = None,
    rounds: int = 30,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return where the time goes, as a JSON-able report (see docs/explain.md).

    Args:
        bundle: A folder or an opened bundle.
        batch: Batch size.
        variant: The form to look at; the main one if left out.
        threads: CPU threads of a bundle that runs here; None leaves it to the engine.
        rounds: Rounds of a bundle that runs here.
        progress: Called with (stage, done, total).

    Returns:
        ``how`` ("prediction" or "measured"), ``batch``, ``device``, ``overhead``, ``shown`` (the
        form that the table is about), and per form in ``forms`` its time, blocks, kinds, reasons
        and predicted crossover; the first form is the one that the others are compared with.

    Raises:
        UnsupportedError: Its engine can't be explained (EV855), or no compiler is known for its
            device (EV856); or as `edgevit.runner.engines.tensorrt.explaining`.
        EnvironmentError_: Kernels are needed and neither in the bundle nor to be had (EV857).
        UsageError: No such variant (EV416), or numbers that can't be right.
        BundleError: The bundle is damaged.
    """
    check_runs(threads=threads, batch=batch, rounds=rounds)
    opened = bundle if isinstance(bundle, Bundle) else open_for_engine(bundle)
    opened.layers(variant)  # refuses one that is not there
    engine = engine_of(opened.manifest).name
    if engine == "onnxruntime":
        found = _measured(opened, batch, variant, threads, rounds, progress)
    elif engine in _COMPILED_BY:
        found = _predicted(opened, batch, variant, progress)
    else:
        raise UnsupportedError(
            "EV855",
            "This engine can't be explained.",
            where=str(opened.path),
            why=f"The bundle is for {engine}; it works for onnxruntime, {', '.join(_COMPILED_BY)}.",
            try_next="`edgevit validate` measures the whole.",
        )
    return {
        "schema_version": _SCHEMA_VERSION,
        "model": opened.manifest["model"]["name"],
        "target": target_name(opened.manifest),
        "batch": batch,
        **found,
    }


def _measured(
    bundle: Bundle,
    batch: int,
    variant: str | None,
    threads: int | None,
    rounds: int,
    progress: Progress,
) -> dict[str, Any]:
    import numpy as np

    from edgevit.data import Preprocessing
    from edgevit.runner.engines.onnxruntime.profiling import measured_forms

    bundle.check_limits(batch)
    pixels = bundle.golden()["images"]  # [n, H, W, 3]
    repeated = np.resize(pixels, (batch, *pixels.shape[1:]))
    images = Preprocessing.from_dict(bundle.preprocessing).normalize(repeated)
    progress("profile", 0, 1)
    forms, overhead = measured_forms(
        bundle, images, variant=variant, threads=threads, rounds=rounds
    )
    progress("profile", 1, 1)
    costs = {name: one.to_dict() for name, one in overhead.items()}
    device = {"name": "this processor", "threads": threads, "rounds": rounds}
    return _report(MEASURED, forms, forms[-1].name, device, costs)


def _predicted(
    bundle: Bundle, batch: int, variant: str | None, progress: Progress
) -> dict[str, Any]:
    from dataclasses import asdict

    from edgevit.runner.engines.tensorrt.device_peaks import DEVICES
    from edgevit.runner.engines.tensorrt.explaining import predicted_forms
    from edgevit.targets.tensorrt.profiles import profile_named

    profile = profile_named(target_name(bundle.manifest))
    device = DEVICES[profile.name]
    tables = kernels_of(bundle, profile, progress)
    shown = variant or bundle.variants[0]
    forms = predicted_forms(bundle, tables, device, batch, shown)
    table = tables[shown]
    facts = {
        **asdict(device),
        "name": device.device,
        "kernels_from": f"{table.engine} for {', '.join(table.capabilities)}",
    }
    return _report(PREDICTION, forms, shown, facts, None)


def kernels_of(
    bundle: Bundle, profile: DeviceProfile, progress: Progress = no_progress
) -> dict[str, KernelTable]:
    """Return variant -> kernels: those in the bundle, else those that NVIDIA's compiler makes.

    Raises:
        UnsupportedError: The compiler has nothing of the device's generation (EV856).
        EnvironmentError_: The compiler is not installed (EV857).
        DeviceError: The compiler makes no engine of a graph (EV752, EV753).
    """
    from edgevit.runner.engines.tensorrt.kernel_table import tables_for

    found = tables_for(bundle.kernel_tables(), profile.compiles_as)
    if found:
        return found
    if not profile.compiles_as:
        raise UnsupportedError(
            "EV856",
            "The kernels of this device can't be known here.",
            where=profile.name,
            why="TensorRT for RTX compiles for nothing of its generation ahead of time.",
            try_next="`edgevit deploy` measures the engine that the board builds itself.",
        )
    return _compiled(bundle, profile, progress)


def _compiled(bundle: Bundle, profile: DeviceProfile, progress: Progress) -> dict[str, KernelTable]:
    from edgevit.runner.engines.tensorrt_rtx.bindings import load_rtx
    from edgevit.runner.engines.tensorrt_rtx.compiling import SETTINGS, compiled_from_onnx

    try:
        load_rtx()
    except EnvironmentError_ as error:
        raise EnvironmentError_(
            "EV857",
            "The bundle holds no kernels, and the compiler that tells them is not here.",
            where=str(bundle.path),
            why=error.why,
            try_next="pip install 'edgevit[rtx]', and explain again; `edgevit build` keeps the"
            " kernels in the bundle, which can then be explained anywhere.",
        ) from error
    found = {}
    for done, name in enumerate(bundle.variants):
        progress("compile", done, len(bundle.variants))
        engine = compiled_from_onnx(bundle.engine_onnx(name), (profile.compiles_as,))
        found[name] = engine.table(name, SETTINGS.max_batch)
    progress("compile", len(found), len(found))
    return found


def _report(
    how: str,
    forms: list[Form],
    shown: str,
    device: Mapping[str, Any],
    overhead: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "how": how,
        "device": dict(device),
        "overhead": overhead,
        "shown": shown,
        "forms": [form.to_dict() for form in forms],
    }
