"""Paired intervals against a slow bootstrap over images."""

import numpy as np
import pytest
from paired import compare, comparisons, mean_interval, ratio_of_means


@pytest.fixture(scope="module")
def toy():
    """Two methods, two draws, 400 images: KLs that go together, as those of one image do."""
    random = np.random.default_rng(0)
    hard = random.gamma(0.5, 1.0, 400)
    methods = []
    for size in (0.1, 0.14):
        draws = []
        for _ in range(2):
            kl = size * hard * random.gamma(8.0, 1 / 8, 400)
            draws.append({"kl": kl.astype(np.float32), "agrees": kl < 0.25})
        methods.append(draws)
    return methods


def bootstrap(statistic, images, resamples=4000):
    random = np.random.default_rng(1)
    drawn = [statistic(random.integers(0, images, images)) for _ in range(resamples)]
    return np.percentile(drawn, [2.5, 97.5])


@pytest.mark.parametrize("what", ["kl", "ratio", "agreement"])
def test_against_bootstrap(toy, what):
    own, other = toy
    found = compare(own, other)
    kl = [np.mean([draw["kl"] for draw in part], 0) for part in toy]  # [N] each
    agrees = [100 * np.mean([draw["agrees"] for draw in part], 0) for part in toy]
    statistic, keys = {
        "kl": (
            lambda at: kl[1][at].mean() - kl[0][at].mean(),
            ("kl_minus_reference", "kl_minus_low", "kl_minus_high"),
        ),
        "ratio": (
            lambda at: kl[0][at].mean() / kl[1][at].mean(),
            ("reference_over_method", "ratio_low", "ratio_high"),
        ),
        "agreement": (
            lambda at: agrees[0][at].mean() - agrees[1][at].mean(),
            ("agreement_lost", "lost_low", "lost_high"),
        ),
    }[what]
    value, low, high = (found[key] for key in keys)
    slow_low, slow_high = bootstrap(statistic, 400)
    width = slow_high - slow_low
    assert value == pytest.approx(statistic(np.arange(400)))
    assert low == pytest.approx(slow_low, abs=0.08 * width)
    assert high == pytest.approx(slow_high, abs=0.08 * width)


def test_pairing_matters(toy):
    own, other = toy
    paired = compare(own, other)
    alone = [mean_interval(part[0]["kl"]) for part in toy]
    unpaired = sum((interval.high - interval.low) ** 2 for interval in alone) ** 0.5
    assert paired["kl_minus_high"] - paired["kl_minus_low"] < 0.5 * unpaired
    assert paired["reference_lower_kl_in_draws"] == 2


def test_intervals_cover():
    """95 % of the intervals hold the truth."""
    random = np.random.default_rng(2)
    inside = 0
    for _ in range(1000):
        x = random.exponential(1.0, (300, 2))
        x[:, 1] = 0.5 * x[:, 0] + 0.5 * x[:, 1]
        interval = ratio_of_means(2 * x[:, 0], x[:, 1])
        inside += interval.low <= 2.0 <= interval.high
    assert 930 <= inside <= 970


def test_only_common_draws_are_compared(toy):
    place = ("m", "plain", 4, 4, 400)
    results = {
        (*place, "edgevit", 0): toy[0][0],
        (*place, "edgevit", 1): toy[0][1],
        (*place, "mse", 1): toy[1][1],
        (*place, "mse", 2): toy[1][0],
        ("m", "plain", 3, 3, 400, "mse", 1): toy[1][1],
    }
    (row,) = comparisons(results, "edgevit")
    assert (row["draws"], row["method"], row["weight_bits"]) == (1, "mse", 4)
    expected = toy[1][1]["kl"].astype(float).mean() - toy[0][1]["kl"].astype(float).mean()
    assert row["kl_minus_reference"] == pytest.approx(expected)
