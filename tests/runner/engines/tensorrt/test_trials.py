"""Variants measured and chosen, with ONNX Runtime as the engine: real models, real times."""

from functools import partial

import numpy as np
import pytest

from edgevit.errors import BundleError, DeviceError
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.runner.engines.tensorrt.gate import Gate
from edgevit.runner.engines.tensorrt.parity import check_parity, simulated_outputs
from edgevit.runner.engines.tensorrt.trial_plan import OpenedVariant, TrialPlan
from edgevit.runner.engines.tensorrt.trials import try_variants


@pytest.fixture
def plan(parts, pixels_to_input, tmp_path):
    """The tiny model's golden images; the fp16 variant's simulation is its fp32 reference.

    There are no sensors, whatever machine this runs on; test_timing.py has a board's.
    """
    golden = {**parts.golden, "logits_simulated_fp16": parts.golden["logits_fp32"]}
    golden["logits_simulated_int8_attention"] = golden["logits_simulated"]
    return TrialPlan(golden=golden, normalize=pixels_to_input, rounds=40, warmup=2, root=tmp_path)


@pytest.fixture
def sessions(bundle_path):
    """Sessions of the tiny bundle by variant."""
    from edgevit.bundle import open_bundle

    bundle = open_bundle(bundle_path)
    return {
        "int8": EngineSession(bundle.engine_onnx(), threads=1),
        "fp16": EngineSession(bundle.reference_onnx(), threads=1),
    }


class Slowed:
    """A session that takes longer, by repeating its work."""

    def __init__(self, session, times):
        self.session, self.times = session, times

    def run(self, images):
        for _ in range(self.times):
            logits = self.session.run(images)
        return logits


def test_each_variant_is_compared_with_its_own_simulation(plan, sessions):
    for variant, key in (("int8", "logits_simulated"), ("fp16", "logits_simulated_fp16")):
        assert simulated_outputs(plan.golden, variant)["logits"] is plan.golden[key]
    with pytest.raises(BundleError, match="logits_simulated_fp8"):
        simulated_outputs(plan.golden, "fp8")
    for variant, session in sessions.items():
        parity = check_parity(session, plan.golden, plan.normalize, variant)
        assert parity.agreement_percent == 100
        assert parity.max_error < 1e-4
    crossed = check_parity(sessions["fp16"], plan.golden, plan.normalize, "int8")
    assert crossed.max_error > 1e-2  # what quantization changed


def test_the_slower_variant_is_not_kept(plan, sessions):
    def opener(variant):
        return OpenedVariant(Slowed(sessions[variant], 40 if variant == "int8" else 1), 1.5)

    seen = []
    decision, trials = try_variants(
        ["fp16", "int8"], opener, plan, progress=lambda *step: seen.append(step)
    )
    assert decision.kept == "fp16"
    assert [len(trial.samples_ms) for trial in trials] == [40, 40]
    assert trials[0].build_seconds == 1.5
    assert seen[-1] == ("latency", 1, 1)
    faster, _ = try_variants(
        ["fp16", "int8"],
        lambda variant: OpenedVariant(Slowed(sessions[variant], 40 if variant == "fp16" else 1)),
        plan,
    )
    assert faster.kept == "int8"


def test_what_fails_keeps_its_row_and_is_not_timed(plan, sessions):
    class Wrong:
        def run(self, images):
            return sessions["int8"].run(images)[:, ::-1]

    def opener(variant):
        if variant == "fp8":
            raise DeviceError("EV753", "TensorRT built no engine.", why="no FP8 here")
        return OpenedVariant(Wrong() if variant == "int8_attention" else sessions[variant])

    decision, trials = try_variants(["fp16", "int8", "int8_attention", "fp8"], opener, plan)
    rows = {row["variant"]: row for row in decision.rows}
    assert rows["fp8"]["why_not"] == "failed: [EV753] TensorRT built no engine. no FP8 here"
    assert rows["int8_attention"]["why_not"].startswith("parity")
    assert rows["int8_attention"]["p50_ms"] is None
    assert decision.kept in ("fp16", "int8")
    assert len(trials) == 4


class Closable:
    """An engine that notes when its memory is given back, may fail at that or compute wrong."""

    def __init__(self, session, closed, wrong, fails):
        self.session, self.closed, self.fails = session, closed, fails
        self.step = -1 if wrong else 1

    def run(self, images):
        return self.session.run(images)[:, :: self.step]

    def close(self):
        self.closed()
        if self.fails:
            raise DeviceError("EV758", "CUDA failed.")


@pytest.mark.parametrize("fails", [False, True])
def test_what_fails_gives_its_memory_back_before_the_next_is_built(plan, sessions, fails):
    events = []

    def opener(variant):
        events.append(f"open {variant}")
        wrong = variant == "int8_attention"
        closed = partial(events.append, f"close {variant}")
        return OpenedVariant(Closable(sessions["int8"], closed, wrong, fails and wrong))

    def gate(variant, session):
        if variant == "int8_again":
            raise DeviceError("EV763", "TensorRT failed while running.")
        return Gate("FAIL" if variant == "int8_lossy" else "PASS", 80.0, "as told")

    for name in ("int8_lossy", "int8_again"):
        plan.golden[f"logits_simulated_{name}"] = plan.golden["logits_simulated"]
    variants = ["int8_attention", "int8_lossy", "int8_again", "int8"]
    decision, _ = try_variants(variants, opener, plan, gate=gate)
    failed = [event for name in variants[:3] for event in (f"open {name}", f"close {name}")]
    assert events == [*failed, "open int8"]  # the one that runs stays open
    assert decision.kept == "int8"
    assert decision.rows[0]["why_not"].startswith("parity")


def test_the_accuracy_gate_is_asked_for_each_engine_that_computes_right(plan, sessions):
    asked = []

    def gate(variant, session):
        assert session.run(np.zeros((1, 3, 8, 8), np.float32)).shape == (1, 7)
        asked.append(variant)
        return Gate("FAIL" if variant == "int8" else "PASS", 80.0, "drop 2.0 points")

    decision, trials = try_variants(
        ["fp16", "int8"], lambda variant: OpenedVariant(sessions[variant]), plan, gate=gate
    )
    assert asked == ["fp16", "int8"]
    assert decision.kept == "fp16"
    assert decision.rows[1]["why_not"] == "accuracy FAIL: drop 2.0 points"
    assert trials[1].samples_ms == ()  # not timed


def test_another_number_of_classes_is_no_parity(plan):
    class Other:
        def run(self, images):
            return np.zeros((len(images), 3), np.float32)

    assert check_parity(Other(), plan.golden, plan.normalize, "int8").agreement_percent == 0
