"""What a look at the board decides before anything is sent."""

import pytest

from edgevit.deploy.preflight import Board, Needs, check
from edgevit.errors import EdgeViTError, EnvironmentError_
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


def rtx_verdict(capability="8.9", driver="580.65.06", target="rtx-ada", engine="auto", **modules):
    """The verdict on a computer with an RTX card, the engine's package installed there."""
    graphics = {"name": "RTX", "compute_capability": capability, "driver": driver}
    modules = {**{name: MISSING for name in ("onnxruntime", "tensorrt")}, **modules}
    modules.setdefault("tensorrt_rtx", {"version": "1.7.1.116"})
    found = {name: one.get("version") for name, one in modules.items()}
    board = Board(
        python="3.10.12",
        modules={"numpy": {"version": "1.26"}, **modules},
        root="/home/user/.cache/edgevit/x",
        free_bytes=1 << 40,
        present_bytes=0,
        facts={
            "kind": "computer",
            "system": {"machine": "x86_64"},
            "gpu": graphics,
            "python": {"executable": "/usr/bin/python3", "problems": {}, **found},
        },
    )
    needs = Needs(
        target=target, made_for="tensorrt_rtx", engine=engine, disk_bytes=1, model_bytes=1
    )
    try:
        return check(board, needs)
    except EdgeViTError as error:
        return f"{error.code} {error.why} {error.try_next}"


def test_a_card_that_will_do_needs_nothing():
    assert rtx_verdict() == []
    assert rtx_verdict("12.0") == []  # compiled there for the card that is there


@pytest.mark.parametrize(
    ("capability", "driver", "said"),
    [
        (None, None, "EV784 nvidia-smi is not there"),
        ("9.0", "580.65.06", "TensorRT for RTX compiles for SM75"),
    ],
)
def test_a_card_it_does_not_run_on_is_refused_before_anything_is_sent(capability, driver, said):
    found = rtx_verdict(capability, driver)
    assert found.startswith("EV784")
    assert said in found
    assert "--engine onnxruntime" in found
    ort = {"onnxruntime": {"version": "1.32.0"}}
    assert rtx_verdict(capability, driver, engine="onnxruntime", **ort) == []


def test_what_a_card_or_its_driver_lacks_is_a_warning():
    (driver,) = rtx_verdict(driver="550.54.14")
    assert "no CUDA 13" in driver
    assert "tensorrt-rtx-cu12" in driver
    (older,) = rtx_verdict("8.6")
    assert "the card has 8.6" in older


def test_without_the_package_it_is_said_what_to_install():
    found = rtx_verdict(tensorrt_rtx=MISSING)
    assert found.startswith("EV840")
    assert "pip install tensorrt-rtx-cu13" in found
