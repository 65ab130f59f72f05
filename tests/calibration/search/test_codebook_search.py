"""The search for codebook levels against trying every codebook there is."""

from itertools import combinations

import pytest
import torch

from edgevit.calibration.search import activation_grids
from edgevit.calibration.statistics.histogram import Histogram
from edgevit.quantizers.codebook import CodebookGrid
from edgevit.quantizers.codebook_levels import best_levels
from edgevit.quantizers.spec import GridSpec


def moments_of(values, weights, size):
    cells = values.round().clamp(0, size - 1).long()
    powers = torch.stack([weights, weights * values, weights * values**2])
    return torch.zeros(3, size, dtype=torch.float64).index_add_(1, cells, powers)


def exhaustive(moments, count):
    """The least error over all sets of whole levels; a cell goes to whichever is best for it."""
    weight, first, second = moments
    size = moments.shape[1]
    best = float("inf")
    for levels in combinations(range(size), count):
        errors = [second - 2 * level * first + level**2 * weight for level in levels]
        best = min(best, float(torch.stack(errors).min(0).values.sum()))
    return best


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_codebook_is_better(seed, count):
    generator = torch.Generator().manual_seed(seed)
    values = 9 * torch.rand(40, generator=generator, dtype=torch.float64) ** (1 + seed)
    weights = torch.rand(40, generator=generator, dtype=torch.float64) ** 4
    moments = moments_of(values, weights, 10)
    levels, error = best_levels(moments, count)
    assert 1 <= len(levels) <= count
    assert error == pytest.approx(exhaustive(moments, count), rel=1e-9, abs=1e-12)
    weight, first, second = moments
    errors = torch.stack([second - 2 * a * first + a**2 * weight for a in levels])
    assert float(errors.min(0).values.sum()) == pytest.approx(error, rel=1e-9, abs=1e-12)


def histogram_of(x):
    histogram = Histogram(low=float(x.min()), high=float(x.max()))
    histogram.add(x)
    return histogram


def searched(x, bits, **spec):
    histogram = histogram_of(x)
    return CodebookGrid.fit(GridSpec(kind="codebook", bits=bits, **spec), histogram), histogram


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_a_normal_tensor_gets_nearly_the_error_of_lloyd_and_max(bits):
    """Max 1960, table I: mean squared error of the best 4, 8, 16, 32 levels."""
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    grid, _ = searched(x, bits, symmetric=True)
    error = float((grid.fake_quantize(x) - x).square().mean())
    best = {2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}[bits]
    assert 0.97 * best <= error <= 1.08 * best


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_softmax_and_gelu_lose_less_than_on_uniform_and_twin_grids(bits):
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(1))
    soft = (3 * x).reshape(-1, 50).softmax(1)
    for kind, values in (("twin-softmax", soft), ("twin-gelu", torch.nn.functional.gelu(2 * x))):
        grid, histogram = searched(values, bits)
        others = [GridSpec(bits=bits), GridSpec(kind=kind, bits=bits, max_ratio_log2=3)]
        found = [activation_grids.search_grid(spec, histogram) for spec in others]
        errors = [activation_grids.error(other, histogram) for other in found]
        assert activation_grids.error(grid, histogram) < 0.8 * min(errors)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_tensor_has_no_error(value):
    grid, _ = searched(torch.full((10,), value), 4)
    assert isinstance(grid, CodebookGrid)
    assert float(grid.fake_quantize(torch.tensor(value))) == pytest.approx(value, rel=0.01)


def test_weights_without_any_mass_still_give_a_grid():
    grid = CodebookGrid.fit(GridSpec(kind="codebook", bits=4), Histogram(low=-1.0, high=2.0))
    assert bool(torch.isfinite(grid.fake_quantize(torch.tensor([-1.0, 0.3, 2.0]))).all())
