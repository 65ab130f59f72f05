"""Linears with asymmetric per-channel weights against integers and float64 in NumPy."""

import numpy as np
import pytest
import torch

from edgevit.errors import UnsupportedError
from edgevit.quantizers.quantized_graph import QuantizedGraph, integer_linear
from edgevit.quantizers.spec import GridSpec, Placement
from edgevit.quantizers.uniform import UniformGrid

BITS = [2, 4, 8]


def weight_of(seed=0):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(12, 1, generator=generator)  # rows far from symmetric
    return torch.randn(12, 40, generator=generator) + spread


def weight_grid(weight, bits):
    spec = GridSpec(bits=bits, granularity="channel")
    return UniformGrid.from_channel_ranges(spec, weight.amin(1), weight.amax(1))


@pytest.mark.parametrize("bits", BITS)
def test_channel_ranges_give_each_row_its_own_grid(bits):
    weight = weight_of()
    grid = weight_grid(weight, bits)
    for row in range(len(weight)):
        alone = UniformGrid.from_range(
            GridSpec(bits=bits), float(weight[row].min()), float(weight[row].max())
        )
        assert float(grid.scale[row]) == pytest.approx(float(alone.scale), rel=1e-6)
        assert int(grid.zero_point[row]) == int(alone.zero_point)
    assert len(torch.unique(grid.zero_point)) > 1
    assert int(grid.zero_point.min()) >= 0
    assert int(grid.zero_point.max()) < 2**bits


@pytest.mark.parametrize("bits", BITS)
def test_sums_equal_python_integers(bits):
    weight, x = weight_of(), torch.randn(7, 40)
    left = UniformGrid.from_range(GridSpec(bits=bits), -2.5, 3.0)
    layer = integer_linear(left, weight_grid(weight, bits), weight, torch.arange(12.0))
    assert layer.weight_codes.dtype == torch.uint8
    assert int(layer.weight_codes.max()) == 2**bits - 1
    codes = left.codes(x).numpy().astype(np.int64) - int(left.zero_point)
    zeros = layer.weight_grid.zero_point.numpy().astype(np.int64)[:, None]
    operand = layer.weight_codes.numpy().astype(np.int64) - zeros
    assert np.array_equal(layer.sums(x).numpy(), codes @ operand.T)
    rounded = layer.weight_grid.fake_quantize(weight).double()
    expected = left.fake_quantize(x).double() @ rounded.T + torch.arange(12.0).double()
    assert torch.allclose(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_symmetric_weights_keep_their_codes_as_operands():
    weight, x = weight_of(), torch.randn(7, 40)
    spec = GridSpec(bits=8, signed=True, symmetric=True, granularity="channel")
    grid = UniformGrid.symmetric(spec, weight.abs().amax(1) / 127.5)
    layer = integer_linear(UniformGrid.from_range(GridSpec(bits=8), -3, 3), grid, weight, None)
    assert layer.weight_codes.dtype == torch.int8
    codes = layer.grid.operand(layer.grid.codes(x)).long()
    assert torch.equal(layer.sums(x).long(), codes @ layer.weight_codes.long().T)


def test_no_engine_gets_such_a_layer(vit):
    weight = weight_of()
    left = UniformGrid.from_range(GridSpec(bits=4), -2.5, 3.0)
    layer = integer_linear(left, weight_grid(weight, 4), weight, None)
    placement = Placement(target="cpu", weight_bits=4, act_bits=4)
    quantized = QuantizedGraph(graph=vit, placement=placement, layers={"linear": layer})
    with pytest.raises(UnsupportedError, match="EV307"):
        _ = quantized.integer_layers
