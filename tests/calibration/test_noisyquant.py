"""NoisyQuant: the formula literally, the fold exact, no node more at run time."""

import copy

import onnx
import pytest
import torch

from edgevit.calibration.methods import METHODS
from edgevit.calibration.methods.noisyquant import (
    MUST_SAVE,
    Error,
    _feeds,
    _inputs,
    chosen_noise,
    fold,
)
from edgevit.calibration.run import Run, calibrate
from edgevit.graph.layernorm import ln_of
from edgevit.quantizers.simulation import integer_linear
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.cpu import CpuTarget


def place(graph, bits):
    return CpuTarget().place(graph, weight_bits=bits, act_bits=bits)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer_of(scale=0.5):
    grid = UniformGrid(
        spec=GridSpec(bits=4), scale=torch.tensor(scale), zero_point=torch.tensor(8).int()
    )
    weight, spec = random(6, 5), GridSpec(bits=4, signed=True, granularity="channel")
    rows = UniformGrid.symmetric(spec, weight.abs().amax(1) / 7)
    return integer_linear(grid, rows, weight, random(6, seed=3)), weight


def test_error_is_the_output_difference_element_by_element():
    layers = [layer_of()[0], layer_of()[0]]
    x, noise = random(7, 5, seed=1), 0.3 * random(5, seed=2)
    weight = layers[0].weight_grid.dequantize(layers[0].weight_codes.int())
    total = 0.0
    for token in range(7):
        for row in range(6):
            difference = 0.0
            for channel in range(5):
                value = x[token, channel] + noise[channel]
                rounded = layers[0].grid.fake_quantize(value[None])[0] - noise[channel]
                difference += float((rounded - x[token, channel]) * weight[row, channel])
            total += difference**2
    assert Error.of(layers)(x, noise) == pytest.approx(2 * total, rel=1e-4)


def test_noise_helps_where_values_pile_up_between_two_codes():
    """All values a quarter above the middle of a step: every rounding error is the same."""
    layer, _ = layer_of(scale=0.5)
    piled = torch.full((256, 5), 0.24) + 0.001 * random(256, 5)
    noise = chosen_noise([layer], piled, piled.flip(0), 0)
    error = Error.of([layer])
    assert noise is not None
    assert error(piled, noise) < 0.5 * error(piled, torch.zeros(5))


def test_noise_is_refused_where_it_cannot_help():
    layer, _ = layer_of(scale=0.5)
    on_codes = layer.grid.fake_quantize(random(256, 5))
    assert chosen_noise([layer], on_codes, on_codes, 0) is None
    piled = torch.full((64, 5), 0.24)
    assert chosen_noise([layer], piled, on_codes, 0) is None  # only the search half gains
    assert chosen_noise([layer], piled, piled[:0], 0) is None  # nothing to hold out


def noise_of(before, after, feed):
    return after.graph.constant(feed.bias) - before.graph.constant(feed.bias)


@pytest.mark.parametrize("base", ["mse", "ptq4vit"])
def test_folded_noise_is_q_of_x_plus_n_minus_n(graph, images, base):
    """Any noise: the float32 graph stays, a layer computes Q(X + N) W^T + b - W N."""
    quantized = calibrate(graph, place(graph, 5), images, METHODS[base])
    expected = quantized.graph.forward(images).detach()
    before = dict(quantized.layers)
    feeds = list(_feeds(quantized))
    assert len(feeds) >= 4
    for at, (feed, gemms) in enumerate(feeds):
        layer = before[gemms[0].name]
        channels = layer.weight_codes.shape[1]
        noise = float(layer.grid.unit) * (torch.rand(channels) * 2 - 1)
        fold(quantized, feed, gemms, noise)
        x = random(9, channels, seed=at)
        for gemm in gemms:
            old, new = before[gemm.name], quantized.layers[gemm.name]
            rounded = old.grid.fake_quantize(x + noise) - noise
            weight = old.weight_grid.dequantize(old.weight_codes.int())
            literal = rounded @ weight.T + old.bias
            torch.testing.assert_close(new(x + noise), literal, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        found = quantized.graph.forward(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["noisyquant", "noisyquant+ptq4vit"])
def test_accepted_noise_lowers_the_held_out_error(graph, images, name):
    base = "ptq4vit" if "+" in name else "mse"
    plain = calibrate(graph, place(graph, 5), images, METHODS[base])
    noisy = calibrate(graph, place(graph, 5), images, METHODS[name])
    run = Run(graph=plain.graph, placement=plain.placement, images=images)
    feeds = list(_feeds(plain))
    with torch.no_grad():
        halves = _inputs(run, plain, {gemms[0].name for _, gemms in feeds})
    accepted = 0
    for feed, gemms in feeds:
        noise = noise_of(plain, noisy, feed)
        error = Error.of([plain.layers[gemm.name] for gemm in gemms])
        held_out = halves[gemms[0].name][1]
        zero = error(held_out, torch.zeros_like(noise))
        if float(noise.abs().max()) > 0:
            accepted += 1
            assert error(held_out, noise) < (1 - MUST_SAVE / 2) * zero
            assert float(noise.abs().max()) <= 2.5 * float(error.grid.unit)
    assert f"behind {accepted} of {len(feeds)} LayerNorms" in " ".join(noisy.notes)
    outside = [
        g for g in graph.gemms if g.weight and g.left.role.value not in {"ln_out", "head_in"}
    ]
    assert f"{len(outside)} linears have no LayerNorm" in " ".join(noisy.notes)


def piled_up(graph):
    """Return a copy whose LayerNorms give most channels almost one value: noise surely helps."""
    graph = copy.deepcopy(graph)
    for feed in {feed for gemm in graph.gemms if (feed := ln_of(graph, gemm))}:
        gamma = graph.constant(feed.weight).clone()
        gamma[4:] *= 0.01
        graph.set_constant(feed.weight, gamma)
    return graph


def test_noise_is_accepted_where_values_pile_up(vit, images):
    piled = piled_up(vit)
    notes = calibrate(piled, place(piled, 5), images, METHODS["noisyquant"]).notes
    assert any("behind 5 of 5 LayerNorms" in note for note in notes), notes


@pytest.mark.parametrize("name", ["noisyquant", "noisyquant+ptq4vit"])
def test_noise_adds_no_operator(split_vit, images, name):
    base = "ptq4vit" if "+" in name else "mse"
    operators = []
    piled = piled_up(split_vit)
    for method in (base, name):
        quantized = calibrate(piled, place(piled, 5), images, METHODS[method])
        model = onnx.load_model_from_string(CpuTarget().lower(quantized).onnx)
        operators.append([node.op_type for node in model.graph.node])
    assert operators[0] == operators[1]
    assert not any("behind 0 of" in note for note in quantized.notes)


def test_images_given_in_odd_numbers(swin, images):
    """Halves are cut between images, not inside one; a single image holds nothing out."""
    quantized = calibrate(swin, place(swin, 5), images[:1], METHODS["noisyquant"])
    assert any("behind 0 of" in note for note in quantized.notes)


def test_runs_repeat(vit, images):
    first, again = (calibrate(vit, place(vit, 5), images, METHODS["noisyquant"]) for _ in range(2))
    assert torch.equal(first.forward(images), again.forward(images))
