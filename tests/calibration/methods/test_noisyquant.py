"""NoisyQuant: the formula literally, exact in betas and in additions, which have to pay."""

import copy
from dataclasses import replace

import onnx
import pytest
import torch

from edgevit.calibration.methods import METHODS
from edgevit.calibration.methods.noisyquant import (
    FREE_MUST_SAVE,
    Error,
    _in_memory,
    _inputs,
    choose_noise,
    must_save,
    noisy,
)
from edgevit.calibration.rewrites.noise_places import add_noise, places
from edgevit.calibration.run import Run, calibrate
from edgevit.calibration.search.parallel import OPERATORS_MUST_SAVE
from edgevit.graph.layernorm import ln_of
from edgevit.graph.model import Role
from edgevit.quantizers.quantized_graph import integer_linear
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.cpu.parity import integer_layer_parity
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.registry import target_named
from edgevit.targets.tensorrt.parity import qdq_layer_parity as tensorrt_parity


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
    noise = choose_noise([layer], piled, piled.flip(0), 0, FREE_MUST_SAVE)
    error = Error.of([layer])
    assert noise is not None
    assert error(piled, noise) < 0.5 * error(piled, torch.zeros(5))


def test_the_shift_of_one_step_for_all_channels_is_found():
    """A shift alone puts values that lie a quarter of a step beside their code onto it."""
    layer, _ = layer_of(scale=0.5)
    beside = layer.grid.fake_quantize(random(256, 5)) + 0.125
    noise = choose_noise([layer], beside, beside, 0, FREE_MUST_SAVE)
    error = Error.of([layer])
    assert error(beside, noise) < 0.1 * error(beside, torch.zeros(5))


def test_noise_is_refused_where_it_cannot_help():
    layer, _ = layer_of(scale=0.5)
    on_codes = layer.grid.fake_quantize(random(256, 5))
    assert choose_noise([layer], on_codes, on_codes, 0, FREE_MUST_SAVE) is None
    piled = torch.full((64, 5), 0.24)
    assert (
        choose_noise([layer], piled, on_codes, 0, FREE_MUST_SAVE) is None
    )  # only the search half gains
    assert choose_noise([layer], piled, piled[:0], 0, FREE_MUST_SAVE) is None  # nothing to hold out


@pytest.mark.parametrize("base", ["mse", "ptq4vit"])
def test_added_noise_is_q_of_x_plus_n_minus_n(graph, images, base):
    """Any noise anywhere: the float32 graph stays, a layer computes Q(X + N) W^T + b - W N."""
    quantized = calibrate(graph, place(graph, 5), images, METHODS[base])
    expected = quantized.graph.forward(images).detach()
    before = dict(quantized.layers)
    found = list(places(quantized))
    assert sum(one.norm is None for one in found) >= 4
    assert sum(one.norm is not None for one in found) >= 4
    assert sorted(name for one in found for name in one.gemms) == sorted(
        gemm.name
        for gemm in graph.gemms
        if gemm.weight is not None and gemm.left.role is not Role.PATCH_IN
    )
    for at, one in enumerate(found):
        layer = before[one.gemms[0]]
        channels = layer.weight_codes.shape[1]
        noise = float(layer.grid.unit) * (torch.rand(channels) * 2 - 1)
        add_noise(quantized, one, noise)
        x = random(9, channels, seed=at)
        for name in one.gemms:
            old, new = before[name], quantized.layers[name]
            rounded = old.grid.fake_quantize(x + noise) - noise
            literal = rounded @ old.weight_values().T + old.bias
            torch.testing.assert_close(new(x + noise), literal, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        found = quantized.graph.forward(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def errors_of(plain, noised, images):
    """Return (place, its noise, held-out error with it, without) of every place."""
    run = Run(graph=plain.graph, placement=plain.placement, images=images)
    found = list(places(plain))
    inputs = {}
    for quantized in (plain, noised):
        with torch.no_grad():
            halves = _inputs(run, quantized, {one.gemms[0] for one in found})
        inputs[quantized is noised] = halves
    for one in found:
        x, shifted = (inputs[which][one.gemms[0]][1] for which in (False, True))
        noise = (shifted - x).mean(0)
        error = Error.of([plain.layers[name] for name in one.gemms])
        yield one, noise, error(x, noise), error(x, torch.zeros_like(noise))


@pytest.mark.parametrize("name", ["noisyquant", "noisyquant+ptq4vit"])
def test_accepted_noise_lowers_the_held_out_error(graph, images, name):
    base = "ptq4vit" if "+" in name else "mse"
    plain = calibrate(graph, place(graph, 5), images, METHODS[base])
    noised = calibrate(graph, place(graph, 5), images, METHODS[name])
    count = {True: [0, 0], False: [0, 0]}
    for one, noise, with_noise, without in errors_of(plain, noised, images):
        accepted = float(noise.abs().max()) > 1e-4 * float(plain.layers[one.gemms[0]].grid.unit)
        count[one.norm is not None][0] += accepted
        count[one.norm is not None][1] += 1
        if accepted:
            assert with_noise < (1 - must_save(one) / 2) * without
            assert float(noise.abs().max()) <= 4.0 * float(plain.layers[one.gemms[0]].grid.unit)
    notes = " ".join(noised.notes)
    assert "behind {} of {} LayerNorms".format(*count[True]) in notes
    assert "at {} of {} inputs without a LayerNorm".format(*count[False]) in notes


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
    (note,) = (
        note
        for note in calibrate(piled, place(piled, 5), images, METHODS["noisyquant"]).notes
        if "of 5 LayerNorms" in note
    )
    assert int(note.split(" of 5")[0].split()[-1]) >= 4, note  # chosen on four small images


def operators_of(quantized):
    model = onnx.load_model_from_string(CpuTarget().lower(quantized).onnx)
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("name", ["mse", "ptq4vit"])
def test_noise_in_layernorms_adds_no_operator(split_vit, images, name):
    piled = piled_up(split_vit)
    free = replace(METHODS[name], calibrate=noisy(METHODS[name].calibrate, additions=False))
    plain, noised = (
        calibrate(piled, place(piled, 5), images, method) for method in (METHODS[name], free)
    )
    assert operators_of(plain) == operators_of(noised)
    assert not any("behind 0 of" in note for note in noised.notes)


VALUES = {4: 0.13, 6: 0.03}
"""Bits -> what fc1 gives most channels."""


def bent(graph, value):
    """Return a copy whose fc1 make GELUs give most channels almost one value, between two codes."""
    graph = copy.deepcopy(graph)
    for gemm in graph.gemms:
        if gemm.module.endswith("fc1"):
            weight, bias = graph.constant(gemm.weight).clone(), graph.constant(gemm.bias).clone()
            weight[8:] *= 0.01
            bias[8:] = value
            graph.set_constant(gemm.weight, weight)
            graph.set_constant(gemm.bias, bias)
    return graph


def with_noise_behind_gelus(graph, images, bits):
    bent_graph = bent(graph, VALUES[bits])
    quantized = calibrate(bent_graph, place(bent_graph, bits), images, METHODS["noisyquant"])
    additions = [
        node
        for node in quantized.graph.module.graph.nodes
        if node.op == "call_function" and any("noise" in n.name for n in node.all_input_nodes)
    ]
    return quantized, additions


@pytest.mark.parametrize("bits", [4, 6])
def test_noise_behind_a_gelu_runs_exactly_on_the_engine(split_vit, images, bits):
    """An Add in front of Q, the bias behind the product: engine and simulation to the bit."""
    quantized, additions = with_noise_behind_gelus(split_vit, images, bits)
    assert {n.target for a in additions for n in a.all_input_nodes} & {torch.ops.aten.gelu.default}
    rows = integer_layer_parity(quantized, images.numpy(), layers_at_once=100)
    assert all(row.is_exact for row in rows), [row for row in rows if not row.is_exact]
    CpuTarget().lower(quantized)  # every product still gets its integer kernel
    (note,) = (note for note in quantized.notes if "addition at run time" in note)
    assert f"at {len(additions)} of " in note
    assert "gelu_out" in note


def test_noise_behind_a_gelu_conforms_to_tensorrt(vit, images):
    """In a float16 body too: the file keeps to the rules, ONNX Runtime computes the simulation."""
    target, bent_graph = target_named("jetson-orin-nano"), bent(vit, VALUES[4])
    placement = target.place(bent_graph, weight_bits=4, act_bits=4)
    quantized = calibrate(bent_graph, placement, images, METHODS["noisyquant"])
    assert any("gelu_out" in note for note in quantized.notes)
    target.lower(quantized)
    rows = tensorrt_parity(quantized, images.numpy())
    assert rows
    assert all(row.wrong_codes == 0 for row in rows), rows


def test_places_are_taken_in_parts_that_fit_in_memory(vit, images):
    quantized = calibrate(vit, place(vit, 5), images, METHODS["mse"])
    found = list(places(quantized))
    run = Run(graph=quantized.graph, placement=quantized.placement, images=images)
    assert list(_in_memory(run, quantized, found)) == [found]
    run.memory_bytes = 1
    assert list(_in_memory(run, quantized, found)) == [[one] for one in found]


def test_additions_have_to_save_as_much_as_any_operator(vit, images):
    quantized = calibrate(vit, place(vit, 5), images, METHODS["mse"])
    thresholds = {one.norm is None: must_save(one) for one in places(quantized)}
    assert thresholds == {True: OPERATORS_MUST_SAVE, False: FREE_MUST_SAVE}


def test_images_given_in_odd_numbers(swin, images):
    """Halves are cut between images, not inside one; a single image holds nothing out."""
    quantized = calibrate(swin, place(swin, 5), images[:1], METHODS["noisyquant"])
    assert any("behind 0 of" in note for note in quantized.notes)


def test_runs_repeat(vit, images):
    first, again = (calibrate(vit, place(vit, 5), images, METHODS["noisyquant"]) for _ in range(2))
    assert torch.equal(first.forward(images), again.forward(images))
