"""Random changes to a graph, made by onnx's own classes: valid protobuf that says other things."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from edgevit.bundle.operators import OPERATORS

NUMBERS = (
    -1,
    0,
    1,
    2,
    3,
    7,
    255,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    1 << 40,
    (1 << 63) - 1,
    -(1 << 63),
)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, float("inf"), float("nan"), 0.5)
TEXTS = (
    "",
    "..",
    "/etc/passwd",
    "../../x",
    "a\nb",
    "\x1b]0;x\x07",
    "[/bold]",
    "\ud800",
    "\0",
    "raw",
    "zlib",
    "packed",
    "int8",
    "float32",
    "cpu",
    "tensorrt",
    "CPUExecutionProvider",
    "x" * 5000,
    "ä",
    "nan",
    "-1",
)
_FOREIGN = ("Loop", "If", "Scan", "ConstantOfShape", "Tile", "Range", "Shape", "Einsum")
_FOREIGN = (*_FOREIGN, "RandomNormal", "Resize", "NonZero", "ScatterND", "Constant", "EPContext")


def _tensor_name(chance: random.Random, model: onnx.ModelProto) -> str:
    graph = model.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    names += [tensor.name for tensor in graph.initializer]
    return chance.choice((*names, "image", "logits"))


def _node(chance: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
    if not model.graph.node:
        model.graph.node.append(helper.make_node("Identity", ["image"], ["logits"]))
    return chance.choice(model.graph.node)


def _integers(chance: random.Random, most: int = 6) -> list[int]:
    small = [chance.randrange(-4, 9) for _ in range(4)]
    return [chance.choice((*small, *NUMBERS)) for _ in range(chance.randrange(most))]


def _other_operator(chance: random.Random, model: onnx.ModelProto) -> None:
    node = _node(chance, model)
    node.op_type = chance.choice((*OPERATORS, *OPERATORS, *_FOREIGN))
    known = OPERATORS.get(node.op_type)
    if chance.random() < 0.7 and known is not None:
        node.domain = known.domain


def _other_domain(chance: random.Random, model: onnx.ModelProto) -> None:
    _node(chance, model).domain = chance.choice(("", "com.microsoft", "ai.onnx.ml", "evil"))


def _other_input(chance: random.Random, model: onnx.ModelProto) -> None:
    node = _node(chance, model)
    name = chance.choice((_tensor_name(chance, model), _tensor_name(chance, model), "", "absent"))
    if node.input and chance.random() < 0.8:
        node.input[chance.randrange(len(node.input))] = name
    else:
        node.input.append(name)


def _fewer_inputs(chance: random.Random, model: onnx.ModelProto) -> None:
    node = _node(chance, model)
    del node.input[chance.randrange(len(node.input) + 1) :]


def _other_output(chance: random.Random, model: onnx.ModelProto) -> None:
    node = _node(chance, model)
    if node.output and chance.random() < 0.7:
        node.output[0] = _tensor_name(chance, model)
    else:
        node.output.append(chance.choice(("second", "", _tensor_name(chance, model))))


def _other_name(chance: random.Random, model: onnx.ModelProto) -> None:
    text = chance.choice([text for text in TEXTS if text.isprintable() or "\ud800" not in text])
    text = text.encode("utf-8", "replace").decode()
    graph, node = model.graph, _node(chance, model)
    place = chance.randrange(4)
    if place == 0:
        graph.name = text
    elif place == 1:
        node.name = text
    elif place == 2:
        node.doc_string = text
    else:
        model.producer_name = text


def _other_attribute(chance: random.Random, model: onnx.ModelProto) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    attribute = chance.choice(chance.choice(nodes).attribute)
    if attribute.type == AttributeProto.INTS:
        attribute.ints[:] = _integers(chance)
    elif attribute.type == AttributeProto.INT:
        attribute.i = chance.choice((*range(-5, 6), *NUMBERS))
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = chance.choice(_FLOATS)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = chance.choice((b"tanh", b"none", b"/etc/passwd", b"\xff", b""))


def _new_attribute(chance: random.Random, model: onnx.ModelProto) -> None:
    known = sorted({name for operator in OPERATORS.values() for name in operator.attributes})
    name = chance.choice((*known, "body", "value", "file", "allowzero"))
    values: tuple[Any, ...] = (
        chance.choice(NUMBERS),
        chance.choice((0.0, 1.5)),
        "text",
        _integers(chance) or [1],
        helper.make_graph([], "g", [], []),
        helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]),
    )
    _node(chance, model).attribute.append(helper.make_attribute(name, chance.choice(values)))


def _other_type_of_attribute(chance: random.Random, model: onnx.ModelProto) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if nodes:
        chance.choice(chance.choice(nodes).attribute).type = chance.randrange(15)


def _without_node(chance: random.Random, model: onnx.ModelProto) -> None:
    if model.graph.node:
        del model.graph.node[chance.randrange(len(model.graph.node))]


def _same_node_again(chance: random.Random, model: onnx.ModelProto) -> None:
    node = onnx.NodeProto()
    node.CopyFrom(_node(chance, model))
    if chance.random() < 0.7 and node.output:
        node.output[0] += "_again"
    model.graph.node.insert(chance.randrange(len(model.graph.node) + 1), node)


def _other_order(chance: random.Random, model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    one, other = (chance.randrange(len(nodes)) for _ in range(2)) if nodes else (0, 0)
    if nodes:
        nodes[one], nodes[other] = nodes[other], nodes[one]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _new_node(chance: random.Random, model: onnx.ModelProto) -> None:
    """Put any operator between a tensor and what reads it."""
    node = _node(chance, model)
    if not node.input:
        return
    index = chance.randrange(len(node.input))
    op = chance.choice((*OPERATORS, *OPERATORS, *_FOREIGN))
    known = OPERATORS.get(op)
    count = chance.randint(*known.inputs) if known and known.inputs[1] < 9 else 2
    inputs = [node.input[index], *(_tensor_name(chance, model) for _ in range(count - 1))]
    attributes: dict[str, Any] = {}
    for name, kind in known.attributes.items() if known else ():
        values = {"i": chance.randrange(-4, 12), "f": 1e-5, "s": "none", "ints": [0, 2, 1, 3]}
        attributes[name] = _integers(chance) or [1] if chance.random() < 0.3 else values[kind]
    domain = known.domain if known else ""
    made = helper.make_node(op, inputs, [f"new{chance.random()}"], domain=domain, **attributes)
    position = next(n for n, one in enumerate(model.graph.node) if one is node or one == node)
    node.input[index] = made.output[0]
    model.graph.node.insert(position, made)


def _constant(chance: random.Random, model: onnx.ModelProto) -> TensorProto | None:
    tensors = model.graph.initializer
    return chance.choice(tensors) if tensors else None


def _other_values(chance: random.Random, model: onnx.ModelProto) -> None:
    """Change shapes, axes and pads: the int64 constants."""
    lists = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.INT64 and len(tensor.raw_data) % 8 == 0
    ]
    if not lists:
        return
    tensor = chance.choice(lists)
    values = np.frombuffer(tensor.raw_data, np.int64).copy()
    if len(values):
        choice = (*NUMBERS, *range(-4, 20), int(values[0]) * 2, int(values[-1]) * 1000)
        fitting = [n for n in choice if -(1 << 63) <= n < 1 << 63]
        values[chance.randrange(len(values))] = chance.choice(fitting)
    tensor.raw_data = values.tobytes()


def _other_bytes(chance: random.Random, model: onnx.ModelProto) -> None:
    tensor = _constant(chance, model)
    if tensor is not None and tensor.raw_data:
        data = bytearray(tensor.raw_data)
        data[chance.randrange(len(data))] = chance.randrange(256)
        tensor.raw_data = bytes(data[: chance.choice((len(data), len(data), len(data) - 1, 0))])


def _other_dims(chance: random.Random, model: onnx.ModelProto) -> None:
    tensor = _constant(chance, model)
    if tensor is not None:
        dims = list(tensor.dims)
        changed = _integers(chance) if chance.random() < 0.5 else dims[::-1]
        tensor.dims[:] = changed


def _other_data_type(chance: random.Random, model: onnx.ModelProto) -> None:
    tensor = _constant(chance, model)
    if tensor is not None:
        tensor.data_type = chance.randrange(-1, 25)


def _other_constant(chance: random.Random, model: onnx.ModelProto) -> None:
    tensor = _constant(chance, model)
    action = chance.randrange(4)
    if tensor is None or action == 0:
        array = np.asarray(_integers(chance), np.int64)
        name = chance.choice(("more", _tensor_name(chance, model)))
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    elif action == 1:
        model.graph.initializer.remove(tensor)
    elif action == 2:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=chance.choice(("x", "/etc/passwd")))
    else:
        tensor.name = _tensor_name(chance, model)


def _other_ends(chance: random.Random, model: onnx.ModelProto) -> None:
    end = chance.choice((model.graph.input, model.graph.output))
    action = chance.randrange(4)
    if action == 0 or not end:
        info = onnx.ValueInfoProto()
        info.CopyFrom(end[0]) if end else None
        end.append(info)
    elif action == 1:
        end[0].name = _tensor_name(chance, model)
    elif action == 2:
        end[0].type.tensor_type.elem_type = chance.randrange(20)
    elif end[0].type.tensor_type.shape.dim:
        chance.choice(end[0].type.tensor_type.shape.dim).dim_value = chance.choice(NUMBERS)


def _other_model(chance: random.Random, model: onnx.ModelProto) -> None:
    action = chance.randrange(7)
    if action == 0:
        model.ir_version = chance.choice((1, 8, 10, 13, 99))
    elif action == 1:
        model.opset_import.add(domain=chance.choice(("", "evil", "ai.onnx.ml")), version=3)
    elif action == 2:
        chance.choice(model.opset_import).version = chance.choice((1, 13, 21, 99))
    elif action == 3:
        model.metadata_props.add(key="ort_config", value='{"session_options": {}}')
    elif action == 4:
        opsets = [helper.make_opsetid("", 20)]
        op = chance.choice(tuple(OPERATORS))
        node = helper.make_node("Identity", ["x"], ["y"])
        model.functions.append(helper.make_function("", op, ["x"], ["y"], [node], opsets))
    elif action == 5:
        model.training_info.add()
    else:
        model.graph.sparse_initializer.add()


MUTATIONS: tuple[Callable[[random.Random, onnx.ModelProto], None], ...] = (
    _other_operator,
    _other_domain,
    _other_input,
    _other_input,
    _fewer_inputs,
    _other_output,
    _other_name,
    _other_attribute,
    _other_attribute,
    _other_attribute,
    _new_attribute,
    _other_type_of_attribute,
    _without_node,
    _same_node_again,
    _other_order,
    _new_node,
    _new_node,
    _other_values,
    _other_values,
    _other_values,
    _other_bytes,
    _other_dims,
    _other_data_type,
    _other_constant,
    _other_ends,
    _other_model,
)
