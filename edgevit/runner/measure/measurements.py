"""Measures everything about a bundle on this machine; the same code runs here and on a board.

The engines run side by side: same images, same process, latency in alternation. What was measured
is kept raw; statistics are made of it elsewhere (`edgevit.runner.measure.validation`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.bundle.limits import IMAGES_AT_ONCE
from edgevit.bundle.outputs import is_classifier
from edgevit.data.normalizing import normalizer
from edgevit.data.tasks import CLASSIFY
from edgevit.runner.engines import engine_named
from edgevit.runner.engines.choice import choose_engine
from edgevit.runner.measure.accuracy import Predictions, predict_all
from edgevit.runner.measure.conditions import Conditions
from edgevit.runner.measure.latency import LatencySamples
from edgevit.runner.measure.memory import peak_memory_bytes
from edgevit.runner.measure.selfcheck import MIN_SQNR_DB, SelfCheck, self_check
from edgevit.runner.measure.task import started
from edgevit.runner.telemetry import measure_watched, why_not_counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgevit.bundle import Bundle
    from edgevit.runner.engines.base import OpenedBundle
    from edgevit.runner.engines.choice import EngineChoice
    from edgevit.runner.measure.accuracy import Batch
    from edgevit.runner.measure.conditions import Progress


BATCH = IMAGES_AT_ONCE
"""Images per batch of the accuracy runs."""
_WARMUP_ROUNDS, _MAX_LATENCY_SECONDS = 10, 300


@dataclass(frozen=True)
class Measurements:
    """Everything that was measured for one bundle.

    Args:
        engine: Predictions of the quantized engine.
        fp32: Predictions of the fp32 reference on the same images; None without a reference.
        self_check: The golden images through the engine.
        latency: Samples by engine name ("fp32", "engine"); empty when not measured.
        latency_conditions: threads (of the CPU; None where the engine runs elsewhere or they
            can't be counted), batch, rounds, warmup and whatever else held.
        peak_memory_bytes: By engine name; empty when not measured.
        skipped_images: Names of damaged images that were left out.
        warnings: Counted warnings of this validation, beside those in the bundle.
        engine_used: name and version of the engine, its provider, and whether it stands in.
        telemetry: What `edgevit.runner.telemetry.measure_watched` says of the latency runs; None
            where there are no sensors or nothing was timed.
        build: With TensorRT, which variant was kept and why, with a row for each.
        task: Errors of every output against fp32, and the task's own rows, as
            `edgevit.runner.measure.task.TaskMeasurement.to_dict` gives them.
    """

    engine: Predictions
    fp32: Predictions | None
    self_check: SelfCheck
    latency: Mapping[str, LatencySamples]
    latency_conditions: Mapping[str, Any]
    peak_memory_bytes: Mapping[str, int]
    skipped_images: Sequence[str] = ()
    warnings: Sequence[str] = ()
    engine_used: Mapping[str, Any] = field(default_factory=dict)
    telemetry: Mapping[str, Any] | None = None
    build: Mapping[str, Any] | None = None
    task: Mapping[str, Any] | None = None


class _WholeRun:
    """A session whose run brings every output, which is what latency of such a model means."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run(self, images: Any) -> Any:
        return self._session.run_all(images)


def measure(
    bundle: Bundle,
    batches: Callable[[], Iterable[Batch]],
    num_images: int,
    conditions: Conditions,
    progress: Progress,
) -> Measurements:
    """Run everything that is measured.

    Args:
        bundle: An opened bundle.
        batches: Returns (pixels uint8 [b, H, W, 3], labels int64 [b], names) tuples, anew each
            time: with TensorRT every variant of the bundle is run on them.
        num_images: How many images those are, for the progress.
        conditions: Engine, threads, batch size and rounds.
        progress: Called with (stage, done, total).

    Raises:
        EdgeViTError: What the engines and the images raise.
    """
    bundle.check_limits(max(BATCH, conditions.batch))
    choice = choose_engine(bundle.manifest, conditions.engine)
    engine, normalize = engine_named(choice.name), normalizer(bundle.preprocessing)
    opened = engine.open(
        bundle, conditions, batches, normalize, progress, stands_in=choice.stands_in
    )
    sessions, kinds = opened.sessions, list(opened.sessions)
    checked = self_check(sessions["engine"], opened.golden, normalize)
    task = started(bundle.manifest["model"])
    predictions = predict_all(
        sessions,
        batches(),
        normalize,
        on_batch=lambda done: progress("accuracy", done, num_images),
        classifies=bundle.task == CLASSIFY,
        watch=task.add,
    )
    used, threads = _used_engine(opened, choice), sessions["engine"].threads
    latency: dict[str, LatencySamples] = {}
    telemetry = None
    if not choice.stands_in:
        golden = opened.golden["images"]
        images = golden[np.arange(conditions.batch) % len(golden)]  # [batch, H, W, 3]
        watch = opened.clock or engine.clock
        latency, telemetry = _latency(
            _timed(sessions, bundle), normalize(images), conditions.rounds, watch, progress
        )
    sessions.clear()  # frees their memory before that of fresh processes is measured
    return Measurements(
        engine=predictions["engine"],
        fp32=predictions.get("fp32"),
        self_check=checked,
        latency=latency,
        latency_conditions=_describe(conditions, threads) if latency else {},
        peak_memory_bytes=_memory(bundle, kinds, choice, conditions, progress),
        warnings=[
            *choice.warnings,
            *opened.warnings,
            *_far_outputs(checked),
            *_void(opened.build, telemetry),
        ],
        engine_used=used,
        telemetry=telemetry,
        build=opened.build,
        task=task.to_dict(),
    )


def _timed(sessions: Mapping[str, Any], bundle: Bundle) -> dict[str, Any]:
    if is_classifier(bundle.manifest["model"]):
        return dict(sessions)
    return {name: _WholeRun(session) for name, session in sessions.items()}


def _far_outputs(checked: SelfCheck) -> list[str]:
    """Return a warning for each output in which engine and simulation differ too much."""
    rows = (checked.outputs or {}).items()
    return [
        f"the engine's {name} is not the simulation's: SQNR {one['sqnr_db'] or 0:.1f} dB on the "
        f"golden images, {MIN_SQNR_DB:g} dB or an error below quantization's was expected"
        for name, one in rows
        if not one["within"]
    ]


def _used_engine(opened: OpenedBundle, choice: EngineChoice) -> dict[str, Any]:
    session = opened.sessions["engine"]
    return {
        "name": session.engine,
        "provider": session.provider,
        "stands_in": choice.stands_in,
        "variant": opened.variant,
    }


def _latency(
    sessions: Mapping[str, Any], images: Any, rounds: int, watch: str, progress: Progress
) -> tuple[dict[str, LatencySamples], dict[str, Any] | None]:
    """Return samples by engine for float32 [batch, 3, H, W], and the telemetry.

    Latencies that do not count are measured once more; `retimed_because` in the telemetry then says
    why the first ones did not.
    """
    progress("latency", 0, 1)

    def once() -> tuple[dict[str, LatencySamples], dict[str, Any] | None]:
        return measure_watched(
            sessions,
            images,
            watch=watch,
            warmup=_WARMUP_ROUNDS,
            rounds=rounds,
            max_seconds=_MAX_LATENCY_SECONDS,
        )

    samples, telemetry = once()
    refused = why_not_counted(telemetry)
    if refused:
        samples, telemetry = once()
    progress("latency", 1, 1)
    return samples, None if telemetry is None else {**telemetry, "retimed_because": refused}


def _void(build: Mapping[str, Any] | None, telemetry: Mapping[str, Any] | None) -> list[str]:
    """Return why latencies do not count: those of the variants, and those of the rows."""
    variants = why_not_counted(None if build is None else build["telemetry"])
    return [
        *(f"the latencies of the variants do not count: {reason}" for reason in variants),
        *(f"the latencies do not count: {reason}" for reason in why_not_counted(telemetry)),
    ]


def _describe(conditions: Conditions, threads: int | None) -> dict[str, Any]:
    return {
        "threads": threads,
        "batch": conditions.batch,
        "rounds": conditions.rounds,
        "warmup": _WARMUP_ROUNDS,
    }


def _memory(
    bundle: Bundle,
    kinds: Sequence[Any],
    choice: EngineChoice,
    conditions: Conditions,
    progress: Progress,
) -> dict[str, int]:
    """Return engine name -> peak memory in bytes of a fresh process, where that says something."""
    if choice.stands_in or engine_named(choice.name).session is None:
        return {}
    found = {}
    for done, kind in enumerate(kinds, 1):
        found[kind] = peak_memory_bytes(
            bundle.path, kind, threads=conditions.threads, provider=conditions.provider
        )
        progress("peak memory", done, len(kinds))
    return found
