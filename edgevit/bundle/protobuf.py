"""The little of ONNX's wire format that a bundle needs: append an initializer, scan a skeleton.

Protobuf merges a message field that occurs twice, so the bytes of a ModelProto followed by the
bytes of another ModelProto that holds nothing but ``graph { initializer }`` are the bytes of one
model with that initializer. Source: protobuf encoding specification, "Last One Wins" and merging;
field numbers from onnx.proto (ONNX, IR version 3 and later).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgevit.errors import BundleError

ONNX_DATA_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "float16": 10,
    "float64": 11,
}
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 9, 13, 14
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 64

# message -> field number -> message found in that field, wherever a TensorProto can be reached.
MESSAGE_FIELDS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}


def varint(value: int) -> bytes:
    """Return a non-negative integer in base 128, least significant group first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def initializer_prefix(name: str, dtype: str, shape: tuple[int, ...], raw_bytes: int) -> bytes:
    """Return what comes before `raw_bytes` bytes of raw data to make a ModelProto fragment.

    ``skeleton + initializer_prefix(...) + raw`` is the skeleton with one more initializer.
    """
    encoded = name.encode()
    tensor = b"".join(varint(_DIMS << 3 | _VARINT) + varint(size) for size in shape)
    tensor += varint(_DATA_TYPE << 3 | _VARINT) + varint(ONNX_DATA_TYPES[dtype])
    tensor += varint(_NAME << 3 | _LENGTH) + varint(len(encoded)) + encoded
    tensor += varint(_RAW_DATA << 3 | _LENGTH) + varint(raw_bytes)
    tensor_bytes = len(tensor) + raw_bytes
    graph = varint(_GRAPH_INITIALIZER << 3 | _LENGTH) + varint(tensor_bytes)
    graph_bytes = len(graph) + tensor_bytes
    return varint(_MODEL_GRAPH << 3 | _LENGTH) + varint(graph_bytes) + graph + tensor


def initializer_names(skeleton: bytes, where: str) -> set[str]:
    """Scan a skeleton for data kept outside it; return the names of its own initializers.

    Args:
        skeleton: Serialized ModelProto.
        where: The file's name, for errors.

    Raises:
        BundleError: The bytes are no well-formed ModelProto, or a tensor anywhere in it (nested
            graphs, functions, attributes) refers to an external file (EV409).
    """
    names: set[str] = set()
    _scan(memoryview(skeleton), "ModelProto", names, where, depth=0)
    return names


def _scan(view: memoryview, message: str, names: set[str], where: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _malformed(where, f"graphs nested more than {_MAX_DEPTH} messages deep")
    children = MESSAGE_FIELDS[message]
    for number, value in _fields(view, where):
        if message == "TensorProto":
            _check_tensor_field(number, value, where)
        elif number in children and isinstance(value, memoryview):
            if message == "GraphProto" and number == _GRAPH_INITIALIZER:
                names.update(_tensor_names(value, where))
            _scan(value, children[number], names, where, depth + 1)


def _tensor_names(view: memoryview, where: str) -> Iterator[str]:
    for number, value in _fields(view, where):
        if number == _NAME and isinstance(value, memoryview):
            yield bytes(value).decode("utf-8", errors="replace")


def _check_tensor_field(number: int, value: Any, where: str) -> None:
    if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
        raise BundleError(
            "EV409",
            "The ONNX graph refers to a file outside the bundle.",
            where=where,
            why="A tensor has external data; EdgeViT never writes that.",
            try_next="Don't run this bundle; get it again from a source you trust.",
        )


def _fields(view: memoryview, where: str) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, varint value or bytes); fixed-width fields are skipped."""
    position, end = 0, len(view)
    while position < end:
        tag, position = _read_varint(view, position, where)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise _malformed(where, "a field without a number")
        if wire_type == _VARINT:
            value, position = _read_varint(view, position, where)
            yield number, value
            continue
        if wire_type == _LENGTH:
            size, position = _read_varint(view, position, where)
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise _malformed(where, f"wire type {wire_type}")
        if size > end - position:
            raise _malformed(where, "a field reaches past its message")
        if wire_type == _LENGTH:
            yield number, view[position : position + size]
        position += size


def _read_varint(view: memoryview, position: int, where: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise _malformed(where, "it ends inside a number")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _malformed(where, "a number of more than ten bytes")


def _malformed(where: str, why: str) -> BundleError:
    return BundleError(
        "EV409",
        "The ONNX graph is damaged.",
        where=where,
        why=why,
        try_next="Copy the bundle again or write it again.",
    )
