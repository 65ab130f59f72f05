"""Logarithmic grids against the papers' definition in NumPy float64, value by value."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.quantizers.log import LogGrid
from edgevit.quantizers.quantized_graph import IntegerMatmul, SimulatedMatmul, matmul_layer
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid

STEPS = {"log2": 1, "log-sqrt2": 2}


def grid_of(kind, bits, scale=1.0):
    return LogGrid(spec=GridSpec(kind=kind, bits=bits), scale=torch.tensor(scale).float())


def log_code(x, kind, bits, scale):
    """c = round(-n log2(x / s)) by the formula; None where float32 can't tell the two sides."""
    last = 2**bits - 1
    if x <= 0:
        return last
    exact = -STEPS[kind] * math.log2(float(np.float32(x)) / float(np.float32(scale)))
    if abs(exact - math.floor(exact) - 0.5) < 1e-6:
        return None
    return min(max(round(exact), 0), last)


def log_value(code, kind, bits, scale):
    if code == 2**bits - 1:
        return 0.0
    return float(np.float32(float(np.float32(scale)) * 2.0 ** (-code / STEPS[kind])))


@given(
    kind=st.sampled_from(["log2", "log-sqrt2"]),
    bits=st.integers(2, 8),
    scale=st.floats(0.03125, 1.0, width=32),
    values=st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=1, max_size=60),
)
@settings(deadline=None, max_examples=300)
def test_codes_and_values_equal_the_twin(kind, bits, scale, values):
    grid = grid_of(kind, bits, scale)
    x = torch.tensor(values, dtype=torch.float32)
    codes, rounded = grid.codes(x), grid.fake_quantize(x)
    assert codes.dtype == torch.int32
    assert rounded.dtype == torch.float32
    assert torch.equal(grid.dequantize(codes), rounded)
    for value, code, result in zip(values, codes.tolist(), rounded.tolist(), strict=True):
        expected = log_code(value, kind, bits, scale)
        assert expected is None or code == expected
        assert result == log_value(code, kind, bits, scale)


@pytest.mark.parametrize("kind", ["log2", "log-sqrt2"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_there_are_at_most_two_to_the_k_levels_and_each_is_kept(kind, bits):
    grid = grid_of(kind, bits, 0.7)
    levels = grid.dequantize(torch.arange(2**bits))
    dense = grid.fake_quantize(torch.logspace(-45, 1, 100_000).float())
    assert len(torch.unique(torch.cat([levels, dense]))) <= 2**bits
    assert torch.equal(grid.fake_quantize(levels), levels)
    assert float(levels[0]) == pytest.approx(0.7)
    assert float(levels[-1]) == 0.0


def test_values_by_hand():
    grid = grid_of("log-sqrt2", 3, 1.0)
    x = torch.tensor([2.0, 1.0, 0.7, 0.5, 0.36, 0.125, 0.05, 0.0, -1.0])
    assert grid.codes(x).tolist() == [0, 0, 1, 2, 3, 6, 7, 7, 7]
    assert grid_of("log2", 3).codes(x).tolist() == [0, 0, 1, 1, 1, 3, 4, 7, 7]


def test_a_transposed_tensor_keeps_its_layout():
    x = torch.rand(3, 5).T
    grid = grid_of("log2", 4)
    assert torch.equal(grid.fake_quantize(x), grid.fake_quantize(x.contiguous()))


def test_products_with_a_logarithmic_grid_are_of_dequantized_values():
    left = grid_of("log-sqrt2", 4)
    right = UniformGrid.from_range(GridSpec(bits=4), -1.0, 2.0)
    a, b = torch.rand(2, 5, 6), torch.randn(2, 6, 3)
    layer = matmul_layer(left, right)
    assert isinstance(layer, SimulatedMatmul)
    expected = left.fake_quantize(a).double() @ right.fake_quantize(b).double()
    assert torch.allclose(layer(a, b).double(), expected, rtol=1e-5, atol=1e-6)
    assert isinstance(matmul_layer(right, right), IntegerMatmul)


def test_only_logarithmic_specifications_are_taken():
    with pytest.raises(ValueError, match="logarithmic"):
        LogGrid(spec=GridSpec(bits=4), scale=torch.tensor(1.0))


def test_it_says_what_it_is():
    found = grid_of("log2", 4, 0.5).to_dict()
    assert (found["kind"], found["bits"], found["scale"]) == ("log2", 4, 0.5)
