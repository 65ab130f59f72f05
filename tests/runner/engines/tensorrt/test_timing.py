"""Variants timed on a recorded board by the real recorder: what counts, what is timed again."""

import io
import json
import time
from dataclasses import replace

import pytest
from recorded_trees import ORIN_NANO, write_tree
from rich.console import Console

from edgevit.bundle import open_bundle
from edgevit.report.build import build_table
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.runner.engines.tensorrt.trial_plan import OpenedVariant, TrialPlan
from edgevit.runner.engines.tensorrt.trials import try_variants
from edgevit.runner.measure import measurements
from edgevit.runner.telemetry import Recorder, measure_energy

CLOCK = "sys/class/devfreq/17000000.gpu/cur_freq"
CURRENT = "sys/class/hwmon/hwmon1/curr1_input"
STEADY, LOWERED = "1020000000", "990000000"
ROUNDS = 100


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A recorded Orin Nano whose files may change; nothing waits longer than it has to."""
    monkeypatch.setattr("edgevit.runner.measure.latency._IDLE_SECONDS", 0.15)
    monkeypatch.setattr("edgevit.runner.telemetry.watching._LEAST_SECONDS", 0.5)
    return write_tree(tmp_path / "orin", ORIN_NANO)


@pytest.fixture
def plan(parts, pixels_to_input, board):
    golden = {**parts.golden, "logits_simulated_fp16": parts.golden["logits_fp32"]}
    return TrialPlan(golden, pixels_to_input, rounds=ROUNDS, warmup=2, root=board, energy_seconds=0)


@pytest.fixture
def sessions(bundle_path):
    bundle = open_bundle(bundle_path)
    return {
        "fp16": EngineSession(bundle.reference_onnx(), threads=1),
        "int8": EngineSession(bundle.engine_onnx(), threads=1),
    }


def put(path, text):
    """Replace a file's text in one step, as a sensor's value changes."""
    path.with_name("next").write_text(text)
    path.with_name("next").replace(path)


class OnBoard:
    """An engine that takes a millisecond or more; before each run something happens there."""

    def __init__(self, session, before=lambda runs: None, seconds=0.001):
        self.session, self.before, self.seconds, self.runs = session, before, seconds, 0

    def run(self, images):
        self.runs += 1
        self.before(self.runs)
        time.sleep(self.seconds)
        return self.session.run(images)


def tried(plan, sessions, before, progress=None):
    """Return the decision where FP16 takes four times as long; `before` runs with int8."""
    engines = {
        "fp16": OnBoard(sessions["fp16"], seconds=0.004),
        "int8": OnBoard(sessions["int8"], before),
    }
    found, _ = try_variants(
        list(engines), lambda name: OpenedVariant(engines[name]), plan, progress=progress
    )
    return json.loads(json.dumps(found.to_dict(), allow_nan=False))


def printed(build):
    screen = io.StringIO()
    Console(file=screen, width=80).print(build_table(build))
    text = screen.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    return " ".join(text.split())


def dropping(board, times):
    """Return what lowers the clock in the midst of the first `times` timings."""
    middles = [ROUNDS * (2 * turn + 1) // 2 for turn in range(times)]
    return lambda runs: runs in middles and put(board / CLOCK, LOWERED)


def test_a_clock_that_drops_once_costs_a_second_timing(plan, sessions, board):
    seen = []

    def progress(stage, done, total):
        seen.append((stage, done, total))
        if stage == "latency, again" and not done:
            put(board / CLOCK, STEADY)

    found = tried(plan, sessions, dropping(board, 1), progress)
    assert seen[-4:] == [("latency", 0, 1), ("latency", 1, 1)] + [
        ("latency, again", done, 1) for done in (0, 1)
    ]
    assert found["kept"] == "int8"
    assert found["telemetry"]["valid"] is True
    assert found["telemetry"]["power_mode"]["name"] == "MAXN_SUPER"
    assert [row["latency_valid"] for row in found["rows"]] == [True, True]
    (reason,) = found["telemetry"]["retimed_because"]
    assert "gpu clock went between 1020 and 990 MHz (2.9 %)" in reason
    text = printed(found)
    assert f"timed a second time, because the first did not count: {reason}" in text
    assert "power mode MAXN_SUPER, gpu clock 1020 to 1020 MHz" in text
    assert "(" not in text.split("while timing")[0].split("int8 is")[0]  # nothing in brackets


def test_a_clock_that_keeps_dropping_makes_the_times_void(plan, sessions, board):
    def unsteady(runs):
        put(board / CLOCK, LOWERED if runs // 40 % 2 else STEADY)

    found = tried(plan, sessions, unsteady)
    assert found["kept"] == "fp16"  # though four times as slow, by times that do not count
    assert found["reason"].startswith("The latencies do not count. The gpu clock went between")
    assert [row["latency_valid"] for row in found["rows"]] == [False, False]
    assert found["telemetry"]["valid"] is False
    assert found["telemetry"]["retimed_because"]
    p50 = found["rows"][1]["p50_ms"]
    assert f"({p50:.2f} ms)" in printed(found)


def test_each_variants_energy_is_in_its_row(plan, sessions, board, monkeypatch):
    """The board draws 1000 mA when idle, 2000 under int8 and 3000 under fp16."""
    monkeypatch.setattr("edgevit.runner.telemetry.energy._SETTLE_SECONDS", 0.05)
    monkeypatch.setitem(measure_energy.__kwdefaults__, "idle_seconds", 0.8)
    watch = Recorder.watch

    def idle(recorder, name, seconds):
        put(board / CURRENT, "1000")
        watch(recorder, name, seconds)

    monkeypatch.setattr(Recorder, "watch", idle)
    drawn = {"fp16": "3000", "int8": "2000"}
    engines = {
        name: OnBoard(sessions[name], lambda _, ma=ma: put(board / CURRENT, ma), seconds=0.005)
        for name, ma in drawn.items()
    }
    plan = replace(plan, rounds=5, energy_seconds=0.8)
    found, _ = try_variants(list(drawn), lambda name: OpenedVariant(engines[name]), plan)
    rows = {row["variant"]: row for row in found.rows}
    for name, above_ma in (("fp16", 2000), ("int8", 1000)):
        energy = found.telemetry["energy"][name]
        assert energy["rails"] == ["VDD_IN"]
        assert rows[name]["energy_mj"] == energy["energy_mj"]
        # at 5.016 V; the first reading may still be of the state before
        exact = 5.016 * above_ma * energy["seconds"] / energy["images"]
        assert energy["energy_mj"] == pytest.approx(exact, rel=0.2)
    text = printed(json.loads(json.dumps(found.to_dict())))
    assert "mJ/image" in text
    assert f"{rows['int8']['energy_mj']:.1f}" in text
    assert "energy from VDD_IN" in text


def test_void_times_of_the_variants_are_a_warning_of_the_report():
    void = {"valid": False, "reasons": ["It was hot."]}
    assert measurements._void({"telemetry": void}, None) == [
        "the latencies of the variants do not count: It was hot."
    ]
    assert measurements._void({"telemetry": {**void, "valid": None}}, void) == [
        "the latencies do not count: It was hot."
    ]
    assert measurements._void(None, None) == measurements._void({"telemetry": None}, None) == []
