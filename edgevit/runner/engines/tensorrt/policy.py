"""Chooses among the engines built of one model on one device: the fastest that may be used.

A pure function of what was measured. An engine may be used when it computes what was simulated
(parity) and its images do not show that it loses more accuracy than allowed (gate). It is preferred
to FP16 only if it is faster beyond doubt (the whole confidence interval of the median paired ratio
lies above 1) and by enough to matter. FP16 winning is a normal outcome; its main reasons are then
given with the milliseconds they cost. Latencies that do not count show nothing to be faster: the
most accurate form stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgevit.runner.engines.tensorrt.gate import FAIL, NOT_JUDGED, UNDECIDED, Gate
from edgevit.runner.engines.tensorrt.layer_table import EngineSummary
from edgevit.runner.engines.tensorrt.parity import EngineParity, ParityLimits
from edgevit.runner.engines.tensorrt.reasons import fp16_reasons
from edgevit.runner.telemetry import why_not_counted

BASELINE = "fp16"
_LIMITS = ParityLimits()


@dataclass(frozen=True)
class Trial:
    """One variant of the model on the device.

    Args:
        variant: Such as "fp16", "int8", "int8_attention", "fp8".
        failure: Why there is no engine or it does not run; empty if it does.
        parity: None if it was not checked.
        gate: The accuracy gate.
        samples_ms: Latencies, measured in turns with the other variants; same length for all.
        energy_mj: Millijoules per image above idle; None where that can't be told.
        kernel_ms: Median time on the GPU alone; None if it was not measured.
        engine: The engine in numbers; None if it was not inspected.
        build_seconds: How long the build took; None from the cache.
    """

    variant: str
    failure: str = ""
    parity: EngineParity | None = None
    gate: Gate = NOT_JUDGED
    samples_ms: tuple[float, ...] = ()
    energy_mj: float | None = None
    kernel_ms: float | None = None
    engine: EngineSummary | None = None
    build_seconds: float | None = None


@dataclass(frozen=True)
class Ratio:
    """Speed as a multiple of the baseline's: median of paired ratios with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Decision:
    """The variant that was chosen, and why.

    Args:
        kept: The variant to use; None if none may be used.
        reason: Why, in one sentence.
        fp16_reasons: When FP16 is kept although others may be used: up to three reasons.
        rows: One dictionary per trial, as in the report.
        telemetry: What held while they were timed; see
        `edgevit.runner.engines.tensorrt.timing.Timing`.
    """

    kept: str | None
    reason: str
    fp16_reasons: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    telemetry: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


def decide_variant(
    trials: Sequence[Trial],
    *,
    limits: ParityLimits = _LIMITS,
    confidence: float = 0.95,
    min_speedup: float = 1.02,
    telemetry: Mapping[str, Any] | None = None,
) -> Decision:
    """Return the variant to keep.

    Args:
        trials: All variants, in the order in which they are shown.
        limits: What counts as computing the same as the simulation.
        confidence: Of the interval that a speed-up has to clear.
        min_speedup: How many times as fast as FP16 another variant has to be at least.
        telemetry: What held while they were timed; None where that is not known.
    """
    excluded = {trial.variant: why_not(trial, limits) for trial in trials}
    excluded.update(_less_sure(trials, excluded))
    usable = [trial for trial in trials if not excluded[trial.variant]]
    baseline = next((trial for trial in trials if trial.variant == BASELINE), None)
    ratios = {trial.variant: _against(baseline, trial, confidence) for trial in trials}
    rows = tuple(
        _row(trial, excluded[trial.variant], ratios[trial.variant], telemetry) for trial in trials
    )
    if not usable:
        reason = "No variant may be used: " + _all_of(excluded)
        return Decision(None, reason, (), rows, telemetry)
    refused = why_not_counted(telemetry)
    if refused:
        kept, reason = _most_accurate(usable, refused)
    else:
        kept, reason = _fastest(usable, ratios, min_speedup)
    if kept.gate.verdict == UNDECIDED:
        reason += f" Its accuracy is not decided: {kept.gate.reason}"
    reasons = () if refused else _why_fp16(kept, usable)
    return Decision(kept.variant, reason, reasons, rows, telemetry)


def why_not(trial: Trial, limits: ParityLimits) -> str:
    """Return why a variant may not be used, empty if it may."""
    if trial.failure:
        return f"failed: {trial.failure}"
    if trial.parity is None:
        return "parity: it was not checked"
    broken = limits.broken_by(trial.parity)
    if broken:
        return broken
    if trial.gate.verdict == FAIL:
        return f"accuracy FAIL: {trial.gate.reason}"
    return "" if trial.samples_ms else "latency: it was not measured"


def _less_sure(trials: Sequence[Trial], excluded: Mapping[str, str]) -> dict[str, str]:
    """Return variant -> why it is left out: undecided accuracy, while another one passed."""
    usable = [trial for trial in trials if not excluded[trial.variant]]
    undecided = [trial for trial in usable if trial.gate.verdict == UNDECIDED]
    if len(undecided) == len(usable):
        return {}
    return {trial.variant: f"accuracy UNDECIDED: {trial.gate.reason}" for trial in undecided}


def paired_ratio(
    baseline_ms: Sequence[float], other_ms: Sequence[float], *, confidence: float = 0.95
) -> Ratio:
    """Return baseline / other with the order statistics of the median as interval.

    The interval is free of assumptions on the distribution: the number of ratios below their
    median is binomial (n, 1/2). With fewer than six pairs it reaches over everything at 95 %.

    Args:
        baseline_ms: Latencies of the baseline, one per round.
        other_ms: Latencies of the other engine in the same rounds.
        confidence: Of the interval.
    """
    ratios = np.sort(np.asarray(baseline_ms, dtype=float) / np.asarray(other_ms, dtype=float))
    count, below, rank = len(ratios), 0.0, 0
    while rank < count // 2:
        below += math.comb(count, rank) / 2**count  # P(at most `rank` ratios below the median)
        if 2 * below > 1 - confidence:
            break
        rank += 1
    low, high = (ratios[rank - 1], ratios[count - rank]) if rank else (0.0, math.inf)
    return Ratio(float(np.median(ratios)), float(low), float(high))


def _fastest(
    usable: Sequence[Trial], ratios: Mapping[str, Ratio | None], min_speedup: float
) -> tuple[Trial, str]:
    """Return the fastest variant, FP16 unless another is faster beyond doubt."""
    ordered = sorted(usable, key=_median)
    baseline = next((trial for trial in usable if trial.variant == BASELINE), None)
    if baseline is None:
        return ordered[0], f"{ordered[0].variant} is the fastest that may be used."
    for trial in ordered:
        ratio = ratios[trial.variant]
        if trial is baseline or ratio is None:
            break
        if ratio.low > 1 and ratio.value >= min_speedup:
            return trial, (
                f"{trial.variant} is {ratio.value:.2f} times as fast as FP16"
                f" ({ratio.low:.2f} to {ratio.high:.2f}) and may be used."
            )
    if len(usable) == 1:
        return baseline, "FP16 is the only one that may be used."
    return baseline, (
        "FP16 wins: no other variant that may be used is faster beyond doubt"
        f" and by at least {100 * (min_speedup - 1):.0f} %."
    )


def _most_accurate(usable: Sequence[Trial], refused: Sequence[str]) -> tuple[Trial, str]:
    """Return FP16, else the variant with the highest top-1; of equal ones the first."""
    baseline = next((trial for trial in usable if trial.variant == BASELINE), None)
    kept = baseline or max(usable, key=lambda trial: trial.gate.top1_percent or 0.0)
    if len(usable) == 1:
        which = "is the only one that may be used"
    else:
        which = "is kept as the most accurate: nothing shows that another is faster"
    name = "FP16" if baseline else kept.variant
    return kept, (
        f"The latencies do not count. {' '.join(refused)} {name} {which}."
        " Keep the clocks steady (fixed clocks, cooling, a lower power mode) and measure again."
    )


def _why_fp16(kept: Trial, usable: Sequence[Trial]) -> tuple[str, ...]:
    """Return the reasons why FP16 is kept although others may be used."""
    others = [trial for trial in usable if trial.variant != BASELINE]
    if kept.variant != BASELINE or not others:
        return ()
    return fp16_reasons(kept.engine, min(others, key=_median).engine)


def _against(baseline: Trial | None, trial: Trial, confidence: float) -> Ratio | None:
    if baseline is None or not baseline.samples_ms or not trial.samples_ms:
        return None
    return paired_ratio(baseline.samples_ms, trial.samples_ms, confidence=confidence)


def _row(
    trial: Trial, excluded: str, ratio: Ratio | None, telemetry: Mapping[str, Any] | None
) -> dict[str, Any]:
    content = asdict(trial)
    del content["samples_ms"]
    if content["parity"] is not None:
        content["parity"] = _finite(content["parity"])
    return {
        **content,
        "usable": not excluded,
        "why_not": excluded,
        "p50_ms": _median(trial) if trial.samples_ms else None,
        "p99_ms": float(np.percentile(trial.samples_ms, 99)) if trial.samples_ms else None,
        "latency_valid": telemetry["valid"] if trial.samples_ms and telemetry else None,
        "rounds": len(trial.samples_ms),
        "speedup_over_fp16": None if ratio is None else _finite(asdict(ratio)),
    }


def _finite(interval: dict[str, float]) -> dict[str, float | None]:
    """Return figures in JSON's numbers; an open end, or what can't be told, is null."""
    return {key: value if math.isfinite(value) else None for key, value in interval.items()}


def _median(trial: Trial) -> float:
    return float(np.median(trial.samples_ms))


def _all_of(excluded: Mapping[str, str]) -> str:
    return "; ".join(f"{variant}: {why}" for variant, why in excluded.items())
