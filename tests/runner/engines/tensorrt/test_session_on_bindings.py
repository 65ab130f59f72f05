"""The whole session through NVIDIA's real bindings, on a stub that computes on the processor."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bindings_stub
import pytest

DRIVER = Path(__file__).parent / "drive_session.py"


ADAPTERS = {
    "ctypes": None,
    "cuda": "cuda_13",
    "cuda, older": "cuda_12",
    "pycuda": "pycuda",
    "torch": "torch",
}
"""CUDA adapter -> folder of the stand-in for the package it needs, on the stub of libcudart."""


def driven_with(stubs, version, adapter):
    environment = bindings_stub.environment(stubs, version)
    stand_in = ADAPTERS[adapter]
    if stand_in is not None:
        environment["EDGEVIT_CUDA"] = adapter.split(",")[0]
        folder = str(DRIVER.parent / "stand_ins" / stand_in)
        environment["PYTHONPATH"] = os.pathsep.join([folder, environment["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, str(DRIVER)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["version"].startswith(version)
    return found


@pytest.fixture(scope="module")
def driven(stubs, version):
    return driven_with(stubs, version, "ctypes")


@pytest.mark.parametrize("adapter", list(ADAPTERS)[1:])
def test_every_adapter_computes_the_same(stubs, adapter):
    """Reached by its name in EDGEVIT_CUDA; graphs, timers and failures included."""
    own, other = (driven_with(stubs, "10.13", name)["run"] for name in ("ctypes", adapter))
    assert own.pop("adapter") == "ctypes"
    assert other.pop("adapter") == adapter.split(",")[0]
    launches = {"ctypes": own.pop("graph_launches"), adapter: other.pop("graph_launches")}
    assert other == own
    assert launches == {"ctypes": 7, adapter: 0 if adapter == "pycuda" else 7}


def test_a_plan_is_built_strongly_typed_with_its_profile(driven):
    built = driven["built"]
    assert built["plan"] == "PLAN -1 1 4 3 8 8 7"  # batch 1 to 4
    assert built["fixed_plan"] == "PLAN 4 4 4 3 8 8 7"
    assert built["exact_plan"] == "PLAN 4 4 4 3 8 8 7 without TF32"
    assert built["warnings"] == ["stub: a warning of the builder"]
    assert built["steps"] == [["Timing", 1, 2], ["Timing", 2, 2]]


def test_kernel_timings_are_handed_on_but_not_to_another_device(driven):
    built = driven["built"]
    assert built["timings"] == ["TIMINGS 0", "TIMINGS 9"]  # the second began with the first's 9
    assert "starts afresh" in built["foreign_timings"][0]


def test_builds_that_fail_say_why(driven):
    built = driven["built"]
    code, why = built["unreadable"]
    assert code == "EV752"
    assert "LayerNormalization blocks.0.norm1" in why
    assert built["too_big"] == ["EV753", "stub: out of memory"]
    assert built["stopped"][0] == "EV753"
    assert built["settings"][0] == "EV754"


def test_every_batch_gets_the_right_logits(driven):
    """Batches change, repeat, exceed the largest one and fall below the smallest."""
    assert max(driven["run"]["errors"] + driven["run"]["padded"]) < 1e-6


def test_a_device_that_runs_out_of_memory_gets_back_what_it_gave(driven):
    found = driven["run"]["out_of_memory"]
    assert found == [["EV758", 0]] * 5 + [["held", 5], ["closed", 0]]


def test_graphs_are_launched_only_when_a_batch_size_repeats(driven):
    """Runs 1 1 1 1 | 3 | 1 | 4 4 | 1 | 2 2 2 2: three, then one, then three launches."""
    assert driven["run"]["graph_launches"] == 7


def test_times_layers_and_facts(driven, version):
    run = driven["run"]
    assert run["kernel_times"] == [5, True]
    assert run["layers"] == {"__myl_CastMean_myl0_0": 0.25, "head/MatMul_myl0_1": 0.5}
    assert run["inspected"] == [["head/MatMul_myl0_1", "int8", ["head/MatMul"]]]
    assert run["facts"]["engine"].startswith(f"tensorrt {version}")
    assert run["facts"]["threads"] is None
    assert run["device"]["compute_capability"] == "8.7"
    assert run["device"]["name"] == "Orin"


def test_what_can_not_run_is_refused(driven):
    run = driven["run"]
    assert [code for code, _ in run["refused"]] == ["EV762", "EV762", "EV764"]
    code, why = run["foreign_plan"]
    assert code == "EV760"
    assert "not compatible" in why


def test_without_a_gpu_cuda_says_so(stubs):
    environment = {**bindings_stub.environment(stubs, "10.3"), "STUB_NO_GPU": "1"}
    code = (
        "from edgevit.runner.engines.tensorrt.cuda import open_device\n"
        "from edgevit.errors import DeviceError\n"
        "try:\n    open_device()\nexcept DeviceError as error:\n    print(error.code, error.why)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "EV773 100: no CUDA-capable device is detected\n", done.stderr


def test_a_capture_that_fails_falls_back_to_plain_launches(stubs):
    environment = {**bindings_stub.environment(stubs, "10.3"), "STUB_NO_CAPTURE": "1"}
    done = subprocess.run(
        [sys.executable, str(DRIVER)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = json.loads(done.stdout)["run"]
    assert run["graph_launches"] == 0
    assert max(run["errors"]) < 1e-6
