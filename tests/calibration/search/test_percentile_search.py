"""RepQ-ViT's initialiser and its reparameterisation against loops in NumPy."""

import numpy as np
import pytest
import torch

from edgevit.calibration.search.activation_grids import PERCENTILES
from edgevit.calibration.search.percentiles import (
    channel_grid,
    row_ranges,
    tail_quantiles,
    tensor_grid,
    weight_grid,
)
from edgevit.quantizers.log import LogGrid
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid


def heavy(rows=6, count=5000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, count, generator=generator) ** 3
    return x * torch.rand(rows, 1, generator=generator) + torch.randn(rows, 1, generator=generator)


def literal_range(row, bits):
    """Return (low, high) of the best percentile of one row and its error, as in the paper."""
    row, found = row.astype(np.float64), []
    for p in PERCENTILES:
        low, high = np.quantile(row, 1 - p), np.quantile(row, p)
        scale = (high - low) / (2**bits - 1)
        zero = np.rint(-low / scale)
        codes = np.clip(np.rint(row / scale) + zero, 0, 2**bits - 1)
        found.append((float((((codes - zero) * scale - row) ** 2).sum()), low, high))
    return min(found)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_row_ranges_equal_the_literal_search(bits):
    rows = heavy()
    low, high = row_ranges(rows, bits)
    for at, row in enumerate(rows.numpy()):
        _, literal_low, literal_high = literal_range(row, bits)
        assert float(low[at]) == pytest.approx(literal_low, rel=1e-3)
        assert float(high[at]) == pytest.approx(literal_high, rel=1e-3)


def test_the_percentiles_differ_so_that_the_search_can_be_wrong():
    rows = heavy()
    tops = {round(float(row_ranges(rows[:1], bits)[1]), 3) for bits in (3, 8)}
    assert len(tops) == 2


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_channel_grids_have_two_to_the_k_values_per_channel(bits):
    x = heavy(6, 4000).T.reshape(4, 1000, 6)
    rounded = channel_grid(bits, x).fake_quantize(x)
    for channel in range(6):
        levels = len(torch.unique(rounded[..., channel]))
        assert 2 ** (bits - 2) < levels <= 2**bits


@pytest.mark.parametrize("spec", [GridSpec(bits=4), GridSpec(bits=6, symmetric=True)])
def test_codes_of_one_grid_equal_the_codes_of_all_channels_except_ties(spec):
    x = heavy(40, 2000).T  # [T, C]
    channels = channel_grid(spec.bits, x)
    grid, shift, factor = channels.layerwise(spec)
    before, after = channels.codes(x).int(), grid.codes((x - shift) / factor)
    assert len(torch.unique(before)) == 2**spec.bits
    exact = x.double() / channels.scale.double()
    tie = (exact - exact.floor() - 0.5).abs() < 1e-3
    assert torch.equal(before[~tie], after[~tie])
    assert int((before - after).abs().max()) <= 1
    assert float((before != after).float().mean()) < 1e-3
    assert 0 <= int(grid.zero_point) < 2**spec.bits


def test_a_constant_channel_keeps_the_others_grids():
    x = heavy(8, 2000).T.contiguous()
    x[:, 3] = 0.7
    channels = channel_grid(4, x)
    grid, shift, factor = channels.layerwise(GridSpec(bits=4))
    moved = (x - shift) / factor
    assert bool(torch.isfinite(moved).all())
    found = grid.fake_quantize(moved) * factor + shift
    assert torch.allclose(found[:, 3], x[:, 3], atol=1e-2)
    alone = channel_grid(4, x[:, :3])
    assert torch.equal(channels.scale[:3], alone.scale)


def test_weights_get_the_form_of_their_specification():
    weight = heavy(12, 300)
    asymmetric = weight_grid(GridSpec(bits=4, granularity="channel"), weight)
    signed = GridSpec(bits=4, signed=True, symmetric=True, granularity="channel")
    symmetric = weight_grid(signed, weight)
    assert len(torch.unique(asymmetric.zero_point)) > 1
    assert not symmetric.zero_point.any()
    errors = [
        float((g.fake_quantize(weight) - weight).square().sum()) for g in (asymmetric, symmetric)
    ]
    assert errors[0] < errors[1]


def test_a_logarithmic_grid_starts_at_the_best_percentile():
    x = (4 * torch.randn(4000, 32, generator=torch.Generator().manual_seed(2))).softmax(1)
    grid = tensor_grid(GridSpec(kind="log-sqrt2", bits=4), x)
    assert isinstance(grid, LogGrid)
    literal = []
    for p in PERCENTILES:
        top = torch.tensor(np.quantile(x.numpy(), p)).float()
        other = LogGrid(spec=grid.spec, scale=top)
        literal.append(float((other.fake_quantize(x) - x).square().sum()))
    found = float((grid.fake_quantize(x) - x).square().sum())
    assert found <= 1.02 * min(literal)


@pytest.mark.parametrize("count", [1, 5, 999, 20_000])
def test_tail_quantiles_are_those_of_torch(count):
    x = torch.randn(count, generator=torch.Generator().manual_seed(count)) ** 3
    found = tail_quantiles(x)
    for (low, high), p in zip(found, PERCENTILES, strict=True):
        assert low == pytest.approx(float(x.double().quantile(1 - p)), rel=1e-4, abs=1e-6)
        assert high == pytest.approx(float(x.double().quantile(p)), rel=1e-4, abs=1e-6)


def test_the_grid_of_a_tensor_is_the_best_percentile_by_its_exact_error():
    """A heavy tail at 8 bits, where the bins of a histogram are not much finer than the grid."""
    for seed in range(5):
        x = torch.randn(40_000, generator=torch.Generator().manual_seed(seed)) ** 3
        spec = GridSpec(bits=8)
        grids = [UniformGrid.from_range(spec, *pair) for pair in tail_quantiles(x)]
        errors = [float((g.fake_quantize(x) - x).square().sum()) for g in grids]
        found = tensor_grid(spec, x)
        assert float((found.fake_quantize(x) - x).square().sum()) == min(errors)
