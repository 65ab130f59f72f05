"""Recordings by real processes over changing trees: what counts and what does not, and energy."""

import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from recorded_trees import ORIN_NANO, THOR, python_of_a_board, write_tree

from edgevit.errors import UsageError
from edgevit.runner.measure.latency import measure_alternating
from edgevit.runner.telemetry import (
    Reading,
    Recorder,
    Recording,
    energy_mj,
    latency_conditions,
    measure_energy,
    measure_watched,
)
from edgevit.runner.telemetry.energy import energy_of

GPU_CLOCK = "sys/class/devfreq/17000000.gpu/cur_freq"
CURRENT = "sys/class/hwmon/hwmon1/curr1_input"
EVENTS = "sys/class/hwmon/hwmon3/oc3_event_cnt"
ROOT = Path(__file__).parents[3]
IMAGE = np.zeros((2, 3, 4, 4), np.float32)


@pytest.fixture
def orin(tmp_path):
    return write_tree(tmp_path / "orin", ORIN_NANO)


def put(path, text):
    """Replace a file's text in one step, as a sensor's value changes."""
    path.with_name("next").write_text(text)
    path.with_name("next").replace(path)


class Busy:
    """An engine that takes 5 ms; from its `after`-th run on, something happens on the board."""

    def __init__(self, happens=None, after=40):
        self.happens, self.after, self.runs = happens, after, 0

    def run(self, images):
        self.runs += 1
        if self.happens is not None and self.runs == self.after:
            self.happens()
        time.sleep(0.005)
        return np.zeros((len(images), 10), np.float32)


def measured(tree, happens=None, watch="gpu", monkeypatch=None):
    """Return the conditions of a latency measurement of 0.5 seconds over a tree."""
    with Recorder(tree, interval_ms=20) as recorder:
        found = measure_alternating(
            {"engine": Busy(happens)}, IMAGE, warmup=2, rounds=90, recorder=recorder
        )
    assert len(found["engine"].samples_ms) == 90
    return latency_conditions(recorder.recording(), watch=watch)


@pytest.fixture(autouse=True)
def short_idle(monkeypatch):
    monkeypatch.setattr("edgevit.runner.measure.latency._IDLE_SECONDS", 0.15)
    monkeypatch.setattr("edgevit.runner.telemetry.energy._SETTLE_SECONDS", 0.05)


def test_steady_clocks_make_a_valid_row(orin):
    conditions = measured(orin)
    assert conditions["valid"] is True
    assert conditions["reasons"] == []
    assert conditions["source"] == "sysfs"
    assert conditions["num_readings"] > 10
    assert conditions["clock_drop_percent"] == 0
    steady = dict.fromkeys(("before", "lowest", "highest", "after"), 1020.0)
    assert conditions["clocks_mhz"]["gpu"] == steady
    assert conditions["temperatures_c"]["tj"] == dict.fromkeys(
        ("before", "highest", "after"), 48.843
    )
    assert conditions["power_mw"] == {
        "rails": ["VDD_IN"],
        "before": pytest.approx(5.016 * 1520),
        "during": pytest.approx(5.016 * 1520),
    }


@pytest.mark.parametrize(("clock", "valid"), [("1000000000", True), ("990000000", False)])
def test_a_clock_that_drops_by_more_than_2_percent(orin, clock, valid):
    conditions = measured(orin, lambda: put(orin / GPU_CLOCK, clock))
    assert conditions["valid"] is valid
    assert conditions["clock_drop_percent"] == pytest.approx(100 * (1 - int(clock) / 1.02e9))
    if not valid:
        (reason,) = conditions["reasons"]
        assert "gpu clock went between 1020 and 990 MHz (2.9 %)" in reason
        # an engine on the CPU is not slowed by the GPU's clock
        assert measured(orin, watch="cpu")["valid"] is True


def test_the_highest_core_counts_for_the_cpu(orin):
    def one_core_sleeps():
        put(orin / "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq", "729600")

    assert measured(orin, one_core_sleeps, watch="cpu")["valid"] is True


def test_over_current_events_are_counted_while_timing(orin):
    conditions = measured(orin, lambda: put(orin / EVENTS, "27"))
    assert conditions["valid"] is False
    assert conditions["reasons"] == [
        "The hardware throttled 27 times: instantaneous over-current (oc3)."
    ]
    # They happened before: the counter goes on from there, and the next row counts.
    assert measured(orin)["valid"] is True


def test_an_alert_and_a_tighter_cap(tmp_path):
    thor = write_tree(tmp_path, THOR)

    def hot():
        put(thor / "sys/class/thermal/cooling_device2/cur_state", "1")
        put(thor / "sys/class/thermal/cooling_device3/cur_state", "19")

    assert measured(thor)["valid"] is True  # step 18 of the cap stood before
    conditions = measured(thor, hot)
    assert conditions["reasons"] == [
        "The device reported: gpu-throttle-alert.",
        "Its temperature made the device cap devfreq-gpu-gpc-0.",
    ]


def test_nothing_to_read_is_unknown_not_valid(tmp_path):
    conditions = measured(tmp_path)
    assert conditions["valid"] is None
    assert conditions["reasons"] == ["Neither the gpu clock nor throttling can be read here."]


def test_too_short_to_watch(orin):
    with Recorder(orin) as recorder:
        measure_alternating({"engine": Busy()}, IMAGE, warmup=0, rounds=2, recorder=recorder)
    conditions = latency_conditions(recorder.recording())
    assert conditions["valid"] is None
    assert "too short" in conditions["reasons"][0]


def test_a_recorder_that_fails_does_not_stop_the_measurement(orin, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Recorder(orin) as recorder:
        found = measure_alternating({"engine": Busy()}, IMAGE, rounds=3, recorder=recorder)
    assert len(found["engine"].samples_ms) == 3
    conditions = latency_conditions(recorder.recording())
    assert conditions["valid"] is None
    assert conditions["reasons"][0].startswith("No telemetry: ")


def test_a_recorder_that_can_not_start_does_not_stop_the_measurement(orin, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with Recorder(orin) as recorder:
        recorder.watch("during", 0.0)
    assert "/nowhere/python3" in recorder.recording().problem
    assert latency_conditions(recorder.recording())["valid"] is None


def test_the_recorder_ends_with_its_block_and_with_its_parent(orin, tmp_path):
    with Recorder(orin, interval_ms=20) as recorder:
        process = recorder._process
        assert process.poll() is None
    assert process.poll() == 0
    code = (
        "import os, sys\n"
        "from edgevit.runner.telemetry import Recorder\n"
        f"recorder = Recorder({str(orin)!r}).__enter__()\n"
        "print(recorder._process.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert list(temporary.iterdir()) == []  # nothing could have cleared it away
    pid, end = int(done.stdout), time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the recorder outlived its parent")


def test_energy_by_hand():
    # 9 W under load, 4 W idle, 2 s, 100 images: 5 W * 2 s / 100 = 100 mJ
    assert energy_mj(9000, 4000, 2.0, 100) == 100


def test_energy_of_two_engines_on_a_board_whose_current_follows_them(orin):
    """The tree's current is 1000 mA when idle, 2000 under `small` and 3000 under `large`."""
    board = orin / CURRENT
    put(board, "1000")

    class Drawing(Busy):
        def __init__(self, milliamperes):
            super().__init__(lambda: put(board, str(milliamperes)), after=1)

    engines = {"small": Drawing(2000), "large": Drawing(3000)}
    with Recorder(orin, interval_ms=10) as recorder:
        rows = measure_energy(engines, IMAGE, recorder, seconds=0.6, idle_seconds=0.3)
    for name, milliwatts in (("small", 5.016 * 1000), ("large", 5.016 * 2000)):
        row = rows[name]
        assert row.rails == ("VDD_IN",)
        assert row.images == 2 * engines[name].runs
        # the first reading may still be of the state before, the last one of that after
        assert row.idle_mw == pytest.approx(5016, rel=0.1)
        assert row.load_mw - row.idle_mw == pytest.approx(milliwatts, rel=0.1)
        per_image = (row.load_mw - row.idle_mw) * row.seconds / row.images
        assert row.energy_mj == pytest.approx(per_image)
        assert row.to_dict()["rails"] == ["VDD_IN"]
    assert rows["large"].energy_mj > 1.5 * rows["small"].energy_mj


def test_energy_that_can_not_be_told(orin, tmp_path):
    with Recorder(orin, interval_ms=10) as recorder:
        rows = measure_energy({"a": Busy()}, IMAGE, recorder, seconds=0.5, idle_seconds=0.5)
        with pytest.raises(UsageError, match="EV781"):
            measure_energy({"a": Busy()}, IMAGE, recorder, seconds=0)
    assert rows["a"].energy_mj is None
    assert "not above" in rows["a"].reason
    with Recorder(tmp_path / "nothing", interval_ms=10) as recorder:
        rows = measure_energy({"a": Busy()}, IMAGE, recorder, seconds=0.1, idle_seconds=0.1)
    assert (rows["a"].energy_mj, rows["a"].rails) == (None, ())
    assert rows["a"].reason == "No power rail can be read here."


def test_rounding_is_no_energy():
    """Means of differently many equal readings may differ in the last bit."""
    phases = {"idle": ((0.0, 9.0),), "energy a": ((10.0, 19.0),)}
    idle, load = 7624.320000000002, 7624.320000000003
    power = [idle] * 10 + [load] * 10
    readings = [Reading(float(t), power_mw={"VDD_IN": mw}) for t, mw in enumerate(power)]
    row = energy_of(Recording("sysfs", 1000, readings, phases), "a", 9.0, 1000)
    assert row.load_mw > row.idle_mw
    assert (row.energy_mj, row.reason) == (
        None,
        "The power under load was not above that when idle.",
    )


def test_a_reading_survives_its_line():
    reading = Reading(
        1.5, {"gpu": 1}, {"tj": 40.5}, {"VDD_IN": 7.25}, {"oc1": 2}, {"cap": 3}, ["flag"]
    )
    assert Reading.from_json(reading.to_json()) == reading


def test_phases_cut_by_time():
    readings = [Reading(time_s=float(t)) for t in range(10)]
    spans = {"a": ((1.0, 3.0), (7.5, 8.5))}
    recording = Recording("sysfs", 1000, readings, spans)
    assert [r.time_s for r in recording.during("a")] == [1, 2, 3, 8]
    assert recording.during("b") == []


def test_readings_without_a_rail_are_left_out_of_the_mean():
    """A sum over changing sets of rails would compare different things."""
    readings = [
        Reading(0.0, {"gpu": 10**9}, power_mw={"A": 1.0, "B": 2.0}),
        Reading(1.0, {"gpu": 10**9}, power_mw={"A": 3.0}),
        Reading(2.0, {"gpu": 10**9}, power_mw={"A": 5.0, "B": 9.0}),
    ]
    recording = Recording("sysfs", 1000, readings, {"during": ((0.0, 2.0),)})
    assert latency_conditions(recording)["power_mw"] == {
        "rails": ["A", "B"],
        "before": None,
        "during": (3.0 + 14.0) / 2,
    }


def test_sensors_that_fall_silent_while_timing():
    spans = {"during": ((0.0, 10.0),)}
    steady = [Reading(t / 10, {"gpu": 10**9}) for t in range(100)]
    assert latency_conditions(Recording("sysfs", 100, steady, spans))["valid"] is True
    for silent in (steady[:60], steady[60:], steady[:20] + steady[60:]):
        conditions = latency_conditions(Recording("sysfs", 100, silent, spans))
        assert conditions["valid"] is None
        assert "did not answer for" in conditions["reasons"][0]


def test_sampling_is_another_process(orin):
    """No thread of this interpreter that could hold its lock while an engine is timed."""
    before = set(threading.enumerate())  # other tests may have left some
    with Recorder(orin):
        assert set(threading.enumerate()) <= before


def test_the_command_prints_readings(orin):
    command = [sys.executable, "-m", "edgevit.runner.telemetry", "--root", str(orin)]
    done = subprocess.run(
        [*command, "--seconds", "0.1", "--interval-ms", "20"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    header, *lines = done.stdout.splitlines()
    assert header == '{"source": "sysfs", "interval_ms": 20}'
    assert Reading.from_json(lines[0]).power_mw["VDD_IN"] == pytest.approx(5.016 * 1520)


def test_on_a_boards_python_without_numpy(orin):
    """Python 3.8 where there is one: recorded and judged with the standard library alone."""
    code = (
        "import json, sys, time\n"
        "sys.modules['numpy'] = None\n"
        "from edgevit.runner.telemetry import Recorder, latency_conditions\n"
        f"with Recorder({str(orin)!r}, interval_ms=20) as recorder:\n"
        "    for phase in ('before', 'during', 'after'):\n"
        "        recorder.watch(phase, 0.2)\n"
        "print(json.dumps(latency_conditions(recorder.recording())))\n"
    )
    done = subprocess.run(
        [python_of_a_board(), "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    conditions = json.loads(done.stdout)
    assert conditions["valid"] is True
    assert conditions["power_mw"]["rails"] == ["VDD_IN"]


def test_all_in_one_call(orin, tmp_path, monkeypatch):
    monkeypatch.setattr("edgevit.runner.telemetry.watching._LEAST_SECONDS", 0.4)
    engines = {"fp32": Busy(), "engine": Busy()}
    samples, conditions = measure_watched(
        engines, IMAGE, watch="gpu", rounds=3, energy_seconds=0.2, root=orin
    )
    assert sum(samples["engine"].samples_ms) > 150  # as long as the sensors need, not 3 rounds
    assert conditions["valid"] is True
    assert conditions["power_mode"]["name"] == "MAXN_SUPER"
    assert set(conditions["energy"]) == {"fp32", "engine"}
    assert conditions["energy"]["engine"]["rails"] == ["VDD_IN"]
    samples, conditions = measure_watched(
        engines, IMAGE, watch="gpu", rounds=3, root=tmp_path / "nothing"
    )
    assert conditions is None
    assert len(samples["fp32"].samples_ms) == 3


def test_latencies_that_do_not_count_are_measured_once_more(orin, monkeypatch):
    from edgevit.report.telemetry import telemetry_notes
    from edgevit.runner.measure import measurements

    alarm, turns = orin / "sys/class/thermal/cooling_device1/cur_state", []
    put(alarm, "1")

    def on_the_tree(*arguments, **keywords):
        found = measure_watched(*arguments, **keywords, root=orin, energy_seconds=0)
        turns.append(found)
        put(alarm, "0")
        return found

    monkeypatch.setattr(measurements, "measure_watched", on_the_tree)
    monkeypatch.setattr("edgevit.runner.telemetry.watching._LEAST_SECONDS", 0.5)
    timed = measurements._latency({"engine": Busy()}, IMAGE, 5, "cpu", lambda *_: None)
    reason = "The device reported: cpu-throttle-alert."
    assert [telemetry["valid"] for _, telemetry in turns] == [False, timed[1]["valid"]]
    assert timed[0] is turns[1][0]
    assert timed[1]["valid"] is not False
    assert timed[1]["retimed_because"] == [reason]
    assert any(line.endswith(reason) for line in telemetry_notes(timed[1]))
    once, telemetry = measurements._latency({"engine": Busy()}, IMAGE, 5, "cpu", lambda *_: None)
    assert (len(turns), telemetry["retimed_because"]) == (3, [])
    assert once is turns[2][0]


def test_a_bundles_report_says_what_held_while_it_was_timed(orin, parts, tmp_path, monkeypatch):
    """From the sensors to the report, by way of the JSON that a board sends."""
    from edgevit.bundle import open_bundle
    from edgevit.runner.board.exchange import dict_from_measurements, measurements_from_dict
    from edgevit.runner.measure import measurements
    from edgevit.runner.measure.conditions import Conditions
    from edgevit.runner.measure.validation import validation_report

    put(orin / "sys/class/thermal/cooling_device1/cur_state", "1")
    on_the_tree = partial(measure_watched, root=orin, energy_seconds=1.0)
    monkeypatch.setattr(measurements, "measure_watched", on_the_tree)
    monkeypatch.setattr("edgevit.runner.telemetry.watching._LEAST_SECONDS", 0.5)
    parts.manifest["preprocessing"]["std"] = [0.5, 0.5, 0.5]
    bundle = open_bundle(parts.write(tmp_path / "bundle"))
    pixels = bundle.golden()["images"]
    batches = [(pixels, np.zeros(len(pixels), np.int64), None)]
    conditions = Conditions(threads=1, rounds=5)
    num = len(pixels)
    measured = measurements.measure(bundle, lambda: batches, num, conditions, lambda *_: None)
    sent = json.loads(json.dumps(dict_from_measurements(measured)))
    report = validation_report(bundle, measurements_from_dict(sent))
    assert report["telemetry"]["valid"] is False
    assert report["telemetry"]["watched_clock"] == "cpu"  # ONNX Runtime's CPU provider
    assert report["telemetry"]["retimed_because"] == ["The device reported: cpu-throttle-alert."]
    reason = "the latencies do not count: The device reported: cpu-throttle-alert."
    assert reason in report["warnings"]
    assert report["energy_mj"] == {"fp32": None, "engine": None}  # the tree's current is steady
    assert "not above" in report["telemetry"]["energy"]["engine"]["reason"]
