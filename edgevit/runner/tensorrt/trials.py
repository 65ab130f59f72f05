"""Measures the variants of a bundle on this device and lets the policy choose one.

Each variant is opened, checked against its own simulation on the golden images, put through the
accuracy gate, and then all that passed are timed strictly in turns with the device watched, so that
drifting clocks meet them alike. A variant that fails keeps its row, with the reason, and gives its
memory back at once: on a board with 4 GB the next one may need it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgevit.errors import EdgeViTError
from edgevit.runner.tensorrt.gate import Gate
from edgevit.runner.tensorrt.layer_table import EngineSummary
from edgevit.runner.tensorrt.parity import ParityLimits, check_parity
from edgevit.runner.tensorrt.policy import Decision, Trial, decide, why_not
from edgevit.runner.tensorrt.timing import Timing, time_in_turns

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.accuracy import Normalize


class Session(Protocol):
    """What a variant is opened as."""

    def run(self, images: npt.NDArray[np.float32], /) -> npt.NDArray[np.float32]:
        """Return float32 [B, classes] for float32 [B, 3, H, W]."""


@dataclass(frozen=True)
class Opened:
    """A variant that is ready to run.

    Args:
        session: The engine; if it has a ``close``, that frees its memory.
        build_seconds: How long the build took; None from the cache.
        inspect: Returns the engine in numbers; None where that can't be told.
        kernel_ms: Returns the median GPU time of an input; None where that can't be measured.
        round_ms: Returns one latency as the engine's own tool measures it. Where it is given, as
            for trtexec, whose every run loads the engine anew, it replaces the wall clock.
    """

    session: Session
    build_seconds: float | None = None
    inspect: Callable[[], EngineSummary] | None = None
    kernel_ms: Callable[[npt.NDArray[np.float32]], float] | None = None
    round_ms: Callable[[npt.NDArray[np.float32]], float] | None = None


@dataclass(frozen=True)
class TrialPlan:
    """What is measured.

    Args:
        golden: What `Bundle.golden` returns.
        normalize: Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W].
        batch: Batch size of the latency runs.
        warmup: Rounds before measuring.
        rounds: Measured rounds, each engine once per round.
        min_seconds: Measure at least this long.
        limits: What counts as computing the same as the simulation.
        energy_seconds: How long each engine runs alone for its energy, where there are power rails.
        root: Where sensors are read: ``/``, or a recorded tree.
    """

    golden: Mapping[str, npt.NDArray[Any]]
    normalize: Normalize
    batch: int = 1
    warmup: int = 20
    rounds: int = 200
    min_seconds: float = 0.0
    limits: ParityLimits = field(default_factory=ParityLimits)
    energy_seconds: float = 5.0
    root: str | os.PathLike[str] = "/"


def try_variants(
    variants: Sequence[str],
    opener: Callable[[str], Opened],
    plan: TrialPlan,
    *,
    gate: Callable[[str, Session], Gate] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Decision, tuple[Trial, ...]]:
    """Return which variant to keep, and all trials.

    Args:
        variants: Such as ("fp16", "int8", "int8_attention").
        opener: Builds or loads a variant; an EdgeViTError becomes its row's failure.
        plan: What is measured.
        gate: Judges the accuracy of an engine; without it only parity is asked for.
        progress: Called with (stage, done, total).

    Raises:
        EdgeViTError: An engine that passed its check fails while it is timed.
    """
    trials: dict[str, Trial] = {}
    opened: dict[str, Opened] = {}
    for done, variant in enumerate(variants):
        _tell(progress, f"build and check {variant}", done, len(variants))
        trials[variant], found = _checked(variant, opener, plan, gate)
        if found is not None:
            opened[variant] = found
    timing = _timed(opened, trials, plan, progress)
    ordered = tuple(trials[variant] for variant in variants)
    return decide(ordered, limits=plan.limits, telemetry=timing.telemetry), ordered


def _checked(
    variant: str,
    opener: Callable[[str], Opened],
    plan: TrialPlan,
    gate: Callable[[str, Session], Gate] | None,
) -> tuple[Trial, Opened | None]:
    """Return a variant's trial up to its accuracy, and the engine if it is worth timing."""
    opened = None
    try:
        opened = opener(variant)
        trial = _judged(variant, opened, plan, gate)
    except EdgeViTError as error:
        trial = Trial(variant, failure=f"[{error.code}] {error.what} {error.why}".strip())
    if opened is not None and why_not(replace(trial, samples_ms=(1.0,)), plan.limits):
        _release(opened.session)
        opened = None
    return trial, opened


def _judged(
    variant: str,
    opened: Opened,
    plan: TrialPlan,
    gate: Callable[[str, Session], Gate] | None,
) -> Trial:
    """Return a trial with its parity and, if that holds, its accuracy."""
    parity = check_parity(opened.session, plan, variant)
    trial = Trial(variant, parity=parity, build_seconds=opened.build_seconds)
    if gate is None or plan.limits.broken_by(parity):
        return trial
    return replace(trial, gate=gate(variant, opened.session))


def _release(session: Session) -> None:
    """Free an engine's memory, if it can be asked to."""
    close = getattr(session, "close", None)
    if close is not None:
        with suppress(EdgeViTError):  # of a device that failed; the row has the first reason
            close()


def _timed(
    opened: Mapping[str, Opened],
    trials: dict[str, Trial],
    plan: TrialPlan,
    progress: Callable[[str, int, int], None] | None,
) -> Timing:
    """Time the engines and complete their trials."""
    stages = ["latency"]

    def again() -> None:
        _tell(progress, stages[-1], 1, 1)
        stages.append("latency, again")
        _tell(progress, stages[-1], 0, 1)

    _tell(progress, stages[-1], 0, 1)
    image = _latency_input(plan)
    timing = time_in_turns(opened, image, plan, again)
    for variant, found in opened.items():
        trials[variant] = _completed(trials[variant], found, timing, image)
    _tell(progress, stages[-1], 1, 1)
    return timing


def _completed(
    trial: Trial, opened: Opened, timing: Timing, image: npt.NDArray[np.float32]
) -> Trial:
    """Return a trial with its times, its energy and what the inspector says."""
    return replace(
        trial,
        samples_ms=timing.samples_ms[trial.variant],
        energy_mj=timing.energy_mj(trial.variant),
        kernel_ms=None if opened.kernel_ms is None else opened.kernel_ms(image),
        engine=None if opened.inspect is None else opened.inspect(),
    )


def _latency_input(plan: TrialPlan) -> npt.NDArray[np.float32]:
    images = plan.golden["images"]
    return plan.normalize(images[np.arange(plan.batch) % len(images)])  # [batch, 3, H, W]


def _tell(
    progress: Callable[[str, int, int], None] | None, stage: str, done: int, total: int
) -> None:
    if progress is not None:
        progress(stage, done, total)
