"""NVIDIA's real library on a machine without a card: what it says of engines, and what we say."""

import os
from dataclasses import replace

import pytest

pytest.importorskip("tensorrt_rtx")

from edgevit.bundle import open_bundle
from edgevit.errors import DeviceError
from edgevit.runner.engines.tensorrt.bindings import MessageLog
from edgevit.runner.engines.tensorrt.session import TensorRTSession
from edgevit.runner.engines.tensorrt_rtx import ENGINE
from edgevit.runner.engines.tensorrt_rtx.library import RTX
from edgevit.runner.measure.conditions import Conditions

pytestmark = pytest.mark.skipif(
    os.path.exists("/dev/nvidia0") or os.path.exists("/dev/nvidiactl"),
    reason="this machine has a GPU",
)


@pytest.fixture(scope="module")
def engine():
    """A small engine of the real compiler, for RTX 40."""
    onnx = pytest.importorskip("onnx")
    from edgevit.runner.engines.tensorrt_rtx.compiling import compiled_from_onnx

    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        onnx.helper.make_node("Flatten", ["mean"], ["logits"]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "g", [info("image", kind, ["b", 3, 8, 8])], [info("logits", kind, ["b", 3])]
    )
    opset = onnx.helper.make_opsetid("", 20)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
    return compiled_from_onnx(model.SerializeToString(), ("SM89",)).data


def refused(data):
    with pytest.raises(DeviceError) as caught:
        TensorRTSession(data, library=RTX)
    return caught.value


def test_without_a_driver_it_is_said_and_what_can_be_done(engine):
    error = refused(engine)
    assert (error.code, error.exit_status) == ("EV772", 7)
    assert "cudaError 35" in error.why
    assert "tensorrt-rtx-cu12" in error.try_next
    assert "--engine onnxruntime" in error.try_next


@pytest.mark.parametrize("data", [b"", b"x", b"no engine" * 600], ids=["empty", "short", "text"])
def test_what_is_no_engine_is_called_damaged(data):
    error = refused(data)
    assert error.code == "EV777"
    assert "edgevit build" in error.try_next


def test_deserializing_without_asking_first_says_the_same(engine):
    """The way of an engine whose header is whole: the driver is met at the next step."""
    unasked = replace(RTX, check=lambda *_: None)
    with pytest.raises(DeviceError, match="EV772"):
        TensorRTSession(engine, library=unasked)


def test_a_cut_engine_is_refused(engine):
    """Without a driver its size is not compared: the driver comes first."""
    assert refused(engine[: len(engine) // 2]).code in ("EV772", "EV777")


def test_the_log_keeps_what_the_library_says(engine):
    log = MessageLog()
    with pytest.raises(DeviceError):
        TensorRTSession(engine, library=RTX, log=log)
    assert any("CUDA driver version is insufficient" in text for text in log.errors)


def test_validating_without_a_card_ends_at_once(bundle_path, pixels_to_input):
    """Before anything is compiled, and not once for each variant."""
    with pytest.raises(DeviceError, match=r"EV77[23]") as caught:
        ENGINE.open(
            open_bundle(bundle_path),
            Conditions(engine="tensorrt_rtx"),
            lambda: [],
            pixels_to_input,
            lambda *said: pytest.fail(f"{said} came first"),
            stands_in=False,
        )
    assert caught.value.exit_status == 7
    assert "--engine onnxruntime" in caught.value.try_next
