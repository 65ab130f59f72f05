"""The policy is a pure function of measured rows."""

import json

import numpy as np
import pytest

from edgevit.runner.engines.tensorrt.gate import Gate
from edgevit.runner.engines.tensorrt.layer_table import EngineSummary
from edgevit.runner.engines.tensorrt.parity import EngineParity, ParityLimits
from edgevit.runner.engines.tensorrt.policy import Trial, decide_variant, paired_ratio
from edgevit.runner.engines.tensorrt.reasons import fp16_reasons

GOOD = EngineParity(num_images=32, agreement_percent=100.0, cosine=0.99999, max_error=0.01)


def samples(median_ms, rounds=100, spread=0.02, seed=0):
    noise = np.random.default_rng(seed).normal(1, spread, rounds)
    return tuple(median_ms * noise)


def trial(variant, median_ms, *, seed=None, **more):
    seed = sum(map(ord, variant)) if seed is None else seed
    return Trial(variant, **{"parity": GOOD, "samples_ms": samples(median_ms, seed=seed), **more})


def engine(**more):
    plain = {
        "kernels": 50,
        "moves": 2,
        "moves_ms": 0.02,
        "attention": 12,
        "attention_ms": 0.24,
        "asked_low": 48,
        "got_low": 48,
        "missed_ms": 0.0,
        "products_ms": 0.5,
        "total_ms": 1.0,
    }
    return EngineSummary(**{**plain, **more})


def test_the_fastest_is_kept():
    found = decide_variant([trial("fp16", 1.0), trial("int8", 0.7), trial("int8_attention", 0.8)])
    assert found.kept == "int8"
    assert "times as fast as FP16" in found.reason
    assert found.fp16_reasons == ()
    row = found.rows[1]
    assert row["speedup_over_fp16"]["low"] > 1.3
    assert row["usable"]
    assert row["why_not"] == ""
    json.dumps(found.to_dict(), allow_nan=False)


def test_fp16_wins_and_says_why():
    slow = engine(moves=30, moves_ms=0.4, attention=0, got_low=40, missed_ms=0.1, kernels=90)
    found = decide_variant([trial("fp16", 1.0, engine=engine()), trial("int8", 1.3, engine=slow)])
    assert found.kept == "fp16"
    assert found.reason.startswith("FP16 wins")
    assert len(found.fp16_reasons) == 3
    assert "30 layers only convert or move data" in found.fp16_reasons[0]  # 0.38 ms, the costliest
    assert "12 of 12 attention blocks" in found.fp16_reasons[1]
    assert not found.rows[1]["why_not"]  # it might be used, it is only slower


def test_a_speedup_within_the_noise_does_not_count():
    """Medians differ by 0.2 % with 2 % spread: FP16, the more exact one, stays."""
    found = decide_variant([trial("fp16", 1.0), trial("int8", 0.998)])
    assert found.kept == "fp16"
    assert found.rows[1]["speedup_over_fp16"]["low"] < 1


def test_a_certain_speedup_that_does_not_matter_does_not_count():
    """Both drift alike, so that 0.5 % is beyond doubt; it is still no reason to leave FP16."""
    trials = [trial("fp16", 1.0, seed=1), trial("int8", 0.995, seed=1)]
    assert decide_variant(trials).kept == "fp16"
    assert decide_variant(trials, min_speedup=1.0).kept == "int8"


def test_a_slower_but_certain_variant_is_found_behind_an_uncertain_one():
    """The fastest has too few rounds to be sure of; the next one is sure."""
    unsure = Trial("int8", parity=GOOD, samples_ms=(0.2, 3.0, 0.2, 0.2))
    sure = trial("int8_attention", 0.5)
    assert decide_variant([trial("fp16", 1.0, samples_ms=(1.0,) * 4), unsure]).kept == "fp16"
    assert decide_variant([trial("fp16", 1.0), sure]).kept == "int8_attention"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"failure": "out of memory"}, "failed: out of memory"),
        ({"parity": None}, "parity: it was not checked"),
        ({"parity": EngineParity(32, 100.0, 0.98, 1.0)}, "parity: outputs differ"),
        ({"parity": EngineParity(32, 100.0, float("nan"), 1.0)}, "parity: outputs differ"),
        ({"parity": EngineParity(32, 90.625, 0.9999, 1.0)}, "parity: 3 of 32 golden images"),
        ({"gate": Gate("FAIL", 80.0, "too much")}, "accuracy FAIL: too much"),
        ({"samples_ms": ()}, "latency: it was not measured"),
    ],
)
def test_what_may_not_be_used_is_not_kept_however_fast(change, why):
    found = decide_variant([trial("fp16", 1.0), trial("int8", 0.1, **change)])
    assert found.kept == "fp16"
    assert found.rows[1]["why_not"].startswith(why)


def test_an_undecided_variant_gives_way_to_one_that_passed():
    """However fast: what is kept has to pass if anything does."""
    gate = Gate("UNDECIDED", 80.0, "about 900 more images would tell.")
    sure = Gate("PASS", 80.0, "within")
    found = decide_variant([trial("fp16", 1.0, gate=sure), trial("int8", 0.5, gate=gate)])
    assert found.kept == "fp16"
    assert found.rows[1]["why_not"] == "accuracy UNDECIDED: about 900 more images would tell."
    found = decide_variant([trial("fp16", 1.0, failure="x"), trial("int8", 0.5, gate=gate)])
    assert found.kept == "int8"


def test_an_undecided_variant_is_used_where_none_passed_and_the_decision_says_so():
    gate = Gate("UNDECIDED", 80.0, "about 900 more images would tell.")
    found = decide_variant([trial("fp16", 1.0, gate=gate), trial("int8", 0.5, gate=gate)])
    assert found.kept == "int8"
    assert found.reason.endswith("Its accuracy is not decided: about 900 more images would tell.")
    assert found.rows[1]["why_not"] == ""


def test_nothing_is_kept_if_nothing_may_be_used():
    found = decide_variant(
        [trial("fp16", 1.0, failure="no memory"), trial("int8", 1.0, parity=None)]
    )
    assert found.kept is None
    assert "fp16: failed: no memory; int8: parity" in found.reason


def test_without_fp16_the_fastest_is_kept():
    found = decide_variant([trial("fp16", 1.0, failure="x"), trial("int8", 0.9), trial("fp8", 0.8)])
    assert found.kept == "fp8"


VOID = {"valid": False, "reasons": ["The gpu clock went between 1020 and 990 MHz."]}


def test_latencies_that_do_not_count_decide_nothing():
    """However fast the other seems: FP16 stays, without reasons why it should be faster."""
    trials = [trial("fp16", 1.0, engine=engine()), trial("int8", 0.1, engine=engine())]
    found = decide_variant(trials, telemetry=VOID)
    assert (found.kept, found.fp16_reasons) == ("fp16", ())
    assert found.reason.startswith("The latencies do not count. The gpu clock went between 1020")
    assert "FP16 is kept as the most accurate" in found.reason
    assert [row["latency_valid"] for row in found.rows] == [False, False]
    assert found.rows[1]["p50_ms"] == pytest.approx(0.1, rel=0.05)  # what was measured is kept
    assert found.to_dict()["telemetry"] == VOID


def test_without_fp16_and_times_the_most_accurate_is_kept_and_of_equals_the_first():
    trials = [
        trial("fp16", 1.0, failure="no memory"),
        trial("int8", 0.8, gate=Gate("PASS", 79.0)),
        trial("int8_attention", 0.9, gate=Gate("PASS", 80.0)),
        trial("fp8", 0.1, gate=Gate("PASS", 80.0)),
    ]
    found = decide_variant(trials, telemetry=VOID)
    assert found.kept == "int8_attention"
    alone = decide_variant([trials[0], trial("int8", 0.8)], telemetry=VOID)
    assert alone.kept == "int8"
    assert "int8 is the only one that may be used" in alone.reason
    assert decide_variant([trials[0]], telemetry=VOID).kept is None


@pytest.mark.parametrize("valid", [True, None])
def test_latencies_that_may_count_decide(valid):
    """Unknown is not refused: many computers have nothing to watch."""
    trials = [trial("fp16", 1.0), trial("int8", 0.5), trial("fp8", 1.0, failure="x", samples_ms=())]
    found = decide_variant(trials, telemetry={"valid": valid, "reasons": ["No telemetry: x"]})
    assert found.kept == "int8"
    assert [row["latency_valid"] for row in found.rows] == [valid, valid, None]


def test_one_flipped_image_is_always_allowed():
    limits = ParityLimits()
    assert limits.broken_by(EngineParity(8, 87.5, 0.9999, 0.1)) == ""
    assert limits.broken_by(EngineParity(8, 75.0, 0.9999, 0.1)) != ""
    assert limits.broken_by(EngineParity(1000, 98.0, 0.9999, 0.1)) == ""
    assert limits.broken_by(EngineParity(1000, 97.9, 0.9999, 0.1)) != ""


def test_interval_of_the_paired_ratio():
    """n = 10, 95 %: order statistics 2 and 9 (coverage 97.9 %), from tables of the sign test."""
    other = np.ones(10)
    baseline = np.arange(1.0, 11.0)
    found = paired_ratio(baseline, other)
    assert (found.value, found.low, found.high) == (5.5, 2.0, 9.0)
    assert paired_ratio([1, 2, 3], [1, 1, 1]).low == 0.0


def test_interval_covers_the_true_ratio_as_often_as_it_says():
    random, inside = np.random.default_rng(0), 0
    for _ in range(400):
        drift = random.lognormal(0, 0.3, 40)  # clocks that meet both engines alike
        first = drift * random.lognormal(0.2, 0.05, 40)
        second = drift * random.lognormal(0, 0.05, 40)
        found = paired_ratio(first, second)
        inside += found.low <= np.exp(0.2) <= found.high
    assert 0.93 <= inside / 400 <= 0.99


def test_reasons_name_small_products_and_kernels():
    reasons = fp16_reasons(engine(), engine(products_ms=0.49, kernels=80))
    assert any("too small to gain" in reason for reason in reasons)
    assert any("30 more kernels" in reason for reason in reasons)
    assert fp16_reasons(None, engine())[0].startswith("The engines were not inspected")
    saved = engine(products_ms=0.1, total_ms=0.6)
    assert fp16_reasons(engine(), saved)[0].startswith("No single reason")
    more = engine(products_ms=0.1, total_ms=0.9)
    assert fp16_reasons(engine(), more)[0].startswith("Scales, biases, GELUs and roundings")
