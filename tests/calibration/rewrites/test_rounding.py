"""GPTQ and the refit against slow obvious twins."""

import numpy as np
import pytest
import torch

from edgevit.calibration.rewrites.regression import Moments, moments, refit
from edgevit.calibration.rewrites.rounding import DAMPING, gptq_codes, rounding_loss
from edgevit.calibration.search.weight_scales import search_scale
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid


def layer(bits=3, out=5, width=150, tokens=400):
    torch.manual_seed(0)
    mix = torch.randn(width, width) / width**0.5 + torch.eye(width)
    inputs = torch.randn(tokens, width) @ mix
    weight = torch.randn(out, width)
    gram = inputs.T @ inputs
    spec = GridSpec(bits=bits, signed=True, symmetric=True, granularity="channel")
    return inputs, weight, gram, UniformGrid.symmetric(spec, search_scale(weight, spec, gram))


def gptq_twin(weight, grid, gram):
    """Algorithm of the optimal brain surgeon, one weight at a time, inverse recomputed."""
    damped = gram.double().numpy() + DAMPING * gram.diagonal().double().mean().item() * np.eye(
        len(gram)
    )
    order = torch.argsort(gram.diagonal(), descending=True).numpy()
    rest = weight.double().numpy().copy()
    codes = np.zeros(rest.shape, np.int32)
    left = list(order)
    while left:
        inverse = np.linalg.inv(damped[np.ix_(left, left)])
        column = left.pop(0)
        scale = grid.scale.double().numpy()
        found = np.clip(np.rint(rest[:, column] / scale), grid.spec.qmin, grid.spec.qmax)
        codes[:, column] = found
        error = (rest[:, column] - found * scale) / inverse[0, 0]
        rest[:, left] -= np.outer(error, inverse[0, 1:])
    return codes


def test_gptq_equals_the_slow_twin():
    _, weight, gram, grid = layer(width=40, tokens=200)
    codes = gptq_codes(weight, grid, gram)
    twin = gptq_twin(weight, grid, gram)
    assert (codes.numpy() == twin).mean() > 0.99  # float32 against float64 may tie differently


def test_gptq_leaves_less_output_error_than_nearest_rounding():
    inputs, weight, gram, grid = layer()
    codes = gptq_codes(weight, grid, gram)
    assert int(codes.min()) >= grid.spec.qmin
    assert int(codes.max()) <= grid.spec.qmax
    losses = [rounding_loss(weight, grid.dequantize(c), gram) for c in (grid.codes(weight), codes)]
    assert float(losses[1].sum()) < 0.8 * float(losses[0].sum())
    direct = (inputs @ (grid.dequantize(codes) - weight).T).square().sum(0)
    assert torch.allclose(losses[1], direct, rtol=1e-3)


def test_gptq_survives_dead_inputs():
    _, weight, gram, grid = layer(width=30)
    gram[3] = 0
    gram[:, 3] = 0
    assert torch.equal(gptq_codes(weight, grid, gram)[:, 3], grid.codes(weight)[:, 3])
    codes = gptq_codes(weight, grid, torch.zeros_like(gram))
    assert torch.equal(codes, grid.codes(weight))


def test_refit_equals_weighted_least_squares():
    torch.manual_seed(1)
    inputs, tokens = torch.randn(600, 12), torch.rand(600) + 0.1
    weight, truth = torch.randn(4, 12), torch.randn(4, 12)
    wanted = inputs @ truth.T + 3.0  # an offset that the bias will take
    errors = wanted - inputs @ weight.T
    halves = tuple(
        moments(inputs[part], errors[part], tokens[part])
        for part in (slice(0, 300), slice(300, 600))
    )
    found = refit(weight, halves)
    root = tokens.sqrt().double().numpy()[:, None]
    ones = np.hstack([inputs.double().numpy(), np.ones((600, 1))])
    exact = np.linalg.lstsq(ones * root, wanted.double().numpy() * root, rcond=None)[0][:12].T
    assert np.abs(found.numpy() - exact).max() < 0.05  # the regularisation pulls a little
    assert (found - truth).norm() < 0.1 * (weight - truth).norm()


def test_refit_keeps_the_weight_when_nothing_carries_over():
    """Opposite errors in the two halves: what one half teaches is wrong for the other."""
    gram, cross = torch.eye(6), torch.ones(3, 6)
    weight = torch.randn(3, 6)
    halves = (Moments(gram=gram, cross=cross), Moments(gram=gram, cross=-cross))
    assert refit(weight, halves) is weight


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_gptq_does_not_depend_on_the_size_of_the_gram(scale):
    _, weight, gram, grid = layer(width=30)
    same = gptq_codes(weight, grid, gram) == gptq_codes(weight, grid, gram * scale)
    assert same.float().mean() > 0.99
