"""Calibration on whole graphs: rewrites are exact, weights are not zero, runs repeat."""

import pytest
import torch

from edgevit.calibration.methods import METHODS, method_named
from edgevit.calibration.rewrites.bias import correct_biases
from edgevit.calibration.rewrites.heads import equalize_heads
from edgevit.calibration.rewrites.layernorm import fold_layernorms
from edgevit.calibration.run import calibrate
from edgevit.calibration.statistics.fisher import collect, sampled_loss
from edgevit.calibration.statistics.ranges import images_per_batch, observe_ranges
from edgevit.errors import UsageError
from edgevit.graph.interpret import run_graph
from edgevit.progress import no_progress
from edgevit.quantizers.quantized_graph import IntegerLinear
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.registry import target_named


def logits(graph, images):
    with torch.no_grad():
        return graph.forward(images)


def place(graph, bits=6, method="edgevit"):
    simulated = METHODS[method].needs.endswith("simulation only")
    target = target_named("simulation" if simulated else "cpu")
    return target.place(graph, weight_bits=bits, act_bits=bits)


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


def ranges_agree(graph, images, ranges):
    """What a rewrite says of the new ranges is what a new look finds."""
    seen = observe_ranges(graph, images, 5, no_progress)
    for name, value in ranges.items():
        for attribute in ("low", "high", "mean", "mean_square"):
            found, expected = getattr(value, attribute), getattr(seen[name], attribute)
            assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4), (name, attribute)


def test_layernorm_folds_are_exact(graph, images):
    before, folded = logits(graph, images), graph.clone()
    ranges = observe_ranges(folded, images, 5, no_progress)
    names = fold_layernorms(
        folded, ranges, weight_bits=8, act_bits=4, sites=set(place(graph).options)
    )
    assert len(names) >= 4
    assert relative_error(logits(folded, images), before) < 1e-5
    changed = [g for g in folded.gemms if g.weight and g.left.role.value == "ln_out"]
    assert any(
        not torch.equal(folded.constant(g.weight), graph.constant(g.weight)) for g in changed
    )
    ranges_agree(folded, images, ranges)


def test_head_equalization_is_exact_and_equalizes(graph, images):
    before, equal = logits(graph, images), graph.clone()
    ranges = observe_ranges(equal, images, 5, no_progress)
    changed = equalize_heads(equal, ranges, set(place(graph).options))
    assert len(changed) == 3 * sum(g.kind == "qk" for g in graph.gemms)
    assert relative_error(logits(equal, images), before) < 1e-5
    for name in changed:
        tops = ranges[name].absmax()
        assert torch.allclose(tops, tops[0].expand_as(tops), rtol=1e-4)
    ranges_agree(equal, images, ranges)


def test_fisher_weights_are_not_zero_and_repeat(graph, images):
    ranges = observe_ranges(graph, images, 5, no_progress)
    choices = {"batch_size": 4, "weighted": True, "progress": no_progress}
    first = collect(graph, images, ranges, seed=3, **choices)
    again = collect(graph, images, ranges, seed=3, **choices)
    other = collect(graph, images, ranges, seed=4, **choices)
    for gemm in graph.gemms:
        if gemm.weight is not None:
            assert sum(float(t.sum()) for t in first.importance[gemm.name]) / len(images) > 1e-12, (
                gemm.module
            )
            assert torch.equal(first.grams[gemm.name], again.grams[gemm.name])
            assert not torch.equal(first.grams[gemm.name], other.grams[gemm.name])
    for histogram in first.histograms.values():
        assert float(histogram.counts.sum()) > 0


def test_fisher_weights_equal_a_literal_computation(vit, images):
    """One linear, one image: importance of x[t, j] is sum_r g[t, r]^2 W[r, j]^2."""
    image = images[:1]
    ranges = observe_ranges(vit, image, 1, no_progress)
    found = collect(vit, image, ranges, batch_size=1, seed=0, weighted=True, progress=no_progress)
    gemm = next(g for g in vit.gemms if g.module == "blocks.1.mlp.fc1")
    outputs = {}

    def keep(name, value):
        if name in {gemm.name, gemm.left.producer}:
            value.requires_grad_(True) if not value.requires_grad else value.retain_grad()
            outputs[name] = value

    result = run_graph(vit, image.clone().requires_grad_(True), observe=keep)
    sampled_loss(result, torch.Generator().manual_seed(0)).backward()
    gradient = outputs[gemm.name].grad[0]  # [T, out]
    x = outputs[gemm.left.producer].detach()[0]  # [T, in]
    weight = vit.constant(gemm.weight)
    literal = sum(
        float((gradient[t] ** 2) @ (weight[:, j] ** 2))
        for t in range(x.shape[0])
        for j in range(x.shape[1])
    )
    counted = float(found.histograms[gemm.left.name].counts.sum())
    assert counted == pytest.approx(literal, rel=1e-3)
    gram = sum(float((gradient[t] ** 2).sum()) * torch.outer(x[t], x[t]) for t in range(len(x)))
    assert torch.allclose(found.grams[gemm.name], gram, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "edgevit-train"])  # own tests
def test_every_method_quantizes_every_product_and_8_bits_are_close(graph, images, method):
    quantized = calibrate(graph, place(graph, 8, method), images, method_named(method))
    assert set(quantized.layers) == {gemm.name for gemm in graph.gemms}
    expected = logits(graph, images)
    limit = 0.25 if method == "fq-vit" else 0.15  # log2 steps are as coarse at any width
    assert relative_error(quantized.forward(images), expected) < limit
    again = calibrate(graph, place(graph, 8, method), images, method_named(method))
    assert torch.equal(again.forward(images), quantized.forward(images))


def test_edgevit_has_less_error_than_the_plain_methods_at_4_bits(graph, images):
    expected = logits(graph, images)
    errors = {
        method: relative_error(
            calibrate(graph, place(graph, 4), images, method_named(method)).forward(images),
            expected,
        )
        for method in ("edgevit", "minmax", "percentile")
    }
    assert errors["edgevit"] < min(errors["minmax"], errors["percentile"]), errors


def test_batch_size_does_not_change_the_grids(vit, images):
    small = calibrate(vit, place(vit), images, METHODS["edgevit"], memory_bytes=1)
    large = calibrate(vit, place(vit), images, METHODS["edgevit"])
    for name, layer in small.layers.items():
        grid = layer.grid if isinstance(layer, IntegerLinear) else layer.left
        other = large.layers[name]
        other_grid = other.grid if isinstance(other, IntegerLinear) else other.left
        # Labels are drawn batch by batch, so the weights of a search differ a little.
        assert float(grid.unit) == pytest.approx(float(other_grid.unit), rel=0.15)


@pytest.mark.parametrize(("method", "noted"), [("gptq", True), ("minmax", False)])
def test_images_that_only_some_passes_saw_are_noted(vit, images, method, noted):
    many = torch.cat([images, images, images, images])
    quantized = calibrate(vit, place(vit), many, METHODS[method], memory_bytes=1)
    notes = [note for note in quantized.notes if "first 32 of 48 images" in note]
    assert bool(notes) == noted
    few = calibrate(vit, place(vit), images, METHODS[method], memory_bytes=1)
    assert not any("of 12 images" in note for note in few.notes)


def test_the_graph_given_is_left_as_it_was(vit, images):
    before = {name: value.clone() for name, value in vit.module.named_buffers()}
    calibrate(vit, place(vit), images, METHODS["edgevit"])
    after = dict(vit.module.named_buffers())
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bias_correction_removes_mean_errors(vit, images):
    quantized = calibrate(vit, place(vit, 4), images, METHODS["mse"])
    expected = logits(vit, images)

    def mean_error():
        return float((quantized.forward(images) - expected).mean(0).norm())

    before = mean_error()
    correct_biases(quantized, images, no_progress)
    assert mean_error() < 0.3 * before


def test_layers_asked_for_stay_in_float(vit, images):
    target = CpuTarget()
    placement = target.place(vit, weight_bits=4, act_bits=4, float_layers=("blocks.0.*",))
    quantized = calibrate(vit, placement, images, METHODS["edgevit"])
    modules = {gemm.module for gemm in vit.gemms if gemm.name in quantized.layers}
    assert not any(name.startswith("blocks.0.") for name in modules)
    assert any(name.startswith("blocks.1.") for name in modules)
    assert target.lower(quantized).layers[1]["reason"] == "asked for in the recipe"


def test_batches_fit_the_budget(vit, images):
    assert images_per_batch(vit, images[:1], 1) == 1
    assert images_per_batch(vit, images[:1], 1 << 40) == 64


def test_unknown_method_suggests():
    with pytest.raises(UsageError, match="ptq4vit"):
        method_named("ptq4vi")


def test_progress_reaches_the_end_of_every_stage(vit, images):
    seen = {}
    calibrate(
        vit,
        place(vit),
        images,
        METHODS["edgevit"],
        progress=lambda stage, done, total: seen.update({stage: (done, total)}),
    )
    assert list(seen) == ["ranges", "statistics", "layers"]
    assert all(done == total for done, total in seen.values())
