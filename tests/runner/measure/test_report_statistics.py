"""Statistics against published values, slow definitions and simulated coverage."""

import itertools
from math import comb

import numpy as np
import pytest

from edgevit.errors import UsageError
from edgevit.runner.measure.statistics import (
    Interval,
    decide,
    drop_points,
    images_needed,
    mcnemar_exact_p,
    ratio_of_medians,
    wilson_percent,
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_the_published_ones(successes, total, low, high):
    found = wilson_percent(successes, total)
    assert found.low / 100 == pytest.approx(low, abs=5e-5)
    assert found.high / 100 == pytest.approx(high, abs=5e-5)


def test_wilson_bounds_are_exact_at_the_ends():
    assert wilson_percent(0, 10).low == 0
    assert wilson_percent(10, 10).high == 100


@pytest.mark.parametrize(
    ("b", "c", "n", "low", "high"),
    [
        # Complete response before and after consolidation therapy (Cavo et al. 2012), and airway
        # hyper-responsiveness (Bentur et al. 2009), as in Fagerland, Lydersen, Laake, Statistical
        # Analysis of Contingency Tables (2017), table 8.7 and chapter 8.
        (6, 16, 161, -0.1240, -0.0054),
        (1, 7, 21, -0.517, -0.026),
    ],
)
def test_tangos_intervals_are_the_published_ones(b, c, n, low, high):
    digits = 5e-5 if n == 161 else 5e-4
    found = drop_points(b, c, n)
    assert found.value == pytest.approx(100 * (b - c) / n)
    assert found.low / 100 == pytest.approx(low, abs=digits)
    assert found.high / 100 == pytest.approx(high, abs=digits)


def test_without_disagreement_tangos_interval_has_a_closed_form():
    z_squared = 3.8414588206941236
    found = drop_points(0, 0, 100)
    bound = 100 * z_squared / (100 + z_squared)
    assert (found.low, found.high) == pytest.approx((-bound, bound))


def test_exchanging_the_models_mirrors_the_interval():
    one, other = drop_points(12, 5, 300), drop_points(5, 12, 300)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


@pytest.mark.parametrize(
    ("b", "c", "n"), [(100, 0, 100), (0, 100, 100), (50, 50, 100), (1, 0, 1), (0, 0, 1)]
)
def test_extreme_tables_have_proper_intervals(b, c, n):
    found = drop_points(b, c, n)
    assert -100 <= found.low <= found.value <= found.high <= 100


@pytest.mark.parametrize(("only_fp32", "only_engine"), [(0.05, 0.03), (0.02, 0.02), (0.2, 0.05)])
def test_coverage_is_what_the_interval_promises(only_fp32, only_engine):
    """In simulated validations the interval holds the true drop in about 95 of 100."""
    n, trials = 300, 4000
    random = np.random.default_rng(7)
    rest = 1 - only_fp32 - only_engine
    counts = random.multinomial(n, [only_fp32, only_engine, rest], trials)[:, :2]
    pairs, times = np.unique(counts, axis=0, return_counts=True)
    truth, covered = 100 * (only_fp32 - only_engine), 0
    for (b, c), repeated in zip(pairs.tolist(), times.tolist(), strict=True):
        found = drop_points(b, c, n)
        covered += repeated * (found.low <= truth <= found.high)
    assert 0.935 < covered / trials < 0.97


def slow_mcnemar(b, c):
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    return min(1.0, 2 * tail)


def test_mcnemars_p_is_the_published_one_and_the_definition():
    assert mcnemar_exact_p(6, 16) == pytest.approx(0.052479, abs=5e-7)
    for b, c in itertools.product(range(12), repeat=2):
        assert mcnemar_exact_p(b, c) == pytest.approx(slow_mcnemar(b, c), rel=1e-12)


def test_mcnemars_p_for_many_images():
    assert mcnemar_exact_p(6000, 6000) == 1.0
    assert 0.003 < mcnemar_exact_p(5000, 5300) < 0.0035  # normal approximation: 0.0032
    assert mcnemar_exact_p(20000, 100) == pytest.approx(0, abs=1e-300)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.5, 0.9, "PASS"), (0.2, 1.0, "PASS"), (1.1, 2.0, "FAIL"), (0.5, 1.5, "UNDECIDED")],
)
def test_verdicts(low, high, verdict):
    assert decide(Interval(value=(low + high) / 2, low=low, high=high), 1.0) == verdict


@pytest.mark.parametrize(
    ("b", "c", "n", "limit"),
    [(6, 3, 1000, 1.0), (0, 0, 10, 1.0), (30, 10, 500, 1.0), (5, 0, 9, 60)],
)
def test_the_images_needed_just_decide(b, c, n, limit):
    needed = images_needed(b, c, n, limit)
    if needed == 0:
        assert decide(drop_points(b, c, n), limit) != "UNDECIDED"
        return

    def verdict(total):
        return decide(drop_points(b * total / n, c * total / n, total), limit)

    assert verdict(n + needed) != "UNDECIDED"
    assert verdict(n + needed - 1) == "UNDECIDED"


def test_no_number_of_images_decides_a_drop_that_is_the_limit():
    assert images_needed(20, 10, 1000, 1.0) is None


def test_a_decided_case_needs_no_more():
    assert images_needed(5, 5, 5000, 1.0) == 0


def test_the_bootstrap_interval_covers_the_true_ratio():
    random = np.random.default_rng(3)
    covered = 0
    for trial in range(100):
        drift = 1 + 0.2 * np.sin(np.arange(60) / 9)  # both engines slow down together
        slow = 3 * drift * random.lognormal(0, 0.1, 60)
        fast = 2 * drift * random.lognormal(0, 0.1, 60)
        found = ratio_of_medians(slow, fast, resamples=400, seed=trial)
        covered += found.low <= 1.5 <= found.high
        assert found.low <= found.value <= found.high
    assert covered >= 88


def test_the_bootstrap_repeats_and_does_not_need_much_memory():
    slow, fast = np.linspace(2, 3, 20_001), np.linspace(1, 2, 20_001)
    one = ratio_of_medians(slow, fast, resamples=300)
    assert one == ratio_of_medians(slow, fast, resamples=300)
    assert one.value == pytest.approx(2.5 / 1.5)


def test_counts_that_can_not_be_right():
    for wrong in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(UsageError, match="EV806"):
            wilson_percent(*wrong)
    for b, c, n in ((-1, 0, 5), (3, 3, 5), (0, 0, 0)):
        with pytest.raises(UsageError, match="EV806"):
            drop_points(b, c, n)
    with pytest.raises(UsageError, match="EV806"):
        drop_points(1, 1, 10, confidence=1.0)
    with pytest.raises(UsageError, match="EV806"):
        ratio_of_medians(np.ones(3), np.ones(4))
