"""APQ-ViT: the objective against a sorted loop, every block at least as good as plain grids."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from edgevit.calibration.methods import METHODS
from edgevit.calibration.methods.apq_vit import (
    ELIMINATED,
    BlockLoss,
    _block_tensors,
    all_blocks,
    best_grid,
)
from edgevit.calibration.run import Run, calibrate
from edgevit.graph.blocks import block_nodes, blocks_of
from edgevit.graph.capture import graph_from_module
from edgevit.graph.interpret import run_graph, run_nodes
from edgevit.quantizers.quantized_graph import IntegerLinear, float_product
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.cpu.target import CpuTarget


def place(graph, bits):
    return CpuTarget().place(graph, weight_bits=bits, act_bits=bits)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_objective_is_the_sorted_sum_without_the_smallest_tenth():
    expected, found, gradient = random(4, 5, 10), random(4, 5, 10, seed=1), random(4, 5, 10, seed=2)
    errors = (found - expected).flatten().tolist()
    order = sorted(range(200), key=lambda at: abs(errors[at]))
    kept = order[int(ELIMINATED * 200) :]
    literal = sum(float(gradient.flatten()[at]) ** 2 * errors[at] ** 2 for at in kept)
    judge = BlockLoss(expected=expected, weight=gradient.square())
    assert judge(found) == pytest.approx(literal, rel=1e-5)
    whole = float((gradient.square() * (found - expected) ** 2).sum())
    assert judge(found) < whole
    assert judge(expected) == 0


def test_few_errors_are_all_kept():
    judge = BlockLoss(expected=torch.zeros(3), weight=torch.ones(3))
    assert judge(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(14)


def test_gradients_are_those_of_the_block_outputs(vit, images):
    """Moving a block's output along its gradient changes the loss as much as the slope says."""
    run = Run(graph=vit.clone(), placement=place(vit, 6), images=images[:4])
    blocks = all_blocks(run)
    _, values, gradients = _block_tensors(run, blocks)
    block = blocks_of(run.graph)[0]
    step = 1e-2 * random(*values[block.output].shape)
    nodes = run.graph.module.graph.nodes
    rest = tuple(n for n in nodes if n.op not in {"placeholder", "output"})

    def logits(moved):
        known = {"image": images[:4], block.output: values[block.output] + moved}
        return run_nodes(run.graph, rest, known).double()

    probabilities = logits(torch.zeros(())).softmax(1)
    drawn = torch.multinomial(probabilities.float(), 1, generator=torch.Generator().manual_seed(0))
    wanted = torch.zeros_like(probabilities).scatter(1, drawn, 1)
    norm = (probabilities - wanted).norm(dim=1)  # every image counts alike, whatever its slope

    def loss(moved):
        return float(-((logits(moved).log_softmax(1) * wanted).sum(1) / norm).sum())

    difference = (loss(step) - loss(-step)) / 2
    slope = float((gradients[block.output] * step).sum())
    assert abs(slope) > 1e-6
    assert difference == pytest.approx(slope, rel=0.05)


def test_every_linear_belongs_to_one_block(graph, images):
    run = Run(graph=graph.clone(), placement=place(graph, 6), images=images)
    names = [name for block in all_blocks(run) for name in block.gemms]
    assert sorted(names) == sorted(gemm.name for gemm in graph.gemms)
    positions = [[g.name for g in graph.gemms].index(name) for name in names]
    assert positions == sorted(positions)


def test_best_grid_is_the_best_of_what_it_tries():
    grid = UniformGrid.from_range(GridSpec(bits=4), -1.0, 3.0)
    seen = {}

    def loss(candidate):
        share = float(candidate.scale / grid.scale)
        seen[share] = abs(share - 0.9)
        return seen[share]

    found = best_grid(grid, (0.7, 0.85, 1.0, 1.2), loss)
    assert float(found.scale / grid.scale) == pytest.approx(min(seen, key=seen.__getitem__))
    assert float(found.scale / grid.scale) == pytest.approx(0.925)  # between 0.85 and 1.0
    assert torch.equal(found.zero_point, grid.zero_point)


def judged(graph, quantized, images):
    """Return block name -> the objective of a quantized graph on float32 block inputs."""
    run = Run(graph=quantized.graph, placement=quantized.placement, images=images)
    blocks = all_blocks(run)
    inputs, outputs, gradients = _block_tensors(run, blocks)
    found = {}
    for block in blocks:
        judge = BlockLoss(expected=outputs[block.output], weight=gradients[block.output].square())
        with torch.no_grad():
            nodes = block_nodes(run.graph, block)
            values = {block.input: inputs[block.input]}
            found[block.name] = judge(run_nodes(run.graph, nodes, values, gemm=quantized.compute))
    return found


@pytest.mark.parametrize("bits", [3, 4])
def test_blocks_have_less_error_than_with_plain_grids(graph, images, bits):
    losses = {
        name: judged(graph, calibrate(graph, place(graph, bits), images, METHODS[name]), images)
        for name in ("apq-vit", "mse")
    }
    ratios = [
        losses["apq-vit"][block] / max(losses["mse"][block], 1e-30) for block in losses["mse"]
    ]
    assert np.exp(np.mean(np.log(ratios))) < 1, losses
    blocks = {block.name for block in blocks_of(graph)}
    alone = [ratio for name, ratio in zip(losses["mse"], ratios, strict=True) if name not in blocks]
    assert max(alone) <= 1.001, losses  # one layer: the start is among the candidates


def softmax_tops(graph, quantized, images):
    """Yield (the largest softmax output seen, the largest that its grid has)."""
    tops = {}

    def look(gemm, left, right):
        tops[gemm.name] = float(left.max())
        return float_product(quantized.graph, gemm, left, right)

    with torch.no_grad():
        run_graph(quantized.graph, images, gemm=look)
    for gemm in graph.gemms:
        if gemm.kind == "pv":
            grid = quantized.layers[gemm.name].left
            assert grid.spec.kind == "uniform"
            yield tops[gemm.name], float(grid.scale) * grid.spec.qmax


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_softmax_is_not_clipped(graph, images, bits):
    """The summary says so: no calibration image has a probability above the largest level."""
    assert "softmax unclipped" in METHODS["apq-vit"].summary
    quantized = calibrate(graph, place(graph, bits), images, METHODS["apq-vit"])
    found = list(softmax_tops(graph, quantized, images))
    assert len(found) >= 2
    assert all(top <= largest * (1 + 1e-6) for top, largest in found), found


def test_shares_below_one_would_clip_it(vit, images):
    """What the test above has to see: the start that a port has, 0.9 of the range."""
    method = METHODS["apq-vit"]
    clipping = replace(method, calibrate=partial(method.calibrate, softmax_shares=(0.9, 1.0)))
    quantized = calibrate(vit, place(vit, 4), images, clipping)
    assert any(top > 1.01 * largest for top, largest in softmax_tops(vit, quantized, images))


def test_layers_that_read_one_tensor_share_its_grid(split_vit, images):
    quantized = calibrate(split_vit, place(split_vit, 4), images, METHODS["apq-vit"])
    steps = {}
    for gemm in split_vit.gemms:
        layer = quantized.layers[gemm.name]
        if isinstance(layer, IntegerLinear):
            steps.setdefault(gemm.left.producer, set()).add(float(layer.grid.unit))
    assert {len(found) for found in steps.values()} == {1}


def test_runs_repeat_and_layers_may_stay_in_float(vit, images):
    placement = CpuTarget().place(vit, weight_bits=4, act_bits=4, float_layers=("blocks.0.mlp*",))
    first, again = (calibrate(vit, placement, images, METHODS["apq-vit"]) for _ in range(2))
    assert torch.equal(first.forward(images), again.forward(images))
    modules = {gemm.module for gemm in vit.gemms if gemm.name in first.layers}
    assert "blocks.0.mlp.fc1" not in modules
    assert "blocks.0.attn.qkv" in modules


class _Pooled(torch.nn.Module):
    """An attention without a residual stream, which is no block, between two linears."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = torch.nn.Linear(64, 8), torch.nn.Linear(8, 5)
        self.q, self.k, self.v = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, image):
        x = self.embed(image.reshape(-1, 48, 64))
        scores = self.q(x) @ self.k(x).transpose(-1, -2)
        return self.head((scores.softmax(-1) @ self.v(x)).mean(1))


def test_an_attention_outside_a_block_is_counted_in_the_notes(images):
    torch.manual_seed(0)
    graph = graph_from_module(_Pooled().eval(), (3, 32, 32))
    quantized = calibrate(graph, place(graph, 4), images[:4], METHODS["apq-vit"])
    assert {gemm.name for gemm in graph.gemms} == quantized.layers.keys()
    (note,) = (note for note in quantized.notes if "outside the transformer blocks" in note)
    assert note.startswith("2 products ")


def test_products_asked_for_in_float_are_not_counted_as_outside(vit, images):
    placement = CpuTarget().place(vit, weight_bits=4, act_bits=4, float_layers=("blocks.0",))
    quantized = calibrate(vit, placement, images[:4], METHODS["apq-vit"])
    assert len(quantized.layers) < len(vit.gemms)
    assert not any("outside" in note for note in quantized.notes)
