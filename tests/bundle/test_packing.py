"""Bit packing against a slow twin that writes one bit at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.bundle.packing import pack, packed_size_bytes, unpack
from edgevit.errors import BundleError, UsageError


def slow_pack(levels: list[int], bits: int) -> bytes:
    out = bytearray((len(levels) * bits + 7) // 8)
    for index, level in enumerate(levels):
        for bit in range(bits):
            position = index * bits + bit
            out[position // 8] |= (level >> bit & 1) << (position % 8)
    return bytes(out)


@st.composite
def code_arrays(draw):
    bits, signed = draw(st.integers(1, 8)), draw(st.booleans())
    qmin = -(1 << (bits - 1)) if signed else 0
    codes = draw(st.lists(st.integers(qmin, qmin + (1 << bits) - 1), max_size=70))
    return np.array(codes, dtype=np.int8 if signed else np.uint8), bits, signed, qmin


@given(code_arrays())
def test_packs_like_the_slow_twin_and_comes_back(case):
    codes, bits, signed, qmin = case
    packed = pack(codes, bits)
    assert packed == slow_pack([int(code) - qmin for code in codes], bits)
    back = unpack(packed, bits, codes.size, signed)
    assert back.dtype == codes.dtype
    np.testing.assert_array_equal(back, codes)


@given(code_arrays(), st.integers(-3, 3).filter(bool))
def test_any_other_length_is_refused(case, difference):
    codes, bits, signed, _ = case
    packed = pack(codes, bits)
    wrong = packed[:difference] if difference < 0 else packed + bytes(difference)
    if len(wrong) != len(packed):
        with pytest.raises(BundleError, match="EV428"):
            unpack(wrong, bits, codes.size, signed)


@pytest.mark.parametrize("bits", [3, 5, 6, 7])
def test_a_bit_after_the_last_code_is_refused(bits):
    packed = bytearray(pack(np.zeros(3, np.uint8), bits))
    packed[-1] |= 0x80
    with pytest.raises(BundleError, match="EV429"):
        unpack(bytes(packed), bits, 3, False)


@pytest.mark.parametrize(
    ("codes", "bits"),
    [
        (np.array([-33], np.int8), 6),
        (np.array([32], np.int8), 6),
        (np.array([64], np.uint8), 6),
        (np.array([1000], np.int32), 8),
        (np.array([0.0]), 6),
        (np.array([0], np.uint8), 0),
        (np.array([0], np.uint8), 9),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes, bits):
    with pytest.raises(UsageError, match="EV415"):
        pack(codes, bits)


def test_any_shape_layout_and_integer_type_is_packed_in_c_order():
    codes = np.arange(-12, 12, dtype=np.int64).reshape(4, 6)
    expected = pack(codes.astype(np.int8).ravel(), 5)
    assert pack(codes, 5) == expected
    assert pack(np.asfortranarray(codes), 5) == expected
    assert pack(codes.astype(np.int8)[:, ::-1][:, ::-1], 5) == expected
    assert len(expected) == packed_size_bytes(24, 5) == 15


def test_signedness_can_be_said():
    codes = np.array([0, 63], dtype=np.int32)
    with pytest.raises(UsageError, match="EV415"):
        pack(codes, 6)
    np.testing.assert_array_equal(unpack(pack(codes, 6, signed=False), 6, 2, False), codes)
