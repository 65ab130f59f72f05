"""Reads the graph of a bundle: nothing gets past that EdgeViT's own lowering would not write.

Every message has a closed table of fields. Subgraphs, functions, training, metadata, external data
and fields that nobody knows are in none of them, so there is no place where a graph could hold a
program or the name of a file. Field numbers and types are those of onnx.proto.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any, Dict, NoReturn, Tuple, Union

from edgevit.bundle.operators import (
    ATTRIBUTE_TYPES,
    DATA_TYPES,
    DOMAINS,
    IR_VERSION,
    OPERATORS,
    STRINGS,
)
from edgevit.bundle.protobuf import (
    FIXED32,
    LENGTH,
    VARINT,
    fields,
    malformed_graph_error,
    read_varint,
)
from edgevit.data.tasks import MAX_OUTPUTS
from edgevit.errors import BundleError

INSIDE_BYTES = 512
"""Constants up to this size live in the graph itself."""
MAX_GRAPH_BYTES = 32 << 20
MAX_NODES = 4096
MAX_RANK = 8
MAX_NAME_CHARACTERS = 512
_MAX_CONSTANTS, _MAX_INPUTS, _MAX_OPSETS, _MAX_FIELDS = 1 << 15, 256, 4, 1 << 20
_PLAIN = re.compile(rf"[A-Za-z0-9_.:/+-]{{1,{MAX_NAME_CHARACTERS}}}\Z")
_PRODUCER = re.compile(r"[A-Za-z0-9_.:/+ -]{0,64}\Z")
_INT, _FLOAT, _BYTES, _TEXT, _PRODUCED = "int", "float", "bytes", "text", "producer"
_WIRE = {_INT: VARINT, _FLOAT: FIXED32}

Shape = Tuple[int, ...]
_Value = Union[int, float, str, memoryview, Dict[str, Any]]

# message -> field number -> (name, kind or message, how often it may occur)
_MESSAGES: dict[str, dict[int, tuple[str, str, int]]] = {
    "ModelProto": {
        1: ("ir_version", _INT, 1),
        2: ("producer_name", _PRODUCED, 1),
        7: ("graph", "GraphProto", 1),
        8: ("opset_import", "OperatorSetIdProto", _MAX_OPSETS),
    },
    "OperatorSetIdProto": {1: ("domain", _TEXT, 1), 2: ("version", _INT, 1)},
    "GraphProto": {
        1: ("node", "NodeProto", MAX_NODES),
        2: ("name", _TEXT, 1),
        5: ("initializer", "TensorProto", _MAX_CONSTANTS),
        11: ("input", "ValueInfoProto", 1),
        12: ("output", "ValueInfoProto", MAX_OUTPUTS),
    },
    "NodeProto": {
        1: ("input", _TEXT, _MAX_INPUTS),
        2: ("output", _TEXT, 1),
        3: ("name", _TEXT, 1),
        4: ("op_type", _TEXT, 1),
        5: ("attribute", "AttributeProto", 8),
        7: ("domain", _TEXT, 1),
    },
    "AttributeProto": {
        1: ("name", _TEXT, 1),
        2: ("f", _FLOAT, 1),
        3: ("i", _INT, 1),
        4: ("s", _TEXT, 1),
        8: ("ints", _INT, 2 * MAX_RANK),
        20: ("type", _INT, 1),
    },
    "TensorProto": {
        1: ("dims", _INT, MAX_RANK),
        2: ("data_type", _INT, 1),
        5: ("int32_data", _INT, 2),
        8: ("name", _TEXT, 1),
        9: ("raw_data", _BYTES, 1),
        13: ("external_data", _BYTES, 1),
        14: ("data_location", _INT, 1),
    },
    "ValueInfoProto": {1: ("name", _TEXT, 1), 2: ("type", "TypeProto", 1)},
    "TypeProto": {1: ("tensor_type", "TypeProto.Tensor", 1)},
    "TypeProto.Tensor": {1: ("elem_type", _INT, 1), 2: ("shape", "TensorShapeProto", 1)},
    "TensorShapeProto": {1: ("dim", "TensorShapeProto.Dimension", MAX_RANK)},
    "TensorShapeProto.Dimension": {1: ("dim_value", _INT, 1), 2: ("dim_param", _TEXT, 1)},
}


@dataclass(frozen=True)
class Node:
    """One operator.

    Args:
        op: Its type, a key of `edgevit.bundle.operators.OPERATORS`.
        inputs: Names of what it reads; "" for one that is left out.
        output: Name of what it writes.
        attributes: Int, float, str or list of int by name.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Constant:
    """A constant inside the graph.

    Args:
        dtype: A value of `edgevit.bundle.operators.DATA_TYPES`.
        shape: Dimensions.
        integers: Its elements if they are int64, which is what shapes and axes are.
        floats: Its elements if they are float32.
    """

    dtype: str
    shape: Shape
    integers: tuple[int, ...] | None
    floats: tuple[float, ...] | None = None


@dataclass(frozen=True)
class OnnxGraph:
    """The graph of one model, without the tensors that are kept outside it.

    Args:
        nodes: In the order in which they are written.
        constants: Small tensors inside the graph by name.
        image: Name and dimensions of the input, -1 for the batch.
        outputs: Name -> declared dimensions of each output, -1 where one has a name.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, Constant]
    image: tuple[str, Shape]
    outputs: dict[str, Shape]


def is_plain(name: str) -> bool:
    """Return whether a name has only characters, and no more, than names in a graph may have."""
    return _PLAIN.match(name) is not None


def read_graph(skeleton: bytes, where: str) -> OnnxGraph:
    """Return the graph of a serialized ModelProto.

    Args:
        skeleton: The model without its large tensors.
        where: The file's name, for errors.

    Raises:
        BundleError: The bytes are no ModelProto (EV409), refer to another file (EV430), or hold
            anything that EdgeViT never writes (EV418).
    """
    if len(skeleton) > MAX_GRAPH_BYTES:
        foreign(where, f"more than {MAX_GRAPH_BYTES} bytes")
    model = _Reader(where).message(memoryview(skeleton), "ModelProto")
    _check_versions(model, where)
    graph = _need(model, "graph", where)
    constants: dict[str, Constant] = {}
    for tensor in graph.get("initializer", []):
        name = _need(tensor, "name", where)
        if name in constants:
            foreign(where, f"a second constant {name!r}")
        constants[name] = _constant(tensor, where)
    nodes = tuple(_node(node, where) for node in graph.get("node", []))
    image = _value_info(graph.get("input"), "input", where)
    given = [_value_info(one, "output", where) for one in graph.get("output") or [None]]
    outputs = dict(given)
    if len(outputs) != len(given):
        foreign(where, "a second output of one name")
    return OnnxGraph(nodes=nodes, constants=constants, image=image, outputs=outputs)


class _Reader:
    """Takes messages apart by the tables above; how many fields it reads is bounded."""

    def __init__(self, where: str) -> None:
        self._where, self._left = where, _MAX_FIELDS

    def message(self, view: memoryview, kind: str) -> dict[str, Any]:
        """Return field name -> value, a list for a field that may occur more than once."""
        found: dict[str, Any] = {}
        table = _MESSAGES[kind]
        for number, wire_type, raw in fields(view, self._where):
            self._left -= 1
            if self._left < 0:
                foreign(self._where, f"more than {_MAX_FIELDS} fields")
            if number not in table:
                foreign(self._where, f"field {number} of {kind}")
            name, part, most = table[number]
            values = self._values(wire_type, raw, part, most > 1, f"{kind}.{name}")
            if most == 1:
                if name in found:
                    foreign(self._where, f"{kind}.{name} twice")
                found[name] = values[0]
            else:
                found.setdefault(name, []).extend(values)
                if len(found[name]) > most:
                    foreign(self._where, f"more than {most} of {kind}.{name}")
        return found

    def _values(
        self, wire_type: int, raw: int | memoryview, kind: str, repeated: bool, field: str
    ) -> list[_Value]:
        if kind == _INT and wire_type == LENGTH and not isinstance(raw, int) and repeated:
            return self._packed(raw)
        if wire_type != _WIRE.get(kind, LENGTH):
            foreign(self._where, f"{field} with wire type {wire_type}")
        if isinstance(raw, int):
            return [_signed(raw)]
        if kind in _MESSAGES:
            return [self.message(raw, kind)]
        if kind == _FLOAT:
            return [float(struct.unpack("<f", raw)[0])]
        return [raw] if kind == _BYTES else [self._text(raw, kind, field)]

    def _packed(self, raw: memoryview) -> list[_Value]:
        if len(raw) > 32 * MAX_RANK:
            foreign(self._where, "a long list of numbers")
        values: list[_Value] = []
        position = 0
        while position < len(raw):
            value, position = read_varint(raw, position, self._where)
            values.append(_signed(value))
        return values

    def _text(self, raw: memoryview, kind: str, field: str) -> str:
        text = bytes(raw[: MAX_NAME_CHARACTERS + 1]).decode("latin-1")
        may_be_empty = field in ("NodeProto.input", "NodeProto.domain", "OperatorSetIdProto.domain")
        pattern = _PRODUCER if kind == _PRODUCED else _PLAIN
        if not pattern.match(text) and not (may_be_empty and not text):
            foreign(self._where, f"{field} {text[:80]!a}, which has other characters than names")
        return text


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _check_versions(model: dict[str, Any], where: str) -> None:
    if model.get("ir_version") != IR_VERSION:
        foreign(where, f"IR version {model.get('ir_version')} instead of {IR_VERSION}")
    found = [(one.get("domain", ""), one.get("version")) for one in model.get("opset_import", [])]
    if ("", DOMAINS[""]) not in found or len(dict(found)) != len(found):
        foreign(where, f"operator sets {found}")
    for domain, version in found:
        if DOMAINS.get(domain) != version:
            foreign(where, f"version {version} of the operator set {domain!r}")


def _constant(tensor: dict[str, Any], where: str) -> Constant:
    if "external_data" in tensor or tensor.get("data_location", 0) != 0:
        raise BundleError(
            "EV430",
            "The ONNX graph refers to a file outside the bundle.",
            where=where,
            why="A tensor has external data; EdgeViT never writes that.",
            try_next="Don't run this bundle; get it again from a source you trust.",
        )
    dtype, shape = DATA_TYPES.get(tensor.get("data_type", 0)), tuple(tensor.get("dims", ()))
    if dtype is None or any(size < 0 for size in shape):
        foreign(where, f"a constant of data type {tensor.get('data_type')} {list(shape)}")
    data = tensor.get("raw_data", b"")
    if dtype.name == "float8" and tensor.get("int32_data") == [0] and not data and not shape:
        return Constant(dtype=dtype.name, shape=shape, integers=None)
    count = 1
    for size in shape:
        count *= size
    if "int32_data" in tensor or count * dtype.size != len(data) or len(data) > INSIDE_BYTES:
        foreign(where, f"a constant {list(shape)} with {len(data)} bytes of {dtype.name}")
    is_int64 = dtype.name == "int64"
    integers = struct.unpack(f"<{count}q", data) if is_int64 else None
    floats = struct.unpack(f"<{count}f", data) if dtype.name == "float32" else None
    return Constant(dtype=dtype.name, shape=shape, integers=integers, floats=floats)


def _node(node: dict[str, Any], where: str) -> Node:
    op, domain = _need(node, "op_type", where), node.get("domain", "")
    known = OPERATORS.get(op)
    if known is None or domain != known.domain:
        foreign(where, f"the operator {domain + '.' if domain else ''}{op}")
    inputs = tuple(node.get("input", ()))
    if not known.inputs[0] <= len(inputs) <= known.inputs[1]:
        foreign(where, f"{op} with {len(inputs)} inputs")
    attributes = {}
    for attribute in node.get("attribute", ()):
        name = _need(attribute, "name", where)
        if name not in known.attributes or name in attributes:
            foreign(where, f"the attribute {name!r} of {op}")
        attributes[name] = _attribute(attribute, known.attributes[name], f"{op}.{name}", where)
    output = _need(node, "output", where)
    return Node(op=op, inputs=inputs, output=output, attributes=attributes)


def _attribute(attribute: dict[str, Any], kind: str, name: str, where: str) -> Any:
    if set(attribute) != {"name", "type", kind} or attribute["type"] != ATTRIBUTE_TYPES[kind]:
        foreign(where, f"the attribute {name} in another form")
    value = attribute[kind]
    if kind == "s" and value not in STRINGS[name]:
        foreign(where, f"{name}={value!r}")
    return value


def _value_info(found: dict[str, Any] | None, end: str, where: str) -> tuple[str, Shape]:
    """Return the name and dimensions of the graph's input or an output, -1 where one is a name."""
    info = found or {}
    kind = _need(_need(info, "type", where), "tensor_type", where)
    if kind.get("elem_type") != 1:
        foreign(where, f"an {end} that is not float32")
    dims = _need(kind, "shape", where).get("dim", ())
    if any(len(dim) != 1 for dim in dims):
        foreign(where, f"an {end} without dimensions")
    return _need(info, "name", where), tuple(dim.get("dim_value", -1) for dim in dims)


def _need(message: dict[str, Any], name: str, where: str) -> Any:
    if name not in message:
        raise malformed_graph_error(where, f"no {name}")
    return message[name]


def foreign(where: str, what: str) -> NoReturn:
    """Refuse a graph that holds something that EdgeViT never writes.

    Raises:
        BundleError: Always (EV418).
    """
    raise BundleError(
        "EV418",
        "The ONNX graph holds an element that EdgeViT never writes.",
        where=where,
        why=f"It has {what}.",
        try_next="Don't run this bundle; get it again from a source you trust.",
    )
