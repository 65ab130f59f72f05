"""Turns raw measurements into the validation report: one JSON-able dictionary.

Accuracies, agreements and drops are in percent (0 to 100), sizes and memory in bytes, latencies in
milliseconds. What was not measured is null; nothing is estimated in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgevit.bundle import Bundle
from edgevit.bundle.shares import multiply_add_shares
from edgevit.data.tasks import CLASSIFY
from edgevit.runner.measure.accuracy import Predictions
from edgevit.runner.measure.chance import Chance, against_chance
from edgevit.runner.measure.eer import EerAsked, rates_of
from edgevit.runner.measure.latency import LatencySamples, median_paired_ratio
from edgevit.runner.measure.measurements import Measurements
from edgevit.runner.measure.paired import Interval, compare
from edgevit.runner.measure.statistics import (
    decide,
    mcnemar_exact_p,
    ratio_of_medians,
    wilson_percent,
)

__all__ = ["Measurements", "validation_report"]

SCHEMA_VERSION = 1
_NAMED_SKIPS = 20
_ENGINES = ("fp32", "engine")
_FEWEST_IMAGES = 2  # with one an interval over images has no width


def validation_report(
    bundle: Bundle,
    measured: Measurements,
    *,
    max_drop_points: float | None = None,
    confidence: float = 0.95,
    eer: EerAsked | None = None,
    labels: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the validation report.

    Args:
        bundle: The bundle that was measured.
        measured: What was measured.
        max_drop_points: Largest acceptable top-1 drop in percentage points; without it the report
            has no verdict (null). Where fp32 is at chance level, or all images are of one class, a
            drop says nothing and the verdict is UNDECIDED.
        confidence: Of every interval.
        eer: Which Efficient Error Rate; that of bits and size if left out.
        labels: What the images' labels were taken from; see `edgevit.data.labels.label_facts`.

    Raises:
        UsageError: Predictions that are no pairs (EV801) or EER weights that don't fit (EV802).
    """
    manifest, model = bundle.manifest, bundle.manifest["model"]
    chance = against_chance(measured.fp32 or measured.engine)
    worthless = _worthless(manifest, measured, chance)
    top1, top5 = _accuracies(measured, 1), _accuracies(measured, 5)
    report = {
        "schema_version": SCHEMA_VERSION,
        "model": model["name"],
        "parameters": model.get("parameters"),
        "flops": model.get("flops"),
        "target": manifest["target"],
        "bits": manifest["bits"],
        "multiply_adds": _shares(bundle, measured),
        "engine": dict(measured.engine_used),
        "num_images": measured.engine.num_images,
        "confidence": confidence,
        "labels": None if labels is None else dict(labels),
        "chance": None if chance is None else chance.to_dict(),
        "top1": top1,
        "top5": top5,
        "top1_interval": _accuracy_intervals(measured, confidence),
        "agreement": {
            "engine_vs_fp32": _agreement(measured),
            "engine_vs_simulated": measured.self_check.agreement_percent,
        },
        "self_check": measured.self_check.to_dict(),
        "task": None if measured.task is None else dict(measured.task),
        **_drop(measured, max_drop_points, confidence, worthless, bundle.task),
        "latency_ms": {name: _percentiles(measured.latency.get(name)) for name in _ENGINES},
        "images_per_second": {name: _throughput(measured, name) for name in _ENGINES},
        "latency_conditions": dict(measured.latency_conditions),
        "build": None if measured.build is None else dict(measured.build),
        "telemetry": None if measured.telemetry is None else dict(measured.telemetry),
        "energy_mj": {name: _energy(measured.telemetry, name) for name in _ENGINES},
        **_speedup(measured.latency, confidence),
        "size_bytes": _sizes(bundle),
        "peak_memory_bytes": {name: measured.peak_memory_bytes.get(name) for name in _ENGINES},
        "skipped_images": {
            "count": len(measured.skipped_images),
            "names": list(measured.skipped_images)[:_NAMED_SKIPS],
        },
        "warnings": [*_one_warning(worthless), *manifest["warnings"], *measured.warnings],
    }
    return {**report, **rates_of(report, eer or EerAsked())}


def _shares(bundle: Bundle, measured: Measurements) -> dict[str, Any] | None:
    """Return how the multiply-adds of the form that was measured are computed."""
    variant = measured.engine_used.get("variant")
    return multiply_add_shares(bundle.layers(variant if variant in bundle.variants else None))


def _one_warning(sentences: tuple[str, ...]) -> list[str]:
    return [" ".join(sentences)] if sentences else []


def _worthless(
    manifest: Mapping[str, Any], measured: Measurements, chance: Chance | None
) -> tuple[str, ...]:
    """Return why these accuracies say nothing and what to do about it; empty if they do."""
    if chance is None:
        return ()
    if chance.num_classes == 1:
        return (
            f"All {measured.engine.num_images} images are of one class: who always names it is "
            "right on 100 %.",
            "Give images of several classes.",
        )
    if chance.above is not False:
        return ()
    who = "The engine" if measured.fp32 is None else "fp32 itself"
    top1 = (measured.fp32 or measured.engine).accuracy_percent(1)
    found = f"{who} is at chance level ({top1:.1f} % with {chance.num_classes} classes)"
    if chance.one_answer:
        found = f"{who} says the same of every image"
    if manifest["model"].get("pretrained") is False:
        return (f"{found}, so a drop says nothing.", "Its weights are random.")
    return (
        f"{found}, so a drop says nothing.",
        "Preprocessing or the order of the classes is probably wrong: compare the labels above, "
        "and the preprocessing in `edgevit inspect --json -`, with how the model was trained.",
    )


def _accuracies(measured: Measurements, k: int) -> dict[str, float | None]:
    fp32 = measured.fp32
    return {
        "fp32": fp32.accuracy_percent(k) if fp32 else None,
        "engine": measured.engine.accuracy_percent(k),
    }


def _accuracy_intervals(
    measured: Measurements, confidence: float
) -> dict[str, dict[str, float] | None]:
    intervals: dict[str, dict[str, float] | None] = {}
    for name, predictions in (("fp32", measured.fp32), ("engine", measured.engine)):
        intervals[name] = None
        if predictions is not None and predictions.labelled:
            hits = int(predictions.correct(1).sum())
            interval = wilson_percent(hits, predictions.num_images, confidence=confidence)
            intervals[name] = interval.to_dict()
    return intervals


def _agreement(measured: Measurements) -> float | None:
    if measured.fp32 is None or not measured.fp32.top5.shape[1]:
        return None
    return 100 * float(np.mean(measured.engine.top5[:, 0] == measured.fp32.top5[:, 0]))


def _drop(
    measured: Measurements,
    max_drop_points: float | None,
    confidence: float,
    worthless: tuple[str, ...],
    task: str,
) -> dict[str, Any]:
    """Return the paired comparison of fp32 and engine, and the verdict with its reason."""
    undecided = max_drop_points is not None
    report: dict[str, Any] = {
        "drop_points": None,
        "discordant": None,
        "mcnemar_p": None,
        "max_drop_points": max_drop_points,
        "verdict": "UNDECIDED" if undecided else None,
        "verdict_reason": "" if undecided else "No limit was asked for.",
        "images_needed": None,
    }
    if measured.fp32 is None:
        report["verdict_reason"] = "The bundle has no fp32 reference to compare with."
    elif task != CLASSIFY:
        report.update(_task_verdict(measured.task or {}, max_drop_points))
    elif not measured.engine.labelled:
        report["verdict_reason"] = "Not every image has a label."
    else:
        report.update(_comparison(measured.fp32, measured.engine, max_drop_points, confidence))
        if worthless and undecided:
            report.update(verdict="UNDECIDED", verdict_reason=worthless[0], images_needed=None)
    return report


def _task_verdict(task: Mapping[str, Any], max_drop_points: float | None) -> dict[str, Any]:
    """Return drop and verdict of a task whose main row is in percent; else why there is none."""
    main = next((row for row in task.get("metrics", []) if row["label"] == task["main"]), None)
    if main is None or main["change"] is None or main["unit"] != "%":
        return {"verdict_reason": _compared(task)}
    low, high = (main["change"] if main[end] is None else main[end] for end in ("low", "high"))
    drop = Interval(value=-main["change"], low=-high, high=-low)
    if max_drop_points is None:
        return {"drop_points": drop.to_dict()}
    if task["num_images"] < _FEWEST_IMAGES:
        return {"drop_points": drop.to_dict(), "verdict_reason": "One image decides nothing."}
    said = f"The drop of {main['label']} is {drop.value:.2f} points [{drop.low:.2f}, "
    return {
        "drop_points": drop.to_dict(),
        "verdict": decide(drop, max_drop_points),
        "verdict_reason": f"{said}{drop.high:.2f}]; {max_drop_points:g} are allowed.",
    }


def _compared(task: Mapping[str, Any]) -> str:
    """Return what was compared with fp32 where nothing says what is right."""
    rows = [row for row in task.get("metrics", []) if row["engine"] is not None]
    if not rows:
        return "Nothing says what is right for these images, so there is no drop to judge."
    found = f"{rows[0]['engine']:.2f} {rows[0]['unit']}".rstrip()
    return (
        "Nothing says what is right for these images, so there is no drop to judge; compared with "
        f"fp32: {rows[0]['label']} {found}."
    )


def _comparison(
    fp32: Predictions, engine: Predictions, max_drop_points: float | None, confidence: float
) -> dict[str, Any]:
    found = compare(fp32, engine, confidence=confidence)
    report: dict[str, Any] = {
        "drop_points": found.drop.to_dict(),
        "discordant": {
            "only_fp32_right": found.only_fp32,
            "only_engine_right": found.only_engine,
        },
        "mcnemar_p": mcnemar_exact_p(found.only_fp32, found.only_engine),
    }
    if max_drop_points is not None:
        report["images_needed"] = found.images_needed(max_drop_points)
        report["verdict"] = decide(found.drop, max_drop_points)
        report["verdict_reason"] = found.reason(max_drop_points)
    return report


def _percentiles(samples: LatencySamples | None) -> dict[str, float] | None:
    if samples is None:
        return None
    return {"p50": samples.p50_ms, "p90": samples.p90_ms, "p99": samples.p99_ms}


def _throughput(measured: Measurements, name: str) -> float | None:
    """Return images per second at the median latency of the batches that were timed."""
    samples = measured.latency.get(name)
    if samples is None:
        return None
    return 1000 * float(measured.latency_conditions["batch"]) / samples.p50_ms


def _energy(telemetry: Mapping[str, Any] | None, name: str) -> float | None:
    """Return millijoules per image above idle; None where it was not measured."""
    row = (telemetry or {}).get("energy", {}).get(name)
    return None if row is None else row["energy_mj"]


def _speedup(latency: Mapping[str, LatencySamples], confidence: float) -> dict[str, Any]:
    if not set(_ENGINES) <= set(latency):
        return {"speedup": None, "speedup_interval": None}
    fp32, engine = latency["fp32"], latency["engine"]
    ratio = ratio_of_medians(fp32.samples_ms, engine.samples_ms, confidence=confidence)
    paired = median_paired_ratio(fp32, engine)
    return {
        "speedup": ratio.value,
        "speedup_interval": {**ratio.to_dict(), "median_paired_ratio": paired},
    }


def _sizes(bundle: Bundle) -> dict[str, int | None]:
    """Return bytes on disk: fp32 model, quantized model, and the bundle without the fp32 model."""
    return {
        "fp32": bundle.size_bytes("reference") if bundle.has_reference else None,
        "engine": bundle.size_bytes("engine"),
        "bundle": bundle.size_bytes("bundle"),
    }
