"""What a look at the board decides before anything is sent."""

import pytest

from edgevit.deploy.preflight import Board, Needs, check
from edgevit.errors import EnvironmentError_
from edgevit.runner.engines import engine_of

MISSING = {"error": "No module named that"}


def verdict(target, engine, **modules):
    found = {"numpy": {"version": "1.26"}, "onnxruntime": MISSING, "tensorrt": MISSING}
    found.update({name: {"version": version} for name, version in modules.items()})
    board = Board(
        python="3.10.12",
        modules=found,
        root="/home/user/.cache/edgevit/x",
        free_bytes=1 << 40,
        present_bytes=0,
        facts={},
    )
    own = engine_of({"target": target}).name
    needs = Needs(target=target, made_for=own, engine=engine, disk_bytes=1, model_bytes=1)
    try:
        return check(board, needs)
    except EnvironmentError_ as error:
        return f"{error.code} {error.what} {error.why}"


ORT, TRT = {"onnxruntime": "1.17"}, {"tensorrt": "10.3.0"}


@pytest.mark.parametrize(
    ("target", "engine", "modules"),
    [
        ("cpu", "auto", ORT),
        ("jetson-orin-nano", "auto", TRT),
        ("jetson-orin-nano", "tensorrt", TRT),
        ("jetson-orin-nano", "auto", ORT),
        ("jetson-orin-nano", "onnxruntime", ORT),
        ("jetson-orin-nano", "auto", {**ORT, "tensorrt": "8.6.2"}),
    ],
)
def test_an_engine_that_will_do(target, engine, modules):
    assert verdict(target, engine, **modules) == []


@pytest.mark.parametrize(
    ("target", "engine", "modules", "why"),
    [
        ("cpu", "auto", TRT, "no ONNX Runtime"),
        ("jetson-orin-nano", "auto", {}, "no TensorRT"),
        ("jetson-orin-nano", "tensorrt", ORT, "no TensorRT"),
        ("jetson-orin-nano", "onnxruntime", TRT, "no ONNX Runtime"),
        ("jetson-orin-nano", "auto", {"tensorrt": "8.6.2"}, "8.6.2; 10.3 or newer"),
        ("jetson-orin-nano", "tensorrt", {**ORT, "tensorrt": "8.6.2"}, "8.6.2; 10.3 or newer"),
        ("jetson-orin-nano", "tensorrt", {**ORT, "tensorrt": "unknown"}, "tells no version"),
    ],
)
def test_an_engine_that_is_missing(target, engine, modules, why):
    found = verdict(target, engine, **modules)
    assert found.startswith("EV840")
    assert why in found
