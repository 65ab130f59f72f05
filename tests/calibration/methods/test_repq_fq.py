"""RepQ-ViT and FQ-ViT: folds change nothing but the grids, and missing grids are refused."""

import pytest
import torch

from edgevit.calibration.methods import METHODS, fq_vit, repq_vit
from edgevit.calibration.rewrites.layernorm import foldable, reparameterize
from edgevit.calibration.run import calibrate
from edgevit.calibration.search.percentiles import channel_grid
from edgevit.errors import UnsupportedError
from edgevit.graph.interpret import run_graph
from edgevit.graph.sites import Role
from edgevit.quantizers.log import LogGrid
from edgevit.quantizers.quantized_graph import IntegerLinear, SimulatedMatmul, float_product
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.cpu.parity import integer_layer_parity
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.registry import target_named

SIMULATION = target_named("simulation")


def logits(graph, images):
    with torch.no_grad():
        return graph.forward(images)


def inputs_of(graph, images):
    """Return gemm name -> its left operand in float32."""
    found = {}

    def keep(gemm, left, right):
        found[gemm.name] = left
        return float_product(graph, gemm, left, right)

    with torch.no_grad():
        run_graph(graph, images, gemm=keep)
    return found


def place(graph, bits, target=SIMULATION):
    return target.place(graph, weight_bits=bits, act_bits=bits)


def test_repq_fold_is_exact_and_keeps_the_codes_except_ties(graph, images):
    folded, spec = graph.clone(), GridSpec(bits=4)
    before, grids = inputs_of(folded, images), {}
    for feed, linears in foldable(folded, set(place(graph, 4).options)):
        channels = channel_grid(4, before[linears[0].name])
        grid, shift, factor = channels.layerwise(spec)
        reparameterize(folded, feed, linears, shift, factor)
        grids |= {linear.name: (channels, grid) for linear in linears}
    assert len(grids) >= 4
    expected = logits(graph, images)
    assert float((logits(folded, images) - expected).norm() / expected.norm()) < 1e-5
    after = inputs_of(folded, images)
    for name, (channels, grid) in grids.items():
        old, new = channels.codes(before[name]).int(), grid.codes(after[name])
        place_between = before[name] / channels.scale
        tie = (place_between - place_between.floor() - 0.5).abs() < 1e-2
        assert torch.equal(old[~tie], new[~tie]), name
        assert float((old != new).float().mean()) < 1e-3
        assert not torch.allclose(before[name], after[name])


def test_repq_uses_the_papers_grids_and_leaves_the_head_alone(graph, images):
    quantized = calibrate(graph, place(graph, 4), images, METHODS["repq-vit"])
    for gemm in graph.gemms:
        layer = quantized.layers[gemm.name]
        if isinstance(layer, IntegerLinear):
            assert layer.weight_grid.spec.label() == layer.grid.spec.label() == "asymmetric"
            assert layer.weight_grid.zero_point.any()
        elif gemm.kind == "pv":
            assert isinstance(layer, SimulatedMatmul)
            assert layer.left.spec.kind == "log-sqrt2"
            assert layer.right.spec.label() == "asymmetric"
        if gemm.left.role is Role.HEAD_IN:
            weight = quantized.graph.constant(gemm.weight)
            assert torch.equal(weight, graph.constant(gemm.weight))
        if gemm.left.role is Role.LN_OUT:
            assert not torch.equal(
                quantized.graph.constant(gemm.weight), graph.constant(gemm.weight)
            )


def test_repq_recalibrates_weights_after_the_fold(vit, images):
    """The grid of a folded weight is the best one for the folded weight."""
    quantized = calibrate(vit, place(vit, 4), images, METHODS["repq-vit"])
    gemm = next(g for g in vit.gemms if g.left.role is Role.LN_OUT)
    layer = quantized.layers[gemm.name]
    weight = quantized.graph.constant(gemm.weight)
    again = repq_vit.weight_grid(layer.weight_grid.spec, weight)
    assert torch.equal(again.codes(weight), layer.weight_codes.int())
    original = repq_vit.weight_grid(layer.weight_grid.spec, vit.constant(gemm.weight))
    assert not torch.equal(original.scale, layer.weight_grid.scale)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_deployable_subset_runs_on_the_engine_bit_by_bit(graph, images, bits):
    placement = place(graph, bits, CpuTarget())
    quantized = calibrate(graph, placement, images, METHODS["repq-vit-int"])
    rows = integer_layer_parity(quantized, images.numpy(), layers_at_once=100)
    assert len(rows) == len(graph.gemms)
    assert all(row.is_exact for row in rows)


def test_later_layers_see_what_quantized_ones_produce(vit, images):
    """With one bit more in the first layers only, grids of later ones change."""
    found = {}
    for first_bits in (3, 8):
        placement = place(vit, 4, CpuTarget())
        for name, specs in placement.options.items():
            if name.startswith("patch_embed") and specs[0].granularity == "channel":
                wider = GridSpec(
                    bits=first_bits, signed=True, symmetric=True, granularity="channel"
                )
                placement.options[name] = (wider,)
        quantized = calibrate(vit, placement, images, METHODS["repq-vit-int"])
        gemm = next(g for g in vit.gemms if g.module == "blocks.1.mlp.fc2")
        found[first_bits] = float(quantized.layers[gemm.name].grid.scale)
    assert found[3] != found[8]


@pytest.mark.parametrize("method", ["repq-vit", "fq-vit"])
def test_methods_the_target_can_not_run_are_refused_before_any_work(
    graph, images, method, monkeypatch
):
    def work(*args, **kwargs):
        raise AssertionError("the images were looked at")

    for module in (repq_vit, fq_vit):
        monkeypatch.setattr(module, "run_graph", work)
    monkeypatch.setattr("edgevit.calibration.statistics.ranges.run_graph", work)
    with pytest.raises(UnsupportedError, match="EV306") as caught:
        calibrate(graph, place(graph, 6, CpuTarget()), images, METHODS[method], progress=work)
    assert method in caught.value.what
    assert caught.value.where in {site.name for site in graph.sites}
    assert "`edgevit simulate`" in caught.value.try_next


def test_fq_fold_is_exact_to_the_last_bit(graph, images):
    quantized = calibrate(graph, place(graph, 4), images, METHODS["fq-vit"])
    factors = []
    for gemm in graph.gemms:
        if gemm.weight is not None and gemm.left.role in {Role.LN_OUT, Role.HEAD_IN}:
            ratio = quantized.graph.constant(gemm.weight) / graph.constant(gemm.weight)
            assert bool((ratio == ratio[:1]).all())
            factors.append(ratio[0])
    assert set(torch.cat(factors).tolist()) <= {1.0, 2.0, 4.0, 8.0}
    assert len(set(torch.cat(factors).tolist())) > 1
    assert torch.equal(logits(quantized.graph, images), logits(graph, images))


def test_fq_softmax_is_log2_and_weights_symmetric(vit, images):
    quantized = calibrate(vit, place(vit, 4), images, METHODS["fq-vit"])
    for gemm in vit.gemms:
        layer = quantized.layers[gemm.name]
        if gemm.kind == "pv":
            assert isinstance(layer.left, LogGrid)
            assert (layer.left.spec.kind, float(layer.left.scale)) == ("log2", 1.0)
        if isinstance(layer, IntegerLinear):
            assert layer.weight_grid.spec.label() == "symmetric"


def test_alpha_errors_equal_a_loop_over_channels():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 12, generator=generator) * torch.rand(12, generator=generator) ** 3
    spec = GridSpec(bits=4)
    grid = UniformGrid.from_range(spec, float(x.min()), float(x.max()))
    found = fq_vit.alpha_errors(grid, x.reshape(5, 10, 12))
    for alpha in range(4):
        for channel in range(12):
            scale = grid.scale / 8 * 2**alpha
            own = UniformGrid(spec=spec, scale=scale, zero_point=grid.zero_point)
            error = (own.fake_quantize(x[:, channel]) - x[:, channel]).square().sum()
            assert float(found[alpha, channel]) == pytest.approx(float(error), rel=1e-4)
    assert len(found.argmin(0).unique()) > 1
