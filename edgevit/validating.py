"""The verb `validate`: measure a bundle on this device, and the limits a report must keep."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.bundle import Bundle, open_bundle
from edgevit.calibration.progress import Progress, silent
from edgevit.data import ImageSet, Preprocessing, open_images
from edgevit.errors import AccuracyGateError, LatencyGateError, UndecidedError, UsageError

if TYPE_CHECKING:
    from edgevit.report.validation import Measurements

DEFAULT_MAX_DROP = 1.0
"""Points of top-1 the verdict allows when the user sets no limit."""


def validate(
    bundle: str | Path | Bundle,
    data: str | Path | ImageSet,
    *,
    num: int | None = None,
    seed: int = 0,
    max_drop: float | None = None,
    max_latency_ms: float | None = None,
    threads: int | None = None,
    batch: int = 1,
    rounds: int = 50,
    provider: str | None = None,
    eer_weights: tuple[float, float] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure a bundle on this device and return the report (see docs/validate.md).

    Args:
        bundle: A folder or an opened bundle.
        data: Labelled images; class folders are matched with the model's class names.
        num: Use only this many images, drawn class-balanced with `seed`.
        max_drop: Accuracy limit in points for the verdict; 1.0 if left out.
        max_latency_ms: Not used here; `check_gates` compares it with the report.
        threads: CPU threads of the engines, None for all cores.
        batch: Batch size of the latency runs.
        rounds: Alternating latency rounds.
        provider: ONNX Runtime provider; None for the one the bundle was made for.
        eer_weights: Weights of (bits, size) in the weighted Efficient Error Rate.
        progress: Called with (stage, done, total).

    Raises:
        EdgeViTError: Any of `edgevit.errors`; accuracy and latency gates are `check_gates`.
    """
    from edgevit.report.validation import validation_report

    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    images = labelled(
        data, _class_names(opened), opened.manifest["model"]["num_classes"], num, seed
    )
    check_limits(max_drop=max_drop, max_latency_ms=max_latency_ms)
    if batch < 1:
        raise UsageError("EV207", f"A batch of {batch} images can't be run.", where="--batch")
    engine = _Engine(threads=threads, provider=provider)
    measured = _measured(opened, images, engine, batch, rounds, progress)
    weights = None
    if eer_weights is not None:
        weights = {"bits": eer_weights[0], "size_megabytes": eer_weights[1]}
    return validation_report(
        opened,
        measured,
        max_drop_points=DEFAULT_MAX_DROP if max_drop is None else max_drop,
        eer_weights=weights,
    )


@dataclass(frozen=True, kw_only=True)
class _Engine:
    """How sessions are opened: CPU threads (None for all cores) and provider."""

    threads: int | None
    provider: str | None


def labelled(
    data: str | Path | ImageSet,
    classes: tuple[str, ...] | None,
    num_classes: int,
    num: int | None,
    seed: int,
) -> ImageSet:
    """Return the images, or `num` of them drawn with `seed`, with the model's labels."""
    from edgevit.data import labels_for

    images = data if isinstance(data, ImageSet) else open_images(data)
    if num is not None:
        images = images.subset(num, seed)
    return labels_for(classes, images, num_classes)


def _measured(
    bundle: Bundle, images: ImageSet, engine: _Engine, batch: int, rounds: int, progress: Progress
) -> Measurements:
    """Run everything that is measured, the engines side by side."""
    from edgevit.report.validation import Measurements
    from edgevit.runner.accuracy import predict_all
    from edgevit.runner.selfcheck import self_check
    from edgevit.runner.session import session_from_bundle

    preprocessing = Preprocessing.from_dict(bundle.preprocessing)
    kinds: list[Any] = ["fp32", "engine"] if bundle.has_reference else ["engine"]
    sessions = {
        kind: session_from_bundle(bundle, kind, threads=engine.threads, provider=engine.provider)
        for kind in kinds
    }
    checked = self_check(sessions["engine"], bundle.golden(), preprocessing.normalize)
    predictions = predict_all(
        sessions,
        images.batches(preprocessing, 16),
        preprocessing.normalize,
        on_batch=lambda done: progress("accuracy", done, len(images)),
    )
    latency, conditions = _latency(bundle, sessions, batch, rounds, engine.threads, progress)
    sessions.clear()  # frees their memory before that of fresh processes is measured
    return Measurements(
        engine=predictions["engine"],
        fp32=predictions.get("fp32"),
        self_check=checked,
        latency=latency,
        latency_conditions=conditions,
        peak_memory_bytes=_memory(bundle, kinds, engine, progress),
        skipped_images=[str(name) for name in images.skipped],
    )


def _memory(
    bundle: Bundle, kinds: list[Any], engine: _Engine, progress: Progress
) -> dict[str, int]:
    """Return engine name -> peak memory in bytes of a fresh process."""
    from edgevit.runner.memory import peak_memory_bytes

    found = {}
    for done, kind in enumerate(kinds, 1):
        found[kind] = peak_memory_bytes(
            bundle.path, kind, threads=engine.threads, provider=engine.provider
        )
        progress("peak memory", done, len(kinds))
    return found


def _class_names(bundle: Bundle) -> tuple[str, ...] | None:
    classes = bundle.manifest["model"].get("classes")
    return None if classes is None else tuple(classes)


def _latency(
    bundle: Bundle,
    sessions: dict[str, Any],
    batch: int,
    rounds: int,
    threads: int | None,
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return samples by engine and the conditions they were taken under."""
    from edgevit.runner.latency import measure_alternating

    images = bundle.golden()["images"]
    images = images[np.arange(batch) % len(images)]  # [batch, H, W, 3]
    image = Preprocessing.from_dict(bundle.preprocessing).normalize(images)
    progress("latency", 0, 1)
    samples = measure_alternating(sessions, image, warmup=10, rounds=rounds, max_seconds=300)
    progress("latency", 1, 1)
    used = threads if threads is not None else os.cpu_count()
    return dict(samples), {"threads": used, "batch": batch, "rounds": rounds, "warmup": 10}


def check_limits(*, max_drop: float | None, max_latency_ms: float | None) -> None:
    """Refuse limits that can't be compared with, before anything is measured.

    Raises:
        UsageError: A limit is not a finite number (EV218).
    """
    for name, limit in (("--max-drop", max_drop), ("--max-latency-ms", max_latency_ms)):
        if limit is not None and not math.isfinite(limit):
            raise UsageError(
                "EV218",
                f"{limit} is not a limit.",
                where=name,
                why="A limit is a finite number.",
                try_next=f"{name} 1",
            )


def check_gates(
    report: dict[str, Any], *, max_drop: float | None, max_latency_ms: float | None
) -> None:
    """Raise when a limit the user set does not hold.

    Raises:
        AccuracyGateError: The drop is above `max_drop` (EV501).
        UndecidedError: There are too few images to tell (EV502).
        LatencyGateError: The median latency is above `max_latency_ms` (EV601).
    """
    if max_drop is not None and report["verdict"] == "FAIL":
        raise AccuracyGateError(
            "EV501",
            "The accuracy drop is above the limit.",
            where=f"--max-drop {max_drop:g}",
            why=report["verdict_reason"],
            try_next="Quantize to more bits, or leave sensitive layers in float.",
        )
    if max_drop is not None and report["verdict"] == "UNDECIDED":
        raise UndecidedError(
            "EV502",
            "There are too few images to decide.",
            where=f"--max-drop {max_drop:g}",
            why=report["verdict_reason"],
            try_next="Validate on more images.",
        )
    p50 = report["latency_ms"]["engine"]["p50"]
    if max_latency_ms is not None and p50 > max_latency_ms:
        raise LatencyGateError(
            "EV601",
            "The latency is above the limit.",
            where=f"--max-latency-ms {max_latency_ms:g}",
            why=f"The engine's median is {p50:.2f} ms.",
            try_next="Use more threads, a smaller model, or a faster device.",
        )
