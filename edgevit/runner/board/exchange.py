"""Measurements as JSON, so that a board can measure and another machine make the report.

Outputs are left out: the report needs each image's five best classes, its label, what was added
up of the outputs, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from edgevit.errors import DeviceError
from edgevit.runner.measure.accuracy import Predictions
from edgevit.runner.measure.latency import LatencySamples
from edgevit.runner.measure.measurements import Measurements
from edgevit.runner.measure.selfcheck import SelfCheck

SCHEMA_VERSION = 1


def dict_from_measurements(measured: Measurements) -> dict[str, Any]:
    """Return a JSON-able dictionary."""
    return {
        "schema_version": SCHEMA_VERSION,
        "engine": _predictions_dict(measured.engine),
        "fp32": _predictions_dict(measured.fp32) if measured.fp32 else None,
        "self_check": asdict(measured.self_check),
        "latency_ms": {name: one.samples_ms.tolist() for name, one in measured.latency.items()},
        "latency_conditions": dict(measured.latency_conditions),
        "peak_memory_bytes": dict(measured.peak_memory_bytes),
        "skipped_images": list(measured.skipped_images),
        "warnings": list(measured.warnings),
        "engine_used": dict(measured.engine_used),
        "telemetry": None if measured.telemetry is None else dict(measured.telemetry),
        "build": None if measured.build is None else dict(measured.build),
        "task": None if measured.task is None else dict(measured.task),
    }


def measurements_from_dict(content: Mapping[str, Any]) -> Measurements:
    """Read what `dict_from_measurements` wrote.

    Raises:
        DeviceError: It is something else (EV845).
    """
    try:
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {content['schema_version']}")
        latency = content["latency_ms"].items()
        return Measurements(
            engine=_predictions(content["engine"]),
            fp32=_predictions(content["fp32"]) if content["fp32"] else None,
            self_check=SelfCheck(**content["self_check"]),
            latency={name: LatencySamples(samples_ms=np.array(ms, float)) for name, ms in latency},
            latency_conditions=content["latency_conditions"],
            peak_memory_bytes=content["peak_memory_bytes"],
            skipped_images=tuple(content["skipped_images"]),
            warnings=tuple(content["warnings"]),
            engine_used=content["engine_used"],
            telemetry=content["telemetry"],
            build=content["build"],
            task=content.get("task"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DeviceError(
            "EV845",
            "The board's measurements can't be read.",
            why=f"{type(error).__name__}: {error}",
            try_next="Deploy again; the board and this machine have to run the same EdgeViT.",
        ) from error


def _predictions_dict(predictions: Predictions) -> dict[str, Any]:
    return {"top5": predictions.top5.tolist(), "labels": predictions.labels.tolist()}


def _predictions(content: Mapping[str, Any]) -> Predictions:
    labels = np.array(content["labels"], dtype=np.int64)  # [N]
    top5 = np.array(content["top5"], dtype=np.int64)  # [N, 5], or [N, 0] without classes
    if top5.ndim != 2 or len(top5) != len(labels):
        raise ValueError(f"{list(top5.shape)} classes for {list(labels.shape)} labels")
    return Predictions(top5=top5, labels=labels, logits=np.zeros((0, 0), np.float32))
