"""Predictions of real sessions: paired, bounded in memory, ties settled."""

import numpy as np
import pytest

from edgevit.bundle import open_bundle
from edgevit.errors import DataError
from edgevit.runner.engines.onnxruntime.session import session_from_bundle
from edgevit.runner.engines.tensorrt.gate import judged
from edgevit.runner.measure.accuracy import Predictions, predict, predict_all, top_classes


@pytest.fixture(scope="module")
def sessions(bundle_path):
    bundle = open_bundle(bundle_path)
    return {kind: session_from_bundle(bundle, kind, threads=1) for kind in ("fp32", "engine")}


def batches(num_images, batch_size, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (num_images, 8, 8, 3)).astype(np.uint8)
    labels = random.integers(0, 7, num_images)
    for start in range(0, num_images, batch_size):
        part = slice(start, start + batch_size)
        yield pixels[part], labels[part], [f"image-{start}"]


def test_batching_does_not_change_predictions(sessions, pixels_to_input):
    whole = predict_all(sessions, batches(23, 23), pixels_to_input)
    parts = predict_all(sessions, batches(23, 5), pixels_to_input)
    for name in sessions:
        np.testing.assert_array_equal(whole[name].top5, parts[name].top5)
        np.testing.assert_allclose(whole[name].logits, parts[name].logits, atol=1e-4)
        np.testing.assert_array_equal(whole[name].labels, parts[name].labels)


def test_accuracy_is_that_of_the_logits(sessions, pixels_to_input):
    found = predict(sessions["engine"], batches(40, 8), pixels_to_input)
    labels, logits = found.labels, found.logits
    assert found.accuracy_percent(1) == 100 * (logits.argmax(1) == labels).mean()
    better = (logits > logits[np.arange(40), labels][:, None]).sum(1)
    assert found.accuracy_percent(5) == 100 * (better < 5).mean()


def test_logits_stay_within_the_budget(sessions, pixels_to_input):
    row_bytes = 7 * 4
    found = predict(
        sessions["engine"], batches(40, 8), pixels_to_input, logits_budget_bytes=11 * row_bytes
    )
    assert found.logits.shape == (11, 7)
    assert found.top5.shape == (40, 5)
    everything = predict(sessions["engine"], batches(40, 8), pixels_to_input)
    np.testing.assert_array_equal(found.logits, everything.logits[:11])


def test_progress_counts_images(sessions, pixels_to_input):
    seen = []
    predict(sessions["engine"], batches(10, 4), pixels_to_input, on_batch=seen.append)
    assert seen == [4, 8, 10]


def test_ties_go_to_the_lower_class():
    logits = np.array([[1, 3, 3, 0, 3, 2]], np.float32)
    assert top_classes(logits).tolist() == [[1, 2, 4, 5, 0]]


class OneLogit:
    """Says of an image how bright it is, against a middle grey."""

    def run(self, images):
        return images.mean((1, 2, 3), keepdims=True)[:, 0, 0]  # [B, 1]


def test_a_single_logit_is_judged_at_zero(pixels_to_input):
    pixels = np.repeat(np.array([10, 250, 100, 200], np.uint8), 192).reshape(4, 8, 8, 3)
    found = predict(OneLogit(), [(pixels, np.array([0, 1, 0, 0]), None)], pixels_to_input)
    assert found.top5.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
    assert found.accuracy_percent(1) == 75
    assert judged(found, found, 1.0).top1_percent == 75  # what keeps or refuses a variant
    with pytest.raises(DataError, match="EV931"):
        predict(OneLogit(), [(pixels, np.array([0, 1, 2, 0]), None)], pixels_to_input)


def test_images_without_labels_have_no_accuracy():
    top5 = np.array([[0, 1], [1, 0]])
    found = Predictions(top5=top5, labels=np.array([0, -1]), logits=np.zeros((2, 2), np.float32))
    assert not found.labelled
    assert found.accuracy_percent(1) is None


def test_no_images_and_labels_that_are_no_class(sessions, pixels_to_input):
    with pytest.raises(DataError, match="EV930"):
        predict(sessions["engine"], iter([]), pixels_to_input)
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(DataError, match="EV931"):
        predict(sessions["engine"], [(pixels, np.array([7]), ["x"])], pixels_to_input)
