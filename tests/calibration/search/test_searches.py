"""The fast searches against exhaustive ones that run the layer for every candidate."""

import pytest
import torch

from edgevit.calibration.search import activation_grids, weight_scales
from edgevit.calibration.statistics.histogram import Histogram
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.twin import TwinGrid
from edgevit.quantizers.uniform import UniformGrid


def heavy_tailed(tokens=400, channels=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, channels, generator=generator)
    return x * torch.exp(0.6 * torch.randn(channels, generator=generator))


def layer(channels=48, out=40, seed=1):
    return torch.randn(out, channels, generator=torch.Generator().manual_seed(seed)) / 7


def histogram_of(x, weights=None):
    histogram = Histogram(low=float(x.min()), high=float(x.max()))
    histogram.add(x, weights)
    return histogram


def literal_output_error(x, weight, grid, importance=None):
    """What the search stands for: run the layer on the rounded input and compare outputs."""
    error = (grid.fake_quantize(x) - x) @ weight.T
    square = error.double() ** 2
    return float((square if importance is None else square * importance).sum())


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("weighted", [False, True])
def test_activation_search_is_as_good_as_running_the_layer_for_each_candidate(bits, weighted):
    x, weight = heavy_tailed(), layer()
    importance = None
    element_weights = weight.square().sum(0).expand_as(x)
    if weighted:
        generator = torch.Generator().manual_seed(5)
        importance = torch.rand(len(x), len(weight), generator=generator) ** 4
        element_weights = importance @ weight.square()
    spec = GridSpec(bits=bits)
    found = activation_grids.search_grid(spec, histogram_of(x, element_weights))
    low, high = float(x.min()), float(x.max())
    shares = torch.linspace(0.05, 1.05, 41).tolist()
    best = min(
        literal_output_error(x, weight, UniformGrid.from_range(spec, a * low, b * high), importance)
        for a in shares
        for b in shares
    )
    assert literal_output_error(x, weight, found, importance) <= 1.1 * best


@pytest.mark.parametrize("kind", ["symmetric", "softmax"])
def test_tied_zero_points_are_kept(kind):
    x = heavy_tailed() if kind == "symmetric" else heavy_tailed().softmax(1)
    spec = GridSpec(bits=6, symmetric=kind == "symmetric", zero_at_bottom=kind == "softmax")
    grid = activation_grids.search_grid(spec, histogram_of(x))
    assert int(grid.zero_point) == (32 if kind == "symmetric" else 0)
    full = UniformGrid.from_range(spec, float(x.min()), float(x.max()))
    histogram = histogram_of(x)
    errors = [activation_grids.error(g, histogram) for g in (grid, full)]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_twin_softmax_search_is_as_good_as_a_dense_scan(bits):
    probabilities = (4 * heavy_tailed(300, 60)).softmax(1)
    ratio = {3: 6, 4: 5, 6: 3}[bits]
    spec = GridSpec(kind="twin-softmax", bits=bits, max_ratio_log2=ratio)
    histogram = histogram_of(probabilities)
    found = activation_grids.search_grid(spec, histogram)
    assert isinstance(found, TwinGrid)
    dense = [
        TwinGrid(spec=spec, scale=torch.tensor(top / (2 ** (bits - 1) - 1) / 2**m), ratio_log2=m)
        for m in range(ratio + 1)
        for top in torch.linspace(0.05, 1.1, 40).tolist()
    ]
    best = min(activation_grids.error(grid, histogram) for grid in dense)
    assert activation_grids.error(found, histogram) <= 1.05 * best


def test_a_constant_tensor_gets_a_usable_grid():
    for value in (0.0, 0.7, -0.7):
        histogram = histogram_of(torch.full((100,), value))
        grid = activation_grids.search_grid(GridSpec(bits=6), histogram)
        assert float(grid.scale) > 0
        assert float(grid.fake_quantize(torch.tensor(value))) == pytest.approx(value, abs=2e-3)


def test_gram_error_equals_the_literal_output_error():
    x, weight = heavy_tailed(), layer()
    spec = GridSpec(bits=4, signed=True, symmetric=True, granularity="channel")
    scale = weight_scales.minmax_scale(weight, spec)
    fast = weight_scales._row_errors(weight, spec, scale, x.T @ x)
    rounded = UniformGrid.symmetric(spec, scale).fake_quantize(weight)
    literal = (x @ (rounded - weight).T).square().sum(0)
    assert torch.allclose(fast, literal, rtol=1e-4)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_weight_search_is_as_good_as_running_the_layer_for_each_candidate(bits):
    x, weight = heavy_tailed(), layer()
    spec = GridSpec(bits=bits, signed=True, symmetric=True, granularity="channel")
    scale = weight_scales.search_scale(weight, spec, x.T @ x)

    def literal(candidate):
        rounded = UniformGrid.symmetric(spec, candidate).fake_quantize(weight)
        return (x @ (rounded - weight).T).square().sum(0)  # [out]

    full = weight_scales.minmax_scale(weight, spec)
    shares = torch.linspace(0.2, 1.1, 100)
    best = torch.stack([literal(share * full) for share in shares]).amin(0)
    # among 100 candidates the luckiest rounding wins; the search tries a fifth as many
    assert float(literal(scale).sum()) <= 1.15 * float(best.sum())


def test_shared_scale_gives_one_scale_per_group():
    weight = torch.cat([layer(48, 16, s) * f for s, f in ((1, 1.0), (2, 5.0), (3, 0.2))])
    spec = GridSpec(bits=6, signed=True, symmetric=True, granularity="channel")
    scale = weight_scales.search_shared_scale(weight, spec, None, None, 3)
    assert [len(part.unique()) for part in scale.chunk(3)] == [1, 1, 1]
    assert scale[16] > scale[0] > scale[32]


def test_quantiles_of_a_histogram():
    x = torch.linspace(-1, 3, 100_001)
    histogram = histogram_of(x)
    for fraction in (0.001, 0.25, 0.5, 0.999):
        assert histogram.quantile(fraction) == pytest.approx(-1 + 4 * fraction, abs=2e-3)
