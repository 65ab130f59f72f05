"""The fence around float16 operators: what it keeps, and that it changes nothing else."""

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.registry import TARGETS
from edgevit.targets.tensorrt.parity import AsWritten, add_fences

THOR = TARGETS["jetson-thor"]
HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def linear_layer(weight, bias):
    """A float16 layer as the lowering writes it: Cast, MatMul, Add, Cast."""
    helper, constant = onnx.helper, onnx.numpy_helper.from_array
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=HALF),
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["logits"], to=FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("image", FLOAT, ["batch", len(weight)])],
        [helper.make_tensor_value_info("logits", FLOAT, ["batch", len(bias)])],
        [constant(weight, "weight"), constant(bias, "bias")],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def unfenced(model, images):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0]


def test_a_fenced_layer_rounds_after_every_operator():
    """Against numpy; numbers of few bits, so that the sums have no order."""
    rng = np.random.default_rng(0)
    images = rng.integers(-64, 65, (50, 4)).astype(np.float32) / 64
    weight = (rng.integers(-64, 65, (4, 8)) / 64).astype(np.float16)
    bias = rng.normal(size=8).astype(np.float16)
    product = (images.astype(np.float64) @ weight.astype(np.float64)).astype(np.float16)
    expected = (product + bias).astype(np.float32)
    model = linear_layer(weight, bias)
    assert np.array_equal(AsWritten(model).run(images), expected)
    # Without fences nothing behind the first cast is rounded at all: this is why there are any.
    floats = images @ weight.astype(np.float32) + bias.astype(np.float32)
    assert np.array_equal(unfenced(model, images), floats)
    assert not np.array_equal(floats, expected)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_without_its_fences_the_model_is_the_old_one(name, images, request):
    graph = request.getfixturevalue(name)
    placement = THOR.place(graph, weight_bits=8, act_bits=8)
    lowered = THOR.lower(calibrate(graph, placement, images, METHODS["minmax"]))
    model = whole_model(lowered.onnx, lowered.tensors)
    found = add_fences(model)
    fences = {n.input[0]: n.output[0] for n in found.graph.node if is_fence(n)}
    assert len(fences) > 20
    nodes = [node for node in found.graph.node if not is_fence(node)]
    for node in nodes:
        node.output[0] = fences.get(node.output[0], node.output[0])
    del found.graph.node[:], found.graph.output[1:]
    found.graph.node.extend(nodes)
    assert found == onnx.ModelProto.FromString(model)


def is_fence(node):
    return node.op_type == "Identity" and node.input[0] == f"{node.output[0]}_unfenced"


def test_a_float32_model_gets_no_fence(vit):
    lowered = THOR.reference(vit)
    model = whole_model(lowered.onnx, lowered.tensors)
    assert add_fences(model) == onnx.ModelProto.FromString(model)
