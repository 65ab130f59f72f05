"""Latency in turns, peak memory of a fresh process, and the self-check, on real sessions."""

import numpy as np
import pytest

from edgevit.bundle import open_bundle
from edgevit.errors import DeviceError, UsageError
from edgevit.runner.engines.onnxruntime.session import session_from_bundle
from edgevit.runner.measure import latency
from edgevit.runner.measure.latency import (
    LatencySamples,
    measure_alternating,
    median_paired_ratio,
    ratio_of_medians,
)
from edgevit.runner.measure.memory import own_peak_memory_bytes, peak_memory_bytes
from edgevit.runner.measure.selfcheck import self_check


@pytest.fixture(scope="module")
def bundle(bundle_path):
    return open_bundle(bundle_path)


@pytest.fixture(scope="module")
def sessions(bundle):
    return {kind: session_from_bundle(bundle, kind, threads=1) for kind in ("fp32", "engine")}


class Noted:
    """Passes on to a real session and notes the order of calls."""

    def __init__(self, session, name, calls):
        self.session, self.name, self.calls = session, name, calls

    def run(self, images):
        self.calls.append(self.name)
        return self.session.run(images)


IMAGE = np.zeros((1, 3, 8, 8), np.float32)


def test_engines_take_turns(sessions):
    calls = []
    noted = {name: Noted(session, name, calls) for name, session in sessions.items()}
    found = measure_alternating(noted, IMAGE, warmup=2, rounds=6)
    assert calls == ["fp32", "engine"] * 8
    for samples in found.values():
        assert samples.samples_ms.shape == (6,)
        assert (samples.samples_ms > 0).all()
        assert samples.p50_ms <= samples.p90_ms <= samples.p99_ms


class Clock:
    """Stands in for `time`: goes on by 20 ms with each run of an engine."""

    def __init__(self):
        self.now_ns = 0

    def perf_counter(self):
        return self.now_ns / 1e9

    def perf_counter_ns(self):
        return self.now_ns

    def run(self, images):
        self.now_ns += 20_000_000


def test_measuring_lasts_as_long_as_asked(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    engines = {"fp32": clock, "engine": clock}
    found = measure_alternating(engines, IMAGE, warmup=0, rounds=2, min_seconds=0.2)
    assert found["fp32"].samples_ms.tolist() == pytest.approx([20] * 5)
    short = measure_alternating(engines, IMAGE, warmup=0, rounds=10**9, max_seconds=0.05)
    assert len(short["fp32"].samples_ms) == len(short["engine"].samples_ms) == 2
    least = measure_alternating(engines, IMAGE, warmup=0, rounds=10**9, max_seconds=0.01)
    assert len(least["fp32"].samples_ms) == 2


def test_percentiles_and_ratios():
    slow = LatencySamples(samples_ms=np.arange(1.0, 102.0) * 3)
    fast = LatencySamples(samples_ms=np.arange(1.0, 102.0))
    assert (slow.p50_ms, slow.p90_ms, slow.p99_ms) == pytest.approx((153, 273, 300))
    assert ratio_of_medians(slow, fast) == pytest.approx(3)
    assert median_paired_ratio(slow, fast) == pytest.approx(3)


@pytest.mark.parametrize("wrong", [{"warmup": -1}, {"rounds": 1}])
def test_rounds_that_can_not_be_measured(sessions, wrong):
    with pytest.raises(UsageError, match="EV714"):
        measure_alternating(sessions, IMAGE, **wrong)


def test_peak_memory_is_the_childs_own_not_the_parents(bundle_path):
    ballast = np.ones(400 << 20, np.uint8)
    assert own_peak_memory_bytes() > ballast.nbytes
    for engine in ("engine", "fp32"):
        peak = peak_memory_bytes(bundle_path, engine, threads=1)
        assert 20 << 20 < peak < 300 << 20


def test_peak_memory_counts_the_model(parts, tmp_path):
    small = peak_memory_bytes(parts.write(tmp_path / "small"), threads=1)
    weights = np.random.default_rng(0).integers(0, 2**31, (7, 3 << 17)).astype(np.int32)
    path = parts.write(tmp_path / "big", tensors={**parts.tensors, "unused": weights})
    assert peak_memory_bytes(path, threads=1) > small + weights.nbytes


def test_a_process_that_fails_says_why(parts, tmp_path):
    path = parts.write(tmp_path / "out", reference=None)
    with pytest.raises(DeviceError, match="no fp32 reference"):
        peak_memory_bytes(path, "fp32")
    with pytest.raises(DeviceError, match="ImaginaryExecutionProvider"):
        peak_memory_bytes(path, provider="ImaginaryExecutionProvider")


def test_the_self_check_finds_the_engine_as_simulated(bundle, sessions, pixels_to_input):
    found = self_check(sessions["engine"], bundle.golden(), pixels_to_input)
    assert found.num_images == 5
    assert found.agreement_percent == 100
    assert found.max_error < 1e-4
    assert found.rms_error_relative < 1e-3
    assert found.quantization_rms > 0.01


def test_the_self_check_finds_another_engine(bundle, sessions, pixels_to_input):
    """The fp32 model in place of the engine is off by exactly what quantization changed."""
    found = self_check(sessions["fp32"], bundle.golden(), pixels_to_input)
    assert found.rms_error_relative == pytest.approx(1, abs=1e-3)
    assert found.identical_percent == 0


def test_the_self_check_without_fp32_logits(bundle, sessions, pixels_to_input):
    golden = {key: array for key, array in bundle.golden().items() if key != "logits_fp32"}
    found = self_check(sessions["engine"], golden, pixels_to_input)
    assert found.quantization_rms is None
    assert found.max_error_relative is None
    golden["logits_simulated"] = golden["logits_simulated"][:, :3]
    with pytest.raises(DeviceError, match="EV711"):
        self_check(sessions["engine"], golden, pixels_to_input)
