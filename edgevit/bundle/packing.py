"""Stores k-bit codes in k bits each: a little-endian bit stream, for k from 1 to 8.

Signed codes are stored as ``code - qmin``, so every stored value lies in [0, 2^k - 1]. Eight codes
fill exactly k bytes, which is why packing works on words of 64 bits that hold eight codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.errors import BundleError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Buffer = bytes | bytearray | memoryview

_CODES_PER_WORD = 8
_CODES_PER_PASS = 1 << 20  # bounds the memory that unpacking takes beside its result


def packed_size_bytes(count: int, bits: int) -> int:
    """Return how many bytes `count` codes of `bits` bits fill."""
    return (count * bits + 7) // 8


def pack(codes: npt.NDArray[Any], bits: int, *, signed: bool | None = None) -> bytes:
    """Pack integer codes of any shape, in C order.

    Args:
        codes: Integer array; values in [-2^(bits-1), 2^(bits-1)-1] if signed, else [0, 2^bits-1].
        bits: Width of a code, 1 to 8.
        signed: Whether codes are signed; left out, the array's dtype says so.

    Returns:
        ``ceil(codes.size * bits / 8)`` bytes; unused bits of the last byte are 0.

    Raises:
        UsageError: The width, the dtype or a code does not fit (EV415).
    """
    if codes.dtype.kind not in "iu" or not 1 <= bits <= 8:
        raise _unpackable(f"{codes.dtype} array in {bits} bits", "codes are integers, bits 1 to 8")
    signed = codes.dtype.kind == "i" if signed is None else signed
    qmin = -(1 << (bits - 1)) if signed else 0
    qmax = qmin + (1 << bits) - 1
    if codes.size and (int(codes.min()) < qmin or int(codes.max()) > qmax):
        found = f"[{int(codes.min())}, {int(codes.max())}]"
        raise _unpackable(f"codes in {found}", f"{bits} bits hold [{qmin}, {qmax}]")
    words = np.zeros(-(-codes.size // _CODES_PER_WORD), dtype="<u8")
    flat = np.zeros(words.size * _CODES_PER_WORD, dtype=np.uint8)
    flat[: codes.size] = (codes.reshape(-1).astype(np.int16) - qmin).astype(np.uint8)
    levels = flat.reshape(-1, _CODES_PER_WORD)  # [words, 8]
    for position in range(_CODES_PER_WORD):
        words |= levels[:, position].astype("<u8") << np.uint64(position * bits)
    stream = words.view(np.uint8).reshape(-1, 8)[:, :bits]  # [words, bits] bytes
    return stream.tobytes()[: packed_size_bytes(codes.size, bits)]


def unpack(data: Buffer, bits: int, count: int, signed: bool) -> npt.NDArray[Any]:
    """Unpack `count` codes; the inverse of `pack`.

    Returns:
        int8 codes if signed, else uint8 codes, shape [count].

    Raises:
        BundleError: The number of bytes is not exactly what the codes need (EV428), or an unused
            bit of the last byte is set (EV429).
    """
    view = memoryview(data).cast("B")
    if not 1 <= bits <= 8 or count < 0 or view.nbytes != packed_size_bytes(count, bits):
        raise BundleError(
            "EV428",
            "A packed tensor has the wrong length.",
            why=f"{count} codes of {bits} bits don't fill {view.nbytes} bytes.",
            try_next="Copy the bundle again or write it again.",
        )
    codes = np.empty(count, dtype=np.int8 if signed else np.uint8)
    for first in range(0, count, _CODES_PER_PASS):
        part = view[first * bits // 8 : (first + _CODES_PER_PASS) * bits // 8]
        here = codes[first : first + _CODES_PER_PASS]
        levels = _levels(part, bits, len(here))
        here[:] = (levels.astype(np.int16) - (1 << (bits - 1))) if signed else levels
    return codes


def _levels(view: memoryview, bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Return the first `count` levels of a stream that begins with a whole word, uint8 [count]."""
    num_words = -(-count // _CODES_PER_WORD)
    stream = np.zeros(num_words * bits, dtype=np.uint8)
    data = np.frombuffer(view, dtype=np.uint8)[: num_words * bits]
    stream[: len(data)] = data
    padded = np.zeros((num_words, 8), dtype=np.uint8)
    padded[:, :bits] = stream.reshape(num_words, bits)  # [words, bits] bytes
    words = padded.reshape(-1).view("<u8")  # [words]
    levels = np.empty((num_words, _CODES_PER_WORD), dtype=np.uint8)
    for position in range(_CODES_PER_WORD):
        level = (words >> np.uint64(position * bits)) & np.uint64((1 << bits) - 1)
        levels[:, position] = level.astype(np.uint8)
    flat = levels.reshape(-1)  # [words * 8]
    if flat[count:].any():
        raise BundleError(
            "EV429",
            "A packed tensor has bits set after its last code.",
            why=f"EdgeViT leaves the bits after {count} codes empty.",
            try_next="Copy the bundle again or write it again.",
        )
    return flat[:count]


def _unpackable(what: str, why: str) -> UsageError:
    return UsageError("EV415", f"Can't pack {what}.", where="bundle.packing", why=why)
