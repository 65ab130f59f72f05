"""Measures the variants of a bundle on this device and lets the policy choose one.

Each variant is opened, checked against its own simulation on the golden images, put through the
accuracy gate, and then all that passed are timed strictly in turns, so that drifting clocks meet
them alike. A variant that fails keeps its row, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgevit.bundle.manifest import MAIN_VARIANT, bad_manifest
from edgevit.errors import EdgeViTError
from edgevit.runner.latency import measure_alternating
from edgevit.runner.tensorrt.gate import Gate
from edgevit.runner.tensorrt.layer_table import EngineSummary
from edgevit.runner.tensorrt.policy import (
    Decision,
    Parity,
    ParityLimits,
    Trial,
    decide,
    why_not,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.accuracy import Normalize

_BATCH = 8
_TOOL_ROUNDS = 8  # each takes seconds; fewer than six give no interval at 95 %


class Session(Protocol):
    """What a variant is opened as."""

    def run(self, images: npt.NDArray[np.float32], /) -> npt.NDArray[np.float32]:
        """Return float32 [B, classes] for float32 [B, 3, H, W]."""


@dataclass(frozen=True)
class Opened:
    """A variant that is ready to run.

    Args:
        session: The engine.
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
    """

    golden: Mapping[str, npt.NDArray[Any]]
    normalize: Normalize
    batch: int = 1
    warmup: int = 20
    rounds: int = 200
    min_seconds: float = 0.0
    limits: ParityLimits = field(default_factory=ParityLimits)


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
    _tell(progress, "latency", 0, 1)
    image = _latency_input(plan)
    timed = _timed(opened, image, plan)
    for variant, samples in timed.items():
        trials[variant] = _completed(trials[variant], opened[variant], samples, image)
    _tell(progress, "latency", 1, 1)
    ordered = tuple(trials[variant] for variant in variants)
    return decide(ordered, limits=plan.limits), ordered


def check_parity(session: Session, plan: TrialPlan, variant: str) -> Parity:
    """Return how close an engine is to the simulation of its variant.

    Raises:
        EdgeViTError: What the session raises.
    """
    images = plan.golden["images"]
    expected = plan.golden[golden_key(plan.golden, variant)].astype(np.float64)  # [n, classes]
    starts = range(0, len(images), _BATCH)
    parts = [session.run(plan.normalize(images[at : at + _BATCH])) for at in starts]
    found = np.concatenate(parts).astype(np.float64)  # [n, classes]
    if found.shape != expected.shape:
        return Parity(len(images), 0.0, 0.0, float("inf"))
    norms = float(np.linalg.norm(found) * np.linalg.norm(expected))
    return Parity(
        num_images=len(images),
        agreement_percent=100 * float((found.argmax(1) == expected.argmax(1)).mean()),
        cosine=float((found * expected).sum() / norms) if norms else float("nan"),
        max_error=float(np.abs(found - expected).max()),
    )


def golden_key(golden: Mapping[str, Any], variant: str) -> str:
    """Return the key of a variant's simulated logits; "int8" is the bundle's main graph.

    Raises:
        BundleError: There are none (EV402); those of another variant would not do.
    """
    key = "logits_simulated" if variant == MAIN_VARIANT else f"logits_simulated_{variant}"
    if key not in golden:
        raise bad_manifest(f"the golden images have no {key}")
    return key


def _checked(
    variant: str,
    opener: Callable[[str], Opened],
    plan: TrialPlan,
    gate: Callable[[str, Session], Gate] | None,
) -> tuple[Trial, Opened | None]:
    """Return a variant's trial up to its accuracy, and the engine if it is worth timing."""
    try:
        opened = opener(variant)
        parity = check_parity(opened.session, plan, variant)
        trial = Trial(variant, parity=parity, build_seconds=opened.build_seconds)
        if plan.limits.broken_by(parity):
            return trial, None
        judged = Gate() if gate is None else gate(variant, opened.session)
    except EdgeViTError as error:
        return Trial(variant, failure=f"[{error.code}] {error.what} {error.why}".strip()), None
    trial = replace(trial, gate=judged)
    would_pass = not why_not(replace(trial, samples_ms=(1.0,)), plan.limits)
    return trial, opened if would_pass else None


def _timed(
    opened: Mapping[str, Opened], image: npt.NDArray[np.float32], plan: TrialPlan
) -> dict[str, tuple[float, ...]]:
    """Return latencies by variant, measured in turns."""
    if not opened:
        return {}
    tools = {name: found.round_ms for name, found in opened.items() if found.round_ms is not None}
    if tools:
        rounds = [{name: tool(image) for name, tool in tools.items()} for _ in range(_TOOL_ROUNDS)]
        return {name: tuple(found[name] for found in rounds) for name in tools}
    sessions = {name: found.session for name, found in opened.items()}
    samples = measure_alternating(
        sessions,
        image,
        warmup=plan.warmup,
        rounds=plan.rounds,
        min_seconds=plan.min_seconds,
    )
    return {name: tuple(map(float, found.samples_ms)) for name, found in samples.items()}


def _completed(
    trial: Trial, opened: Opened, samples: tuple[float, ...], image: npt.NDArray[np.float32]
) -> Trial:
    """Return a trial with its times and what the inspector says."""
    return replace(
        trial,
        samples_ms=samples,
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
