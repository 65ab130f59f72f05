"""Liu et al.: correlation and ranking loss against literal loops, never worse than the start."""

import numpy as np
import pytest
import torch

from edgevit.calibration.methods import METHODS
from edgevit.calibration.methods.liu2021 import (
    CHOICES,
    THETA,
    _Judged,
    _linear,
    alternate,
    draw_pairs,
    pearson,
    ranking_loss,
    score_unit,
)
from edgevit.calibration.rewrites.heads import equalize_heads
from edgevit.calibration.run import Run, calibrate
from edgevit.calibration.search.parallel import activation_grid, rewritten
from edgevit.calibration.search.sequential import Operands, walk
from edgevit.calibration.statistics.fisher import Statistics
from edgevit.calibration.statistics.ranges import observe_ranges
from edgevit.graph.interpret import run_graph
from edgevit.progress import no_progress
from edgevit.quantizers.quantized_graph import IntegerLinear, IntegerMatmul, integer_linear
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.cpu.target import CpuTarget


def place(graph, bits):
    return CpuTarget().place(graph, weight_bits=bits, act_bits=bits)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_pearson_is_numpys_mean_over_images():
    a, b = random(6, 5, 4), random(6, 5, 4, seed=1) + 0.5 * random(6, 5, 4)
    expected = np.mean(
        [np.corrcoef(a[at : at + 2].flatten(), b[at : at + 2].flatten())[0, 1] for at in (0, 2, 4)]
    )
    assert pearson(a, b, 3) == pytest.approx(expected, abs=1e-6)
    assert pearson(a, 3 * a + 2, 3) == pytest.approx(1, abs=1e-9)
    assert pearson(a, -a, 3) == pytest.approx(-1, abs=1e-9)


def test_outputs_that_do_not_vary():
    a, flat = random(2, 5), torch.full((2, 5), 3.0)
    assert pearson(a, flat, 2) == 0
    assert pearson(flat, a, 2) == 0
    assert pearson(flat, flat, 2) == 1
    half = torch.stack([a[0], flat[0]])
    assert pearson(half, half, 2) == pytest.approx(1)
    assert pearson(random(3, 1), random(3, 1, seed=1), 3) == 1  # one output per image


def test_ranking_loss_is_the_double_loop():
    expected, found = random(2, 3, 4, 6), random(2, 3, 4, 6, seed=1)
    pairs = draw_pairs(6, 100, 0)
    assert len(pairs[0]) == 15
    total = []
    for image in range(2):
        for head in range(3):
            for row in range(4):
                for i in range(5):
                    for j in range(i + 1, 6):
                        a, b = expected[image, head, row], found[image, head, row]
                        sign = np.sign(float(a[i] - a[j]))
                        total.append(max(0.0, THETA - float(b[i] - b[j]) * sign))
    assert ranking_loss(expected, found, pairs) == pytest.approx(np.mean(total), rel=1e-5)
    apart = torch.arange(6.0).expand(4, 6)
    assert ranking_loss(apart, apart, pairs) == 0
    assert ranking_loss(apart, -apart, pairs) > 1


def test_pairs_are_drawn_by_the_seed():
    first, again, other = draw_pairs(50, 64, 3), draw_pairs(50, 64, 3), draw_pairs(50, 64, 4)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert (first[0] < first[1]).all()
    assert len(set(zip(first[0].tolist(), first[1].tolist(), strict=True))) == 64
    assert len(draw_pairs(1, 64, 0)[0]) == 0
    assert ranking_loss(torch.ones(2, 1), torch.ones(2, 1), draw_pairs(1, 64, 0)) == 0


def test_alternate_finds_the_peak_and_keeps_a_fixed_step():
    def score(left, right):
        return -((left - 0.7) ** 2) - (right - 1.1) ** 2

    left, right = alternate(score)
    assert left == pytest.approx(0.7, abs=0.02)
    assert right == pytest.approx(1.1, abs=0.02)
    assert alternate(score, fixed_left=True) == (1.0, right)
    assert alternate(lambda left, right: 0.0) == (1.0, 1.0)


def test_scores_are_ranked_as_softmax_sees_them(graph, images):
    """The unit times the product is what stands before the position bias or the softmax."""
    changed = graph.clone()
    sites = set(place(changed, 6).options)
    equalize_heads(changed, observe_ranges(changed, images, 6, no_progress), sites)
    plain, moved = {}, {}
    run_graph(graph, images, observe=lambda name, value: plain.update({name: value}))
    run_graph(changed, images, observe=lambda name, value: moved.update({name: value}))
    for before, after in zip(graph.gemms, changed.gemms, strict=True):
        if before.kind == "qk":
            unit, old = score_unit(changed, after), score_unit(graph, before)
            assert unit.numel() > 1
            found, expected = moved[after.name] * unit, plain[before.name] * old
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_is_at_least_as_correlated_as_with_the_widest_steps(graph, images):
    run = Run(graph=graph.clone(), placement=place(graph, 3), images=images)
    ranges = rewritten(run, CHOICES)
    gains = []

    def decide(gemm, fp32: Operands, simulated: Operands, output):
        left = activation_grid(run.placement, gemm.left, ranges, Statistics(), CHOICES)
        if gemm.weight is None:
            right = activation_grid(run.placement, gemm.right, ranges, Statistics(), CHOICES)
            return IntegerMatmul(left=left, right=right)
        judged = _Judged.first(16, run, simulated, output)
        found = _linear(run, gemm, left, judged, fixed=False)
        weight, bias = run.graph.constant(gemm.weight), run.graph.constant(gemm.bias)
        spec = run.placement.options[gemm.right.name][0]
        top = (weight.abs().amax() / (spec.qmax + 0.5)).expand(len(weight))
        plain = integer_linear(left, UniformGrid.symmetric(spec, top), weight, bias)
        scores = [pearson(output, layer(simulated.left), len(images)) for layer in (found, plain)]
        gains.append(scores[0] - scores[1])
        return found

    walk(run, run.quantized(), decide, "test")
    assert min(gains) > -1e-6  # integers and their simulation differ by float32 rounding
    assert max(gains) > 1e-3


def test_biases_take_the_mean_error(vit, images):
    """With the images it was calibrated on, the last layer's mean output is the float32 one."""
    quantized = calibrate(vit, place(vit, 4), images, METHODS["liu2021"])
    with torch.no_grad():
        expected = vit.forward(images).mean(0)
    torch.testing.assert_close(quantized.forward(images).mean(0), expected, rtol=1e-4, atol=1e-4)


def test_one_weight_step_per_layer_and_symmetric_activations(vit, images):
    quantized = calibrate(vit, place(vit, 4), images, METHODS["liu2021"])
    for layer in quantized.layers.values():
        if isinstance(layer, IntegerLinear):
            assert len(layer.weight_grid.scale.unique()) == 1
            assert layer.grid.spec.symmetric


def test_layers_that_read_one_tensor_share_its_grid(split_vit, images):
    quantized = calibrate(split_vit, place(split_vit, 4), images, METHODS["liu2021"])
    steps = {}
    for gemm in split_vit.gemms:
        layer = quantized.layers[gemm.name]
        if isinstance(layer, IntegerLinear):
            steps.setdefault(gemm.left.producer, set()).add(float(layer.grid.unit))
    assert any(sum(g.left.producer == p for g in split_vit.gemms) > 1 for p in steps)
    assert {len(found) for found in steps.values()} == {1}


def test_runs_repeat(vit, images):
    first, again = (calibrate(vit, place(vit, 4), images, METHODS["liu2021"]) for _ in range(2))
    assert torch.equal(first.forward(images), again.forward(images))
