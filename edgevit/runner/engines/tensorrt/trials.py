"""Measures the variants of a bundle on this device and lets the policy choose one.

Each variant is opened, checked against its own simulation on the golden images, put through the
accuracy gate, and then all that passed are timed strictly in turns with the device watched, so that
drifting clocks meet them alike. A variant that fails keeps its row, with the reason, and gives its
memory back at once: on a board with 4 GB the next one may need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgevit.errors import EdgeViTError
from edgevit.runner.engines.tensorrt.gate import Gate
from edgevit.runner.engines.tensorrt.parity import check_parity
from edgevit.runner.engines.tensorrt.policy import Decision, Trial, decide_variant, why_not
from edgevit.runner.engines.tensorrt.timing import Timing, time_in_turns
from edgevit.runner.engines.tensorrt.trial_plan import OpenedVariant, TrialPlan, VariantSession

if TYPE_CHECKING:
    import numpy.typing as npt


def try_variants(
    variants: Sequence[str],
    opener: Callable[[str], OpenedVariant],
    plan: TrialPlan,
    *,
    gate: Callable[[str, VariantSession], Gate] | None = None,
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
    opened: dict[str, OpenedVariant] = {}
    for done, variant in enumerate(variants):
        _tell(progress, f"build and check {variant}", done, len(variants))
        trials[variant], found = _check(variant, opener, plan, gate)
        if found is not None:
            opened[variant] = found
    timing = _time(opened, trials, plan, progress)
    ordered = tuple(trials[variant] for variant in variants)
    return decide_variant(ordered, limits=plan.limits, telemetry=timing.telemetry), ordered


def _check(
    variant: str,
    opener: Callable[[str], OpenedVariant],
    plan: TrialPlan,
    gate: Callable[[str, VariantSession], Gate] | None,
) -> tuple[Trial, OpenedVariant | None]:
    """Return a variant's trial up to its accuracy, and the engine if it is worth timing."""
    opened = None
    try:
        opened = opener(variant)
        trial = _judge(variant, opened, plan, gate)
    except EdgeViTError as error:
        trial = Trial(variant, failure=f"[{error.code}] {error.what} {error.why}".strip())
    if opened is not None and why_not(replace(trial, samples_ms=(1.0,)), plan.limits):
        _release(opened.session)
        opened = None
    return trial, opened


def _judge(
    variant: str,
    opened: OpenedVariant,
    plan: TrialPlan,
    gate: Callable[[str, VariantSession], Gate] | None,
) -> Trial:
    """Return a trial with its parity and, if that holds, its accuracy."""
    parity = check_parity(opened.session, plan.golden, plan.normalize, variant)
    trial = Trial(variant, parity=parity, build_seconds=opened.build_seconds)
    if gate is None or plan.limits.broken_by(parity):
        return trial
    return replace(trial, gate=gate(variant, opened.session))


def _release(session: VariantSession) -> None:
    """Free an engine's memory, if it can be asked to."""
    close = getattr(session, "close", None)
    if close is not None:
        with suppress(EdgeViTError):  # of a device that failed; the row has the first reason
            close()


def _time(
    opened: Mapping[str, OpenedVariant],
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
        trials[variant] = _complete(trials[variant], found, timing, image)
    _tell(progress, stages[-1], 1, 1)
    return timing


def _complete(
    trial: Trial, opened: OpenedVariant, timing: Timing, image: npt.NDArray[np.float32]
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
