"""Judges whether a variant keeps the accuracy, from its answers to the same images as fp32's.

A variant is refused only when its images say so: FAIL means that the whole paired interval of the
drop lies above the limit. Where the interval lies on both sides of it, the verdict is UNDECIDED;
the variant is used only where none passed, and the report says how many more images would tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.runner.measure.accuracy import Predictions, predict
from edgevit.runner.measure.paired import Comparison, Interval, compare, decide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgevit.runner.measure.accuracy import Batch, Normalize, Runnable

PASS, FAIL, UNDECIDED = "PASS", "FAIL", "UNDECIDED"


@dataclass(frozen=True)
class Gate:
    """The verdict on an engine's accuracy.

    Args:
        verdict: "PASS", "FAIL", "UNDECIDED", or "" when no limit was asked for.
        top1_percent: Its accuracy, None without labels.
        reason: The verdict in words.
        drop_points: Top-1 of fp32 minus its own, with the paired interval; None without labels.
        num_images: How many images that is from.
        images_needed: About how many more would decide; 0 when it is decided, None when no number
            would or nothing was judged.
    """

    verdict: str = ""
    top1_percent: float | None = None
    reason: str = ""
    drop_points: Interval | None = None
    num_images: int = 0
    images_needed: int | None = None


NOT_JUDGED = Gate()
"""Of a variant whose accuracy nobody asked for."""


def gate_against(
    reference: Runnable,
    max_drop: float,
    batches: Callable[[], Iterable[Batch]],
    normalize: Normalize,
    *,
    classifies: bool = True,
) -> Callable[[str, Runnable], Gate]:
    """Return what judges a variant against fp32 on the same images.

    Args:
        reference: The fp32 engine; run once, here.
        max_drop: Points of top-1 that may be lost.
        batches: Returns the labelled images, anew each time.
        normalize: Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W].
        classifies: Of a model that does not, nothing is judged here: its variants have to keep
            the parity with their simulations alone.

    Raises:
        EdgeViTError: What the engine and the images raise.
    """
    if not classifies:
        return lambda variant, session: Gate()
    fp32 = predict(reference, batches(), normalize)

    def judge(variant: str, session: Runnable) -> Gate:
        return judged(fp32, predict(session, batches(), normalize), max_drop)

    return judge


def judged(fp32: Predictions, engine: Predictions, max_drop: float) -> Gate:
    """Return the verdict on an engine's predictions; empty where images have no labels."""
    if not (fp32.labelled and engine.labelled):
        return Gate(num_images=engine.num_images)
    found: Comparison = compare(fp32, engine)
    return Gate(
        verdict=decide(found.drop, max_drop),
        top1_percent=engine.accuracy_percent(1),
        reason=found.reason(max_drop),
        drop_points=found.drop,
        num_images=found.num_images,
        images_needed=found.images_needed(max_drop),
    )
