"""Sessions over real ONNX Runtime: what runs, what is refused, and that nothing falls back."""

import os
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgevit.bundle import open_bundle
from edgevit.errors import BundleError, DeviceError, EnvironmentError_, UsageError
from edgevit.runner.engines.onnxruntime.session import EngineSession, session_from_bundle

SIDE = 4


def model(operator="Identity", outputs=1, rank=2, dtype=TensorProto.FLOAT):
    """Flatten the image and apply one operator: logits [B, 48]."""
    image = helper.make_tensor_value_info("image", dtype, ["batch", 3, SIDE, SIDE][: rank + 2])
    names = [f"logits{index}" for index in range(outputs)]
    infos = [helper.make_tensor_value_info(name, dtype, None) for name in names]
    nodes = [helper.make_node("Flatten", ["image"], ["flat"])]
    nodes += [helper.make_node(operator, ["flat"], [name]) for name in names]
    graph = helper.make_graph(nodes, "g", [image], infos)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString()


def images(batch=2, value=1.0):
    return np.full((batch, 3, SIDE, SIDE), value, np.float32)


def test_logits_are_the_models():
    session = EngineSession(model("Neg"), threads=1)
    logits = session.run(images(value=2.0))
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, np.full((2, 48), -2, np.float32))
    assert session.engine == f"onnxruntime {onnxruntime.__version__}"


def test_every_output_is_there_by_name_and_the_first_is_the_main_one():
    session = EngineSession(model("Neg", outputs=2), threads=1)
    found = session.run_all(images(value=2.0))
    assert list(found) == list(session.outputs) == ["logits0", "logits1"]
    for values in found.values():
        np.testing.assert_array_equal(values, session.run(images(value=2.0)))


def test_a_provider_that_is_not_installed_is_refused():
    with pytest.raises(DeviceError, match="EV702") as caught:
        EngineSession(model(), provider="ImaginaryExecutionProvider")
    assert "CPUExecutionProvider" in caught.value.why


def test_a_provider_that_can_not_run_the_model_does_not_fall_back_to_the_cpu():
    other = [name for name in onnxruntime.get_available_providers() if "CPU" not in name]
    if "AzureExecutionProvider" not in other:
        pytest.skip("this ONNX Runtime has no second provider that runs nothing itself")
    with pytest.raises(DeviceError, match=r"EV70[23]"):
        EngineSession(model(), provider="AzureExecutionProvider")


@pytest.mark.parametrize("data", [b"", b"not onnx", model("NoSuchOperator")], ids=range(3))
def test_a_model_the_engine_refuses(data):
    with pytest.raises(DeviceError, match="EV703") as caught:
        EngineSession(data)
    assert caught.value.why


def test_a_model_that_takes_no_images():
    with pytest.raises(DeviceError, match="EV713"):
        EngineSession(model(rank=1))


@pytest.mark.parametrize(("operator", "value"), [("Log", -1.0), ("Log", 0.0), ("Exp", 1e4)])
def test_nan_and_infinity_are_errors(operator, value):
    with pytest.raises(DeviceError, match="EV705"):
        EngineSession(model(operator), threads=1).run(images(value=value))


@pytest.mark.parametrize(
    "wrong",
    [
        images().astype(np.float64),
        images()[0],
        images()[:, :, :2],
        images()[:0],
        images().transpose(0, 2, 3, 1),
    ],
    ids=range(5),
)
def test_images_that_do_not_fit(wrong):
    with pytest.raises(UsageError, match="EV706"):
        EngineSession(model(), threads=1).run(wrong)


def test_an_engine_that_fails_while_running():
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 48])
    node = helper.make_node("Reshape", ["image", "shape"], ["logits"])
    graph = helper.make_graph([node], "g", [image], [logits], [shape])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = EngineSession(made.SerializeToString(), threads=1)
    assert session.run(images(1)).shape == (1, 48)
    with pytest.raises(DeviceError, match="EV704") as caught:
        session.run(images(2))
    assert "Reshape" in caught.value.why


def test_the_threads_that_onnxruntime_takes_by_itself_are_counted():
    """It says their number nowhere; Linux lists the threads that came with the session."""
    before = len(os.listdir("/proc/self/task"))
    session = EngineSession(model())
    assert session.threads == len(os.listdir("/proc/self/task")) - before + 1
    assert 1 <= session.threads <= os.cpu_count()
    three = EngineSession(model(), threads=3)  # two of its own and the one that calls
    assert len(os.listdir("/proc/self/task")) - before + 1 == session.threads + 2
    assert three.threads == 3


def test_threads_have_to_be_positive():
    with pytest.raises(UsageError, match="EV707"):
        EngineSession(model(), threads=0)


def test_the_optimized_graph_can_be_kept(tmp_path):
    session = EngineSession(model("Neg"), save_optimized=tmp_path / "optimized.onnx")
    kept = onnx.load(tmp_path / "optimized.onnx")
    assert "Neg" in {node.op_type for node in kept.graph.node}
    assert session.run(images()).shape == (2, 48)


def test_without_optimization_the_graph_stays_as_it_is(tmp_path):
    EngineSession(model(), optimize=False, save_optimized=tmp_path / "plain.onnx")
    EngineSession(model(), optimize=True, save_optimized=tmp_path / "optimized.onnx")
    plain, optimized = (onnx.load(tmp_path / f"{name}.onnx") for name in ("plain", "optimized"))
    assert [node.op_type for node in plain.graph.node] == ["Flatten", "Identity"]
    assert len(optimized.graph.node) == 1


def test_session_configuration_reaches_the_engine():
    """An entry whose value ONNX Runtime checks proves that entries arrive."""
    with pytest.raises(DeviceError, match="EV703"):
        EngineSession(
            model(), threads=2, session_config={"session.intra_op_thread_affinities": "nowhere"}
        )


def test_a_bundle_brings_its_configuration_and_the_reference_does_not_take_it(
    parts, tmp_path, pixels_to_input, monkeypatch
):
    asked = []

    class Recorded(EngineSession):
        def __init__(self, onnx, *, session_config, **others):
            asked.append(dict(session_config))
            super().__init__(onnx, session_config=session_config, **others)

    monkeypatch.setattr("edgevit.runner.engines.onnxruntime.session.EngineSession", Recorded)
    bundle = open_bundle(parts.write(tmp_path / "out"))
    session_from_bundle(bundle, "engine", threads=2)
    pixels = pixels_to_input(parts.golden["images"])
    logits = session_from_bundle(bundle, "fp32", threads=1).run(pixels)
    np.testing.assert_allclose(logits, parts.golden["logits_fp32"], atol=1e-4)
    assert asked == [{"session.x64quantprecision": "1"}, {}]


def test_a_bundle_without_reference_has_no_fp32_engine(parts, tmp_path):
    bundle = open_bundle(parts.write(tmp_path / "out", reference=None))
    with pytest.raises(BundleError, match="EV425"):
        session_from_bundle(bundle, "fp32")


def test_a_missing_engine_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EnvironmentError_, match="pip install onnxruntime"):
        EngineSession(model())


def test_settings_that_the_engine_does_not_take():
    with pytest.raises(DeviceError, match="EV703"):
        EngineSession(model(), session_config={"session.x": "y" * 10_000})
