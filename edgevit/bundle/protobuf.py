"""The little of protobuf's wire format that a bundle needs: take a message apart, append a tensor.

Protobuf merges a message field that occurs twice, so the bytes of a ModelProto followed by the
bytes of another ModelProto that holds nothing but ``graph { initializer }`` are the bytes of one
model with that initializer. Source: protobuf encoding specification, "Last One Wins" and merging;
field numbers from onnx.proto (ONNX, IR version 3 and later).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Tuple, Union

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
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types; those of groups are no part of ONNX."""
Field = Tuple[int, int, Union[int, memoryview]]
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9


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
    tensor = b"".join(varint(_DIMS << 3 | VARINT) + varint(size) for size in shape)
    tensor += varint(_DATA_TYPE << 3 | VARINT) + varint(ONNX_DATA_TYPES[dtype])
    tensor += varint(_NAME << 3 | LENGTH) + varint(len(encoded)) + encoded
    tensor += varint(_RAW_DATA << 3 | LENGTH) + varint(raw_bytes)
    tensor_bytes = len(tensor) + raw_bytes
    graph = varint(_GRAPH_INITIALIZER << 3 | LENGTH) + varint(tensor_bytes)
    graph_bytes = len(graph) + tensor_bytes
    return varint(_MODEL_GRAPH << 3 | LENGTH) + varint(graph_bytes) + graph + tensor


def fields(view: memoryview, where: str) -> Iterator[Field]:
    """Yield (field number, wire type, varint's value or bytes) of a message.

    Args:
        view: Its bytes.
        where: The file's name, for errors.

    Raises:
        BundleError: The bytes are no well-formed message (EV409).
    """
    position, end = 0, len(view)
    while position < end:
        tag, position = read_varint(view, position, where)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise malformed_graph_error(where, "a field without a number")
        if wire_type == VARINT:
            value, position = read_varint(view, position, where)
            yield number, wire_type, value
            continue
        if wire_type == LENGTH:
            size, position = read_varint(view, position, where)
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
        else:
            raise malformed_graph_error(where, f"wire type {wire_type}")
        if size > end - position:
            raise malformed_graph_error(where, "a field reaches past its message")
        yield number, wire_type, view[position : position + size]
        position += size


def read_varint(view: memoryview, position: int, where: str) -> tuple[int, int]:
    """Return the number that begins at a position, and the position behind it.

    Raises:
        BundleError: It does not end, or has more than 64 bits (EV409).
    """
    if position < len(view) and view[position] < 0x80:  # nearly all of them
        return view[position], position + 1
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise malformed_graph_error(where, "it ends inside a number")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, position
    raise malformed_graph_error(where, "a number of more than 64 bits")


def malformed_graph_error(where: str, why: str) -> BundleError:
    """Return the error for a graph that can't be read."""
    return BundleError(
        "EV409",
        "The ONNX graph is damaged.",
        where=where,
        why=why,
        try_next="Copy the bundle again or write it again.",
    )
