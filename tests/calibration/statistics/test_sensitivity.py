"""Layer by layer: errors against a slow twin, and the two ends of the accuracy columns."""

import numpy as np
import pytest
import torch

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.calibration.statistics import fisher
from edgevit.calibration.statistics.ranges import observe_ranges
from edgevit.calibration.statistics.sensitivity import layer_noise, whole_effects
from edgevit.progress import no_progress
from edgevit.quantizers.float8 import Float8Grid, Float8Linear
from edgevit.quantizers.quantized_graph import IntegerLinear, QuantizedGraph, SimulatedMatmul
from edgevit.quantizers.spec import GridSpec
from edgevit.targets.cpu.target import CpuTarget


@pytest.fixture(scope="module")
def quantized(split_vit, images):
    placement = CpuTarget().place(split_vit, weight_bits=4, act_bits=4)
    return calibrate(split_vit, placement, images, METHODS["mse"])


def test_noise_equals_a_literal_computation(quantized, images):
    found = layer_noise(quantized, images, batch_size=5, seed=0, progress=no_progress)
    assert set(found) == set(quantized.layers)
    whole = layer_noise(quantized, images, batch_size=12, seed=0, progress=no_progress)
    ranges = observe_ranges(quantized.graph, images, 12, no_progress)
    products = fisher.forward_backward(
        quantized.graph, images, ranges, torch.Generator().manual_seed(0), True
    )
    for product in products:
        layer, name = quantized.layers[product.gemm.name], product.gemm.name
        left = product.left.detach().numpy().astype(np.float64)
        grid = layer.grid if isinstance(layer, IntegerLinear) else layer.left
        rounded = grid.fake_quantize(product.left.detach()).numpy().astype(np.float64)
        expected = 10 * np.log10((left**2).sum() / ((rounded - left) ** 2).sum())
        assert found[name].sqnr_db(0) == pytest.approx(expected, abs=0.01)
        assert whole[name].sqnr_db(0) == pytest.approx(expected, abs=0.01)
        if isinstance(layer, IntegerLinear):
            weight = quantized.graph.constant(product.gemm.weight).numpy()
            steps = layer.weight_grid.scale.numpy()[:, None]
            value = layer.weight_codes.numpy() * steps
            expected = 10 * np.log10((weight**2).sum() / ((value - weight) ** 2).sum())
            assert found[name].sqnr_db(1) == pytest.approx(expected, abs=0.01)
        right = None if product.right is None else product.right.detach()
        error = quantized.compute(product.gemm, product.left.detach(), right)
        error = (error - product.output.detach()).numpy()
        literal = ((product.output.grad.numpy() * error) ** 2).sum() / (2 * len(images))
        assert whole[name].fisher == pytest.approx(literal, rel=1e-3)


def test_more_bits_have_less_noise(split_vit, images, quantized):
    placement = CpuTarget().place(split_vit, weight_bits=6, act_bits=6)
    better = calibrate(split_vit, placement, images, METHODS["mse"])
    arguments = {"batch_size": 12, "seed": 0, "progress": no_progress}
    low, high = (layer_noise(q, images, **arguments) for q in (quantized, better))
    for name, noise in high.items():
        assert noise.fisher < low[name].fisher
        for at in (0, 1):
            image = quantized.graph.gemm(name).left.role.value == "patch_in" and at == 0
            assert image or 6 < noise.sqnr_db(at) - low[name].sqnr_db(at) < 20


def test_effects_of_one_layer_and_of_all_but_one(quantized, images):
    with torch.no_grad():
        expected = quantized.graph.forward(images)
    labels = expected.argmax(1)  # float32 is always right

    def labelled():
        yield images[:7], labels[:7]
        yield images[7:], labels[7:]

    found = whole_effects(quantized, labelled, no_progress)
    assert set(found) == {*quantized.layers, "float32", "quantized"}
    for effect in found["float32"]:
        assert effect.top1 == 100
        assert effect.kl < 1e-9
    name = quantized.graph.gemms[3].name
    for at, keep in enumerate((lambda n: n == name, lambda n: n != name)):
        layers = {n: layer for n, layer in quantized.layers.items() if keep(n)}
        made = QuantizedGraph(
            graph=quantized.graph, placement=quantized.placement, layers=layers
        ).forward(images)
        p = expected.softmax(1)
        kl = float((p * (p.log() - made.log_softmax(1))).sum(1).mean())
        assert found[name][at].kl == pytest.approx(kl, rel=1e-2, abs=1e-7)
        hits = float((made.argmax(1) == labels).float().mean())
        assert found[name][at].top1 == pytest.approx(100 * hits)
    worst = max(effect[0].kl for key, effect in found.items() if key in quantized.layers)
    assert 0 < worst < found["quantized"][0].kl


def test_an_operand_that_loses_nothing_has_no_sqnr():
    from edgevit.calibration.statistics.sensitivity import Noise

    assert Noise(signal=[1.0, 0.0], noise=[0.0, 0.0]).sqnr_db(0) is None
    assert Noise(signal=[100.0, 0.0], noise=[1.0, 0.0]).sqnr_db(0) == pytest.approx(20)


def test_products_of_8_bit_floats_have_noise_too(vit, images):
    """The target with such a grid has it for linears; products of activations are made here."""
    spec = GridSpec(kind="e4m3", bits=8, signed=True)
    grid = Float8Grid(spec=spec, scale=torch.tensor(1 / 64))
    made = QuantizedGraph(graph=vit, placement=CpuTarget().place(vit, weight_bits=8, act_bits=8))
    linear = next(gemm for gemm in vit.gemms if gemm.kind == "linear")
    product = next(gemm for gemm in vit.gemms if gemm.kind == "qk")
    weight = vit.constant(linear.weight)
    made.layers[linear.name] = Float8Linear(
        grid=grid, weight_grid=grid, weight=weight, bias=vit.constant(linear.bias)
    )
    made.layers[product.name] = SimulatedMatmul(left=grid, right=grid)
    found = layer_noise(made, images, batch_size=12, seed=0, progress=no_progress)
    lost = (grid.fake_quantize(weight) - weight).double().square().sum()
    expected = 10 * np.log10(float(weight.double().square().sum() / lost))
    assert found[linear.name].sqnr_db(1) == pytest.approx(expected, abs=0.01)
    for name in (linear.name, product.name):
        assert all(25 < found[name].sqnr_db(at) < 40 for at in (0, 1))  # 3 bits of mantissa
        assert found[name].fisher > 0
