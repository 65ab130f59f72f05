"""Better than chance or not; what a single logit says."""

from math import comb

import numpy as np
import pytest

from edgevit.runner.measure.accuracy import Predictions, top_classes
from edgevit.runner.measure.chance import _at_least, against_chance
from edgevit.runner.measure.scores import agreement_percent, predicted_classes


def predictions(answers, labels):
    top5 = np.stack([np.array(answers), (np.array(answers) + 1) % 1000], axis=1)
    return Predictions(top5=top5, labels=np.array(labels), logits=np.zeros((0, 0), np.float32))


@pytest.mark.parametrize(("hits", "num", "share"), [(3, 10, 0.1), (1, 40, 0.5), (40, 40, 0.9)])
def test_tail_of_the_binomial(hits, num, share):
    exact = sum(comb(num, k) * share**k * (1 - share) ** (num - k) for k in range(hits, num + 1))
    assert _at_least(hits, num, share) == pytest.approx(exact, rel=1e-9)


def test_tail_of_many_images_is_finite():
    assert _at_least(0, 50_000, 0.001) == _at_least(5, 10, 1.0) == 1.0
    assert _at_least(40_000, 50_000, 0.001) == 0.0
    assert 0.4 < _at_least(50, 50_000, 0.001) < 0.6


def test_a_wrong_order_is_at_chance_and_a_right_one_is_not():
    labels = np.arange(96) % 12
    wrong = (labels * 5) % 12  # a permutation that leaves 0, 3, 6 and 9 where they are
    assert against_chance(predictions(labels, labels)).above is True
    found = against_chance(predictions(np.where(labels == 0, 0, (labels + 1) % 12), labels))
    assert (found.num_classes, found.above) == (12, False)
    assert against_chance(predictions(wrong, labels)).above is True  # a third is right


def test_few_hits_among_a_thousand_classes_are_no_sign_of_life():
    labels = np.arange(400) % 1000
    answers = (labels + 500) % 1000
    answers[:3] = labels[:3]
    assert against_chance(predictions(answers, labels)).above is False
    answers[:20] = labels[:20]
    assert against_chance(predictions(answers, labels)).above is True


def test_one_answer_to_every_image():
    labels = np.array([0] * 90 + [1] * 10)
    found = against_chance(predictions(np.zeros(100, int), labels))
    assert (found.one_answer, found.above) == (True, False)


def test_where_images_can_not_tell():
    labels = np.arange(29) % 2
    assert against_chance(predictions(1 - labels, labels)).above is None
    one = against_chance(predictions(np.zeros(40, int), np.zeros(40, int)))
    assert (one.num_classes, one.above) == (1, None)
    assert against_chance(predictions([0, 1], [0, -1])) is None


def test_a_single_logit_is_read_at_zero():
    logits = np.array([[-2.0], [0.0], [0.5], [3.0]], np.float32)
    assert predicted_classes(logits).tolist() == [0, 0, 1, 1]
    assert top_classes(logits).tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]
    assert agreement_percent(logits, -logits) == 25
    assert agreement_percent(logits, logits * 2) == 100
