"""The closed list of operators is the lowering's own, and costs are inferred as the engine runs.

Every graph of every kind of bundle is opened; shapes and types of all its tensors are those that
ONNX Runtime computes.
"""

import ast
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import edgevit
from edgevit import api
from edgevit.bundle import cost, open_bundle
from edgevit.bundle.graph import read_graph
from edgevit.bundle.limits import DEFAULT_GMACS, DEFAULT_MEMORY_MB
from edgevit.bundle.opening import _graphs
from edgevit.bundle.operators import MICROSOFT, OPERATORS
from edgevit.bundle.shape_rules import ELEMENT_COST, Value
from edgevit.targets.onnx.builder import OnnxBuilder
from edgevit.zoo import reference_images

BUNDLES = {
    "vit cpu": ("vit_cifar10", "cpu", 8, "minmax"),
    "swin cpu": ("swin_cifar10", "cpu", 4, "edgevit"),
    "vit jetson": ("vit_cifar10", "jetson-orin-nano", 6, "minmax"),
    "swin thor": ("swin_cifar10", "jetson-thor", 8, "minmax"),
}
"""Name -> model, target, bits, method: together they have every form of product there is."""


@pytest.fixture(scope="module", params=BUNDLES)
def bundle(request, tmp_path_factory):
    model, target, bits, method = BUNDLES[request.param]
    images = str(reference_images("calibration"))
    found = api.quantize(model, images, bits=bits, target=target, method=method, num_calib=2)
    return found.save(tmp_path_factory.mktemp("costs") / "bundle")


def engine_tensors(onnx_bytes, input_size):
    """Return tensor name -> (shape, type) as ONNX Runtime computes two images."""
    model = onnx.load_from_string(onnx_bytes)
    known = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for name in set(node.output) - known:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = {output.name: output.type for output in session.get_outputs()}
    names = [name for name in kinds if "float8" not in kinds[name]]  # numpy has no such type
    images = np.ones((2, *input_size), np.float32)
    found = session.run(names, {session.get_inputs()[0].name: images})
    return {name: (array.shape, array.dtype.name) for name, array in zip(names, found, strict=True)}


def test_shapes_and_types_are_those_that_the_engine_computes(bundle):
    compared = set()
    for name, entries in _graphs(bundle):
        tensors = {n: Value(e.shape, e.dtype, is_constant=True) for n, e in entries.items()}
        graph = read_graph((bundle.path / name).read_bytes(), name)
        values = cost.inputs_of(graph, tensors, name)
        for node in graph.nodes:
            cost.add_output(node, values, name)
        kept = bundle.manifest.get("variants", {})
        variant = next((v for v in kept if kept[v]["graph"] == name), None)
        is_reference = name == "reference.onnx"
        whole = bundle.reference_onnx() if is_reference else bundle.engine_onnx(variant)
        for tensor, (shape, dtype) in engine_tensors(whole, bundle.input_size).items():
            inferred = tuple(-2 * size if size < 0 else size for size in values[tensor].shape)
            assert (inferred, values[tensor].dtype) == (shape, dtype), (name, tensor)
        compared.add(name)
    assert compared == set(bundle.costs)


def test_every_graph_has_a_cost_far_below_the_limits(bundle):
    for found in bundle.costs.values():
        assert 0 < found.activation_bytes.at(64) < 0.1 * DEFAULT_MEMORY_MB * 10**6
        assert 0 < found.multiply_adds.at(1) < 0.01 * DEFAULT_GMACS * 10**9
        assert found.activation_bytes.at(64) > 8 * found.activation_bytes.at(2)
    bundle.check_limits(64)


def test_work_is_that_of_the_products(bundle):
    """Multiply-adds of the linears of the fp32 graph, counted from their weights' shapes."""
    name = "reference.onnx"
    entries = dict(_graphs(bundle))[name]
    graph = read_graph((bundle.path / name).read_bytes(), name)
    tensors = {n: Value(e.shape, e.dtype, is_constant=True) for n, e in entries.items()}
    values = cost.inputs_of(graph, tensors, name)
    linears = 0
    for node in graph.nodes:
        _, work = cost.add_output(node, values, name)
        if node.op == "Gemm":
            (rows, depth), (_, columns) = (values[n].shape for n in (node.inputs[0], node.output))
            wanted = abs(rows) * depth * columns
            assert -work == max(wanted, ELEMENT_COST * abs(rows) * max(depth, columns))
            linears += wanted
    assert 0.3 * bundle.costs[name].multiply_adds.per_image < linears


def test_the_list_of_operators_is_what_the_lowering_writes():
    """Every operator's name in the text of what writes graphs, and no other."""
    sources = [path.read_text() for path in Path(edgevit.__file__).parent.rglob("*.py")]
    writers = [ast.parse(source) for source in sources if "builder.add(" in source]
    texts = {
        node.value
        for tree in writers
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    written = {text for text in texts if onnx.defs.has(text) or text == "MatMulIntegerToFloat"}
    assert written == set(OPERATORS)


@pytest.mark.parametrize(
    ("op", "domain", "attributes"),
    [("Loop", "", {}), ("Gemm", "", {"transB": 1}), ("MatMul", MICROSOFT, {})],
)
def test_the_builder_writes_nothing_else(op, domain, attributes):
    with pytest.raises(KeyError):
        OnnxBuilder().add(op, ["x"], "y", domain=domain, **attributes)


def test_a_bundle_costs_nothing_to_look_at_again(bundle):
    assert open_bundle(bundle.path).costs == bundle.costs
