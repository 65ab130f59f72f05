"""The metrics of tasks against slow, obvious twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.errors import DataError
from edgevit.runner.measure.tasks import detect
from edgevit.runner.measure.tasks.base import MetricRow
from edgevit.runner.measure.tasks.boxes import Found, box_ious, found_boxes, matched
from edgevit.runner.measure.tasks.dense import (
    IGNORED,
    Overlaps,
    change_of_miou,
    label_maps,
    miou_percent,
    overlaps,
    resize,
)
from edgevit.runner.measure.tasks.neighbours import nearest, shared, vote
from edgevit.runner.measure.tasks.segment import SegmentMetric

SEEDS = st.integers(0, 2**32 - 1)


def slow_nearest(embeddings: np.ndarray, count: int) -> list[list[int]]:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b)))

    wide = embeddings.astype(np.float64)
    rows = []
    for i, a in enumerate(wide):
        others = [(-cosine(a, b), j) for j, b in enumerate(wide) if j != i]
        rows.append([j for _, j in sorted(others)[:count]])
    return rows


def slow_vote(labels: list[int], neighbours: list[int]) -> int:
    named = [labels[j] for j in neighbours]
    return max(named, key=lambda label: (named.count(label), -named.index(label)))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, num=st.integers(2, 40), count=st.integers(1, 9))
def test_neighbours_and_votes(seed: int, num: int, count: int) -> None:
    random = np.random.default_rng(seed)
    count = min(count, num - 1)
    embeddings = random.standard_normal((num, 6)).astype(np.float32)
    labels = random.integers(0, 3, num)
    found = nearest(embeddings, count)
    expected = slow_nearest(embeddings, count)
    assert found.tolist() == expected
    assert vote(labels, found).tolist() == [slow_vote(labels.tolist(), row) for row in expected]
    other = nearest(random.standard_normal((num, 6)).astype(np.float32), count)
    common = [len({*a} & {*b}) / count for a, b in zip(found.tolist(), other.tolist(), strict=True)]
    assert shared(found, other) == pytest.approx(np.mean(common))


def test_neighbours_of_equal_embeddings_are_the_earliest() -> None:
    found = nearest(np.ones((700, 3), np.float32), 2)
    assert found[0].tolist() == [1, 2]
    assert found[1].tolist() == [0, 2]
    assert found[699].tolist() == [0, 1]


def slow_iou(first: np.ndarray, second: np.ndarray, num_classes: int) -> float:
    ious = []
    for label in range(num_classes):
        both = either = 0
        for a, b in zip(first.ravel(), second.ravel(), strict=True):
            if b != IGNORED:
                both += a == label and b == label
                either += a == label or b == label
        if either:
            ious.append(both / either)
    return float(np.mean(ious)) if ious else float("nan")


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, batch=st.integers(1, 4), classes=st.integers(1, 6))
def test_mean_iou(seed: int, batch: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.integers(0, classes, (2, batch, 5, 7))
    second[random.random(second.shape) < 0.2] = IGNORED
    parts = [overlaps(a[None], b[None], classes) for a, b in zip(first, second, strict=True)]
    counted = Overlaps.joined(parts)
    whole = overlaps(first, second, classes)
    assert np.array_equal(whole.union, counted.union)
    assert whole.mean_iou() == pytest.approx(slow_iou(first, second, classes), nan_ok=True)
    kept = second != IGNORED
    assert whole.agreement() == pytest.approx((first == second)[kept].mean() if kept.any() else 0)
    weights = random.integers(0, 3, batch)
    repeated = (np.repeat(each, weights, axis=0) for each in (first, second))
    expected = slow_iou(*repeated, classes)
    assert whole.mean_iou(weights.astype(float)) == pytest.approx(expected, nan_ok=True)


def test_interval_of_mean_iou_holds_the_value_and_pairs_the_images() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, (60, 6, 6))
    fp32 = np.where(random.random(truth.shape) < 0.3, random.integers(0, 4, truth.shape), truth)
    engine = np.where(random.random(truth.shape) < 0.02, 0, fp32)
    counts = [overlaps(maps, truth, 4) for maps in (fp32, engine)]
    one = miou_percent(counts[0])
    assert one.low < one.value < one.high
    assert one.value == pytest.approx(100 * counts[0].mean_iou())
    change = change_of_miou(*counts)
    assert change.value == pytest.approx(100 * (counts[1].mean_iou() - counts[0].mean_iou()))
    assert change.high - change.low < (one.high - one.low) / 2  # the images' own spread cancels
    assert change_of_miou(counts[0], counts[0]).to_dict() == {"value": 0, "low": 0, "high": 0}


@pytest.mark.parametrize(("old", "new"), [((3, 5), (12, 20)), ((8, 8), (3, 20)), ((1, 4), (5, 4))])
def test_logits_are_resized_as_torch_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, *old)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(values), size=new, mode="bilinear")
    assert np.allclose(resize(values, new), theirs.numpy(), atol=1e-6)
    assert label_maps(values, new).shape == (2, *new)
    assert np.array_equal(label_maps(values), values.argmax(1))
    whole = resize(values[:, :1], new)[:, 0]
    assert np.array_equal(label_maps(values[:, :1], new), whole > 0)  # one logit, two classes


def rows_of(reference: np.ndarray, engine: np.ndarray, labels: np.ndarray) -> dict[str, MetricRow]:
    metric = SegmentMetric({"input_size": [3, 4, 4]})
    metric.add({"logits": reference}, {"logits": engine}, labels)
    return {row.label: row for row in metric.result()}


def test_a_single_logit_is_not_always_right() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32)
    rows = rows_of(logits, -logits, (logits[:, 0] > 0).astype(np.int64))
    assert rows["mean IoU"].fp32 == 100
    assert rows["mean IoU"].engine == rows["mean IoU against fp32"].engine == 0


def test_class_255_counts_and_maps_without_a_label_are_refused() -> None:
    logits = np.zeros((1, 300, 4, 4), np.float32)
    logits[:, 255] = 1
    rows = rows_of(logits, -logits, np.full((1, 4, 4), 255))
    assert rows["mean IoU"].fp32 == 100
    assert rows["mean IoU against fp32"].engine == 0
    with pytest.raises(DataError, match="EV441"):
        rows_of(logits, -logits, np.full((1, 4, 4), IGNORED))


def slow_matches(asked: Found, given: Found) -> int:
    taken: set[int] = set()
    for i, box in enumerate(asked.boxes):
        best, at = 0.0, -1
        for j, other in enumerate(given.boxes):
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            common = max(width, 0) * max(height, 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
            iou = common / (sum(areas) - common)
            if j not in taken and asked.labels[i] == given.labels[j] and iou > best:
                best, at = iou, j
        if best >= 0.5:
            taken.add(at)
    return len(taken)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, num=st.integers(0, 12), no_object=st.booleans())
def test_boxes(seed: int, num: int, no_object: bool) -> None:
    random = np.random.default_rng(seed)
    logits = random.standard_normal((2, num, 3 + no_object)).astype(np.float32)
    boxes = random.uniform(0.1, 0.9, (2, num, 4)).astype(np.float32)
    shifted = boxes + random.normal(0, 0.05, boxes.shape).astype(np.float32) * (boxes > 0.4)
    first, second = found_boxes(logits, boxes, 3)[0], found_boxes(logits, shifted, 3)[0]
    assert len(first.labels) == num
    assert (np.diff(first.scores) <= 0).all()
    assert matched(first, second) == slow_matches(first, second)
    assert matched(first, first) == num
    assert matched(first.above(2), second) == 0
    if num:
        assert np.allclose(np.diag(box_ious(first.boxes, first.boxes)), 1)


def test_scores_are_those_of_transformers() -> None:
    """Against the processors' own post-processing, which keeps what is above a threshold."""
    import transformers as tf

    random = torch.Generator().manual_seed(0)
    boxes = torch.rand(1, 20, 4, generator=random)
    for processor, extra in (
        (tf.YolosImageProcessor(), 1),
        (tf.DeformableDetrImageProcessor(), 0),
    ):
        logits = torch.randn(1, 20, 5 + extra, generator=random) * 3
        output = type("Output", (), {"logits": logits, "pred_boxes": boxes})()
        more = {} if extra else {"top_k": 100}
        theirs = processor.post_process_object_detection(output, threshold=0.5, **more)[0]
        ours = found_boxes(logits.numpy(), boxes.numpy(), 5)[0].above(0.5)
        best = {tuple(np.round(b, 5)): s for b, s in zip(ours.boxes, ours.scores, strict=True)}
        for box, score in zip(theirs["boxes"].tolist(), theirs["scores"].tolist(), strict=True):
            if tuple(np.round(box, 5)) in best:  # a sigmoid may give one box two classes
                assert best[tuple(np.round(box, 5))] >= score - 1e-5
        assert len(best) > 3
        assert {*best} == {tuple(np.round(box, 5)) for box in theirs["boxes"].tolist()}


@pytest.mark.parametrize("precision", [0.0, 12.5, None])
def test_an_average_precision_of_nothing_is_a_number_and_none_is_none(
    precision: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "average_precision", lambda found, annotated: precision)
    metric = detect.DetectMetric({"num_classes": 1})
    outputs = {"logits": np.zeros((1, 2, 1), np.float32), "boxes": np.ones((1, 2, 4), np.float32)}
    metric.add(outputs, outputs, [object()])
    row = metric.result()[0]
    assert row.fp32 == row.engine == precision
    assert row.change == (None if precision is None else 0)
    assert row.label == ("COCO AP (there are no boxes)" if precision is None else "COCO AP")
