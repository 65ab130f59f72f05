"""The Efficient Error Rate against the values quoted for quantized models."""

import pytest

from edgevit.errors import UsageError
from edgevit.report.eer import REFERENCE, efficient_error_rate, quantized_metrics


@pytest.mark.parametrize(
    ("weight_bits", "activation_bits", "megabytes", "percent"),
    [(6, 6, 66.0, 19.4), (8, 4, 3.7, 9.9)],  # Swin-B W6A6, DeiT-Ti W8A4
)
def test_quoted_models(weight_bits, activation_bits, megabytes, percent):
    metrics = quantized_metrics(weight_bits, activation_bits, round(megabytes * 1e6))
    assert round(efficient_error_rate(metrics), 1) == percent


def test_the_reference_is_100_percent():
    assert efficient_error_rate(REFERENCE) == pytest.approx(100)
    weights = {"parameters_millions": 0.4, "gflops": 0.3, "bits": 0.2, "size_megabytes": 0.1}
    assert efficient_error_rate(REFERENCE, weights) == pytest.approx(100)


def test_weights_shift_the_mean():
    metrics = {"bits": 16.0, "size_megabytes": 33.0}
    assert efficient_error_rate(metrics) == pytest.approx(30)
    assert efficient_error_rate(metrics, {"bits": 1.0, "size_megabytes": 0.0}) == pytest.approx(50)
    weights = {"bits": 0.25, "size_megabytes": 0.75}
    assert efficient_error_rate(metrics, weights) == pytest.approx(20)


@pytest.mark.parametrize(
    ("metrics", "weights"),
    [
        ({}, None),
        ({"watts": 3.0}, None),
        ({"bits": 0.0}, None),
        ({"bits": float("nan")}, None),
        ({"bits": 8.0}, {"bits": 0.9}),
        ({"bits": 8.0}, {"size_megabytes": 1.0}),
        ({"bits": 8.0, "gflops": 1.0}, {"bits": 1.5, "gflops": -0.5}),
    ],
)
def test_what_has_no_rate(metrics, weights):
    with pytest.raises(UsageError, match="EV802"):
        efficient_error_rate(metrics, weights)
