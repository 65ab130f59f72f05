"""The entry table of a tensor file and the three encodings its tensors have on disk.

``packed`` is k bits per code (see bundle/packing.py), ``raw`` little-endian C order, ``zlib``
the same compressed. Entries lie back to back in the order of the table, without gaps.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.bundle.graph import is_plain
from edgevit.bundle.limits import check_expansion
from edgevit.bundle.packing import pack, packed_size_bytes, unpack
from edgevit.bundle.protobuf import ONNX_DATA_TYPES
from edgevit.errors import BundleError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.bundle.packing import Buffer

MAX_MODEL_BYTES = 2**31 - 1  # protobuf's limit for one message
_ENCODINGS = ("packed", "raw", "zlib")
_MAX_TENSORS, _MAX_RANK = 1 << 16, 8
_MOST_PER_BYTE = 16  # two-bit codes, four of them in a byte, as float32
_WORTHWHILE = 0.95  # zlib has to save 5 %


@dataclass(frozen=True)
class TensorEntry:
    """One tensor's place in a tensor file, and its encoding.

    Args:
        name: Initializer name in the ONNX graph.
        shape: Dimensions.
        dtype: NumPy name of the type the engine sees, e.g. "int8" for packed 6-bit codes.
        encoding: "packed", "raw" or "zlib".
        bits: Bits per code on disk ("packed"), else bits per element.
        signed: Whether elements are signed.
        offset: Position of the first byte in the file.
        size_bytes: Bytes on disk.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    bits: int
    signed: bool
    offset: int
    size_bytes: int

    @property
    def count(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the tensor once decoded."""
        return self.count * np.dtype(self.dtype).itemsize

    @property
    def float_bytes(self) -> int:
        """Bytes of the tensor in float32, as far as its codes on disk account for them."""
        return min(4 * self.count, _MOST_PER_BYTE * self.size_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {**asdict(self), "shape": list(self.shape)}


_KEYS = set(TensorEntry.__dataclass_fields__)


def encode(
    name: str, array: npt.NDArray[Any], *, offset: int, packed_bits: int | None, compress: bool
) -> tuple[TensorEntry, bytes]:
    """Return a tensor's entry and its bytes on disk.

    Args:
        name: Initializer name.
        array: Any array of a dtype in `ONNX_DATA_TYPES`; byte order does not matter.
        offset: Where in the file it will lie.
        packed_bits: Width of the codes of an int8/uint8 array; fewer than 8 are packed.
        compress: Whether to use zlib where it saves at least 5 %.

    Raises:
        UsageError: The tensor can't be stored (EV413), isn't packed (EV433) or its codes don't fit
            (EV415).
    """
    dtype = array.dtype.name
    if dtype not in ONNX_DATA_TYPES or not is_plain(name):
        raise UsageError(
            "EV413",
            "A tensor can't be stored.",
            where=name[:80],
            why=f"{dtype=}; a name is plain text.",
            try_next=f"Known are {', '.join(ONNX_DATA_TYPES)}.",
        )
    signed, bits = array.dtype.kind != "u", array.dtype.itemsize * 8
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    if packed_bits is not None and packed_bits < 8:
        if dtype not in ("int8", "uint8"):
            raise UsageError(
                "EV433",
                "Only 8-bit tensors are packed.",
                where=name,
                why=f"It is {dtype}.",
                try_next="Give int8 or uint8 codes, or no width for this tensor.",
            )
        encoding, bits, data = "packed", packed_bits, pack(little, packed_bits)
    else:
        encoding, data = "raw", little.tobytes()
        smaller = zlib.compress(data, 6) if compress else data
        if len(smaller) <= _WORTHWHILE * len(data) and compress:
            encoding, data = "zlib", smaller
    entry = TensorEntry(
        name=name,
        shape=tuple(int(size) for size in array.shape),
        dtype=dtype,
        encoding=encoding,
        bits=bits,
        signed=signed,
        offset=offset,
        size_bytes=len(data),
    )
    return entry, data


def decode(entry: TensorEntry, data: bytes) -> Buffer:
    """Return a tensor's elements, little-endian in C order.

    Raises:
        BundleError: The data is not what the entry says (EV408).
    """
    if entry.encoding == "raw":
        return data
    if entry.encoding == "packed":
        return unpack(data, entry.bits, entry.count, entry.signed).data
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, entry.decoded_bytes + 1)
    except zlib.error as error:
        raise _undecodable(entry, str(error)) from error
    if len(raw) != entry.decoded_bytes or not stream.eof or stream.unused_data:
        raise _undecodable(entry, "the compressed data has another length than its shape says")
    return raw


def parse_entries(raw: Any, file_bytes: int, where: str) -> tuple[TensorEntry, ...]:
    """Return the entries of a table after checking every value in it.

    Args:
        raw: The list from the manifest.
        file_bytes: Size of the tensor file, which the entries must fill exactly.
        where: Name of the table, for errors.

    Raises:
        BundleError: An entry is malformed, out of bounds, overlapping or a duplicate (EV407), or
            the tensors are far larger than the file (EV420).
    """
    if not isinstance(raw, list) or len(raw) > _MAX_TENSORS:
        raise _bad_entry(where, f"it is not a list of at most {_MAX_TENSORS}")
    entries: list[TensorEntry] = []
    names: set[str] = set()
    position = decoded = 0
    for index, item in enumerate(raw):
        entry = _parse_entry(item, f"{where}[{index}]")
        if entry.name in names:
            raise _bad_entry(f"{where}[{index}]", f"a second tensor {entry.name[:80]!r}")
        if entry.offset != position:
            raise _bad_entry(f"{where}[{index}]", f"offset {entry.offset} instead of {position}")
        names.add(entry.name)
        entries.append(entry)
        position += entry.size_bytes
        decoded += entry.decoded_bytes
    check_expansion(decoded, file_bytes, f"manifest.json, {where}")
    if position != file_bytes or decoded > MAX_MODEL_BYTES:
        raise _bad_entry(where, f"{position} bytes of {file_bytes}, {decoded} bytes decoded")
    return tuple(entries)


def _parse_entry(item: Any, where: str) -> TensorEntry:
    if not isinstance(item, dict) or set(item) != _KEYS:
        raise _bad_entry(where, f"its keys are not {', '.join(sorted(_KEYS))}")
    name, shape, dtype = item["name"], item["shape"], item["dtype"]
    if not isinstance(name, str) or not is_plain(name):
        raise _bad_entry(where, "name is not one that a tensor has")
    if not isinstance(shape, list) or len(shape) > _MAX_RANK:
        raise _bad_entry(where, "shape is not a short list")
    if not isinstance(dtype, str) or dtype not in ONNX_DATA_TYPES:
        raise _bad_entry(where, "dtype is unknown")
    if (
        not isinstance(item["encoding"], str)
        or item["encoding"] not in _ENCODINGS
        or not isinstance(item["signed"], bool)
    ):
        raise _bad_entry(where, "encoding or signed is unknown")
    numbers = [*shape, item["bits"], item["offset"], item["size_bytes"]]
    if not all(type(number) is int and 0 <= number <= MAX_MODEL_BYTES for number in numbers):
        raise _bad_entry(where, "a number is negative, huge or no whole number")
    entry = TensorEntry(**{**item, "shape": tuple(shape)})
    _check_sizes(entry, where)
    return entry


def _check_sizes(entry: TensorEntry, where: str) -> None:
    dtype = np.dtype(entry.dtype)
    if entry.decoded_bytes > MAX_MODEL_BYTES or entry.signed != (dtype.kind != "u"):
        raise _bad_entry(where, "shape or signed contradicts dtype")
    if entry.encoding == "packed":
        fits = dtype.itemsize == 1 and 1 <= entry.bits < 8
        fits = fits and entry.size_bytes == packed_size_bytes(entry.count, entry.bits)
    else:
        fits = entry.bits == dtype.itemsize * 8 and entry.size_bytes <= entry.decoded_bytes
        fits = fits and (entry.encoding == "zlib" or entry.size_bytes == entry.decoded_bytes)
    if not fits:
        raise _bad_entry(where, "bits or size_bytes contradicts shape and encoding")


def _bad_entry(where: str, why: str) -> BundleError:
    return BundleError(
        "EV407",
        "A bundle's tensor table is invalid.",
        where=f"manifest.json, {where}",
        why=why,
        try_next="Copy the bundle again or write it again.",
    )


def _undecodable(entry: TensorEntry, why: str) -> BundleError:
    return BundleError(
        "EV408",
        "A tensor's data is damaged.",
        where=entry.name,
        why=why,
        try_next="Copy the bundle again or write it again.",
    )
