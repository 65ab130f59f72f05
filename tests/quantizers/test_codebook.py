"""Codebook grids against their definition, value by value."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.quantizers.codebook import CodebookGrid, fine_spec
from edgevit.quantizers.spec import GridSpec


def grid_of(levels, *, bits=4, scale=0.1, zero=0, **spec):
    return CodebookGrid(
        spec=GridSpec(kind="codebook", bits=bits, **spec),
        scale=torch.tensor(scale, dtype=torch.float32),
        zero_point=torch.tensor(zero, dtype=torch.int32),
        levels=tuple(levels),
    )


def codebook_value(x, levels, scale, zero, ends):
    """The value of one float32 in NumPy scalars: 8 bits first, then the nearest level."""
    code = min(max(int(np.rint(np.float32(x) / np.float32(scale))) + zero, ends[0]), ends[1])
    level = min(levels, key=lambda one: (abs(one - code), one))
    return np.float32(level - zero) * np.float32(scale)


@st.composite
def cases(draw):
    signed, bits = draw(st.booleans()), draw(st.integers(2, 7))
    low, high = (-128, 127) if signed else (0, 255)
    codes = st.integers(low, high)
    levels = sorted(draw(st.sets(codes, min_size=1, max_size=1 << bits)))
    zero = 0 if signed else draw(codes)
    scale = draw(st.floats(2.0**-10, 1.0, width=32))
    return bits, signed, levels, zero, scale


@given(case=cases(), values=st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=40))
@settings(deadline=None, max_examples=200)
def test_values_equal_the_twin(case, values):
    bits, signed, levels, zero, scale = case
    grid = grid_of(levels, bits=bits, scale=scale, zero=zero, signed=signed, symmetric=signed)
    ends = (-128, 127) if signed else (0, 255)
    x = torch.tensor(values, dtype=torch.float32)
    expected = [float(codebook_value(v, levels, scale, zero, ends)) for v in values]
    assert grid.fake_quantize(x).tolist() == expected
    codes = grid.codes(x)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < len(levels) <= 2**bits
    assert torch.equal(grid.dequantize(codes), grid.fake_quantize(x))
    low, high = grid.operand_range
    operand = grid.operand(codes)
    assert low <= int(operand.min())
    assert int(operand.max()) <= high
    carried = operand + grid.operand_offset
    assert ends[0] <= int(carried.min())
    assert int(carried.max()) <= ends[1]


def test_shape_is_kept_and_halfway_goes_down():
    grid = grid_of([0, 10, 255], scale=1.0)
    x = torch.tensor([[[4.0, 5.0], [6.0, 132.0]], [[133.0, 255.0], [300.0, -3.0]]])
    wanted = torch.tensor([[[0.0, 0.0], [10.0, 10.0]], [[255.0, 255.0], [255.0, 0.0]]])
    assert torch.equal(grid.fake_quantize(x), wanted)


@pytest.mark.parametrize("levels", [[], [3, 3], [4, 2], [-1, 5], [5, 256], list(range(17))])
def test_wrong_levels_are_refused(levels):
    with pytest.raises(ValueError, match="levels"):
        grid_of(levels)


def test_the_fine_grid_keeps_sign_and_symmetry():
    spec = GridSpec(kind="codebook", bits=3, signed=True, symmetric=True)
    fine = fine_spec(spec)
    assert (fine.kind, fine.bits, fine.signed, fine.symmetric) == ("uniform", 8, True, True)


def test_nan_stays_nan_and_has_some_code():
    grid = grid_of([0, 10, 255], scale=1.0)
    x = torch.tensor([float("nan"), 9.0, float("inf"), -float("inf")])
    assert grid.fake_quantize(x).isnan().tolist() == [True, False, False, False]
    assert grid.fake_quantize(x)[1:].tolist() == [10.0, 255.0, 0.0]
    assert grid.codes(x)[1:].tolist() == [1, 2, 0]
