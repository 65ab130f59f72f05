"""Bundles for rtx-* targets, opened through NVIDIA's real bindings on the stub."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

DRIVER = Path(__file__).parent / "drive_rtx.py"


def rtx_bundle(parts, pixels_to_input, path):
    """A bundle for an RTX card whose simulation is what the stub's engine computes."""
    golden = parts.golden
    means = pixels_to_input(golden["images"]).mean(axis=(1, 2, 3), dtype=np.float64)
    golden["logits_simulated"] = (means[:, None] * np.arange(1, 8)).astype(np.float32)
    head = {"name": "head/MatMul", "module": "head", "kind": "linear", "left_bits": 8}
    head.update(right_bits=8, carrier="s8 x s8", kernel="Q/DQ")
    parts.manifest["layers"] = [head]
    return parts.write(path)


@pytest.fixture(scope="module")
def driven(rtx_stub, make_parts, pixels_to_input, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rtx")
    bundle = rtx_bundle(make_parts(), pixels_to_input, folder / "bundle")
    environment = {**rtx_stub, "STUB_MODEL": "STUB -1 3 8 8 7"}
    environment["EDGEVIT_ENGINE_CACHE"] = str(folder / "own_cache")
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(bundle), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_kernels_made_for_the_card_are_kept_and_come_back(driven):
    first, second, *_ = driven["kept"]
    assert first == [False, [], "KERNELS for 1 2"]  # one entry a batch size
    assert second == [True, [], "KERNELS for 1 2"]


@pytest.mark.parametrize("index", [2, 3], ids=["damaged", "stale"])
def test_kernels_that_do_not_fit_are_made_anew_with_a_note(driven, index):
    from_cache, notes, kernels = driven["kept"][index]
    assert from_cache
    assert "made anew" in notes[0]
    assert kernels == "KERNELS for 1"


def test_an_engine_of_another_machine_runs_only_if_the_user_trusts_it(driven):
    run, (note,) = driven["bundled"]["foreign"]
    assert not run
    assert "another machine compiled it" in note
    assert driven["bundled"]["trusted"] == [True, []]
    assert driven["bundled"]["own"] == [True, []]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("card", "it is for SM86, SM120, and the card here is SM89"),
        ("version", "1.2.0.54 compiled it"),
        ("small", "its largest batch is 2, and 4 is asked for"),
        ("damaged", "The engine is damaged"),
    ],
)
def test_an_engine_that_does_not_fit_is_compiled_anew_with_a_note(driven, name, said):
    run, (note,) = driven["bundled"][name]
    assert not run
    assert said in note


CODES = {
    "VERSION_MISMATCH": "EV776",
    "UNSUPPORTED_CC": "EV775",
    "OLD_CUDA_DRIVER": "EV772",
    "OLD_CUDA_RUNTIME": "EV778",
    "INSUFFICIENT_GPU_MEMORY": "EV774",
    "MALFORMED_ENGINE": "EV777",
    "CUDA_ERROR": "EV758",
}


def test_every_diagnosis_has_its_sentence_and_remedy(driven):
    """All that this version of the library can tell: a new one fails here."""
    found = driven["diagnoses"]
    assert {name: code for name, (code, _, _) in found.items()} == CODES
    assert all(try_next for _, _, try_next in found.values())


def test_machines_that_can_not_run_it(driven):
    found = driven["machines"]
    assert found["STUB_NO_GPU 1"][0] == "EV773"
    assert "--engine onnxruntime" in found["STUB_NO_GPU 1"][2]
    code, why, try_next = found["STUB_DRIVER 12040"]
    assert (code, "The driver has CUDA 12.4." in why) == ("EV772", True)
    assert "tensorrt-rtx-cu12" in try_next
    assert "There is no driver." in found["STUB_DRIVER 0"][1]
    assert found["STUB_CAPABILITY 90"][0] == "EV771"
    assert found["STUB_NO_MEMORY 1"][0] == "EV774"


def test_validating_opens_it(driven):
    found = driven["validated"]
    assert driven["device"] == "8.9"
    assert found["engine"].startswith("tensorrt_rtx 1.")
    assert (found["provider"], found["variant"]) == ("TensorRT for RTX", "int8")
    assert found["kept"] == "int8"
    assert [row["chosen"] for row in found["layers"]] == ["int8"]
    assert found["warnings"] == []
