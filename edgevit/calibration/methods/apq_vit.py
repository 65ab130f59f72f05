"""APQ-ViT: steps judged by what they do to the whole block's output, softmax never clipped.

Source: Ding et al., "Towards accurate post-training quantization for vision transformer" (ACM MM
2022, arXiv 2303.14341). Its two ideas, there is no code by the authors to check details against:

- Bottom-elimination blockwise calibration: a candidate at one layer is judged at the output z of
  its block, ``J = sum_{i in K} (dL/dz_i)^2 (z'_i - z_i)^2``; K leaves out the smallest tenth of
  the errors, so that many tiny ones do not hide the few that change the prediction.
- Matthew-effect preserving quantization: softmax outputs keep all levels of one uniform grid, and
  its steps are searched from the full range upwards only, so that the large values, which carry
  the attention, are not clipped. (A port of unknown authorship starts at 0.9 of the range. As most
  of a softmax is small, the shortest range then has the least error nearly everywhere: that tenth
  is what it clips.) On targets whose softmax grids start at zero the grid is unsigned, which is
  the paper's affine grid with a smallest value of zero.

Inside a block layers are decided in order, with the ones before them in integers, the ones behind
in float32, and the block's float32 input. Every candidate runs the rest of its block, so there are
only a few, coarse to fine around the grid of least squared error, and only the first images judge.
What stands between blocks is a block of one layer. dL/dz is a true Fisher gradient. How the paper
treats activations behind a GELU is not known to us: they get twin grids where offered and better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from edgevit.calibration.run import Method, Run
from edgevit.calibration.search.missing_grids import missing_notes
from edgevit.calibration.search.parallel import (
    OPERATORS_MUST_SAVE,
    SearchChoices,
    activation_grid,
    rewritten,
)
from edgevit.calibration.search.shared_grids import GridChooser
from edgevit.calibration.search.weight_scales import search_scale
from edgevit.calibration.statistics.fisher import Statistics, output_loss
from edgevit.calibration.statistics.ranges import Ranges, batches
from edgevit.graph.blocks import Block, block_nodes, blocks_of
from edgevit.graph.interpret import run_nodes, run_outputs
from edgevit.graph.model import Gemm, Role, Site
from edgevit.quantizers.quantized_graph import (
    Grid,
    IntegerMatmul,
    QuantizedGraph,
    float_product,
    integer_linear,
)
from edgevit.quantizers.uniform import UniformGrid

ELIMINATED = 0.1  # share of the errors left out, the smallest ones
JUDGED_IMAGES = 16
SHARES = (0.7, 0.85, 1.0, 1.2, 1.4)  # of the step with the least squared error
SOFTMAX_SHARES = (1.0, 1.1, 1.2)  # of the step that covers the full range: less would clip
CHOICES = SearchChoices(activations="mse", weights="mse", twin=True)
MATTHEW = SearchChoices(activations="minmax", weights="mse")


def calibrate(run: Run, softmax_shares: tuple[float, ...] = SOFTMAX_SHARES) -> QuantizedGraph:
    """Return the quantized graph.

    Args:
        softmax_shares: Steps tried after a softmax, in steps that cover its full range.
    """
    ranges = rewritten(run, CHOICES)
    statistics = run.statistics(ranges, weighted=False)
    quantized = run.quantized()
    blocks = all_blocks(run)
    inputs, outputs, gradients = _block_tensors(run, blocks)
    search = _Search(
        run=run,
        quantized=quantized,
        ranges=ranges,
        statistics=statistics,
        softmax_shares=softmax_shares,
    )
    for done, block in enumerate(blocks, 1):
        judge = BlockLoss(expected=outputs[block.output], weight=gradients[block.output].square())
        with torch.no_grad():
            search.block(block, inputs[block.input], judge)
        run.progress("blocks", done, len(blocks))
    outside = [gemm for gemm in run.gemms if gemm.name not in quantized.layers]
    for gemm in outside:
        quantized.layers[gemm.name] = search.plain(gemm)
    quantized.notes += _outside_note(outside)
    quantized.notes += missing_notes(
        run.graph,
        run.placement,
        statistics,
        search.grids.grid,
        must_save=OPERATORS_MUST_SAVE,
        roles=(Role.GELU_OUT,),
    )
    return quantized


def _outside_note(outside: list[Gemm]) -> list[str]:
    """Return a note that counts the products of two activations that no block holds."""
    if not outside:
        return []
    modules = ", ".join(sorted({gemm.module for gemm in outside}))
    return [
        f"{len(outside)} products of two activations outside the transformer blocks keep the "
        f"steps of least squared error: there is no block output to judge them at ({modules})"
    ]


def all_blocks(run: Run) -> tuple[Block, ...]:
    """Return the blocks in execution order; a quantized linear outside is one of its own."""
    found = {name: block for block in blocks_of(run.graph) for name in block.gemms}
    for gemm in run.graph.gemms:
        if gemm.name not in found and gemm.weight is not None:
            found[gemm.name] = Block(
                name=gemm.module, gemms=(gemm.name,), input=gemm.left.producer, output=gemm.name
            )
    in_order = [found[gemm.name] for gemm in run.graph.gemms if gemm.name in found]
    return tuple({block.output: block for block in in_order}.values())


@dataclass(frozen=True, kw_only=True)
class BlockLoss:
    """Compares a block's output with the float32 one.

    Args:
        expected: float32 z.
        weight: float32 in the shape of z, the squared gradient of the loss.
    """

    expected: Tensor
    weight: Tensor

    def __call__(self, found: Tensor) -> float:
        """Return J of an output z': the weighted squared errors without the smallest ones."""
        error = (found - self.expected).abs().reshape(-1)  # [N]
        left_out = int(ELIMINATED * len(error))
        kept = error * error * self.weight.reshape(-1)
        if left_out:
            kept = torch.where(error > error.kthvalue(left_out).values, kept, 0.0)
        return float(kept.double().sum())


def _block_tensors(
    run: Run, blocks: tuple[Block, ...]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Return float32 inputs, outputs and output gradients of all blocks, of the judged images."""
    wanted = {block.input for block in blocks} | {block.output for block in blocks}
    ends = {block.output for block in blocks}
    values: dict[str, list[Tensor]] = {name: [] for name in wanted}
    slopes: dict[str, list[Tensor]] = {name: [] for name in ends}
    generator = torch.Generator().manual_seed(run.seed)
    for batch in batches(run.images[:JUDGED_IMAGES], run.batch_size):
        kept: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor, kept: dict[str, Tensor] = kept) -> None:
            if name in wanted:
                value.retain_grad()
                kept[name] = value

        with torch.enable_grad():
            outputs = run_outputs(run.graph, batch.clone().requires_grad_(True), observe=keep)
            output_loss(outputs, generator).backward()  # type: ignore[no-untyped-call]
        for name, value in kept.items():
            values[name].append(value.detach())
            if name in ends:
                slope = value.grad
                slopes[name].append(torch.zeros_like(value) if slope is None else slope)
    whole = {name: torch.cat(parts) for name, parts in values.items()}
    gradients = {name: torch.cat(parts) for name, parts in slopes.items()}
    return whole, whole, gradients


@dataclass(kw_only=True)
class _Search:
    """The grids of a graph, decided block by block."""

    run: Run
    quantized: QuantizedGraph
    ranges: Ranges
    statistics: Statistics
    softmax_shares: tuple[float, ...]

    def __post_init__(self) -> None:
        self.grids = GridChooser(self.run.graph, self._start)
        self.gemms = {gemm.name: gemm for gemm in self.run.gemms}

    def block(self, block: Block, value: Tensor, judge: BlockLoss) -> None:
        """Decide the layers of one block in order."""
        nodes = block_nodes(self.run.graph, block)
        values: dict[str, Any] = {block.input: value}
        for at, node in enumerate(nodes):
            gemm = self.gemms.get(node.name)
            if gemm is not None:
                self._decide(gemm, nodes[at:], values, judge)
            run_nodes(self.run.graph, (node,), values, gemm=self.quantized.compute)

    def _decide(
        self, gemm: Gemm, rest: tuple[Node, ...], values: dict[str, Any], judge: BlockLoss
    ) -> None:
        """Search the right grid (the weight), then the left one, at the block's output."""
        left, right = self.grids.proposed(gemm.left), self._right(gemm)

        def loss(left: Grid, right: Grid) -> float:
            product = _candidate(self, gemm, left, right)
            return judge(run_nodes(self.run.graph, rest, dict(values), gemm=product))

        right = best_grid(right, SHARES, lambda grid: loss(left, grid))
        if gemm.left not in self.grids:
            is_softmax = gemm.left.role is Role.SOFTMAX_OUT
            shares = self.softmax_shares if is_softmax else SHARES
            left = best_grid(left, shares, lambda grid: loss(grid, right))
        self.grids.keep(gemm.left, left)
        if gemm.weight is None:
            self.quantized.layers[gemm.name] = IntegerMatmul(left=left, right=right)
        else:
            weight, bias = self.run.graph.weight(gemm), self.run.graph.bias(gemm)
            self.quantized.layers[gemm.name] = integer_linear(left, right, weight, bias)

    def plain(self, gemm: Gemm) -> IntegerMatmul:
        """Return a product of two activations on the grids that a search would start from."""
        return IntegerMatmul(left=self.grids.grid(gemm.left), right=self.grids.grid(gemm.right))

    def _right(self, gemm: Gemm) -> Grid:
        if gemm.weight is None:
            return self.grids.proposed(gemm.right)
        weight, spec = self.run.graph.weight(gemm), self.run.placement.options[gemm.right.name][0]
        return UniformGrid.symmetric(spec, search_scale(weight, spec, None))

    def _start(self, site: Site) -> Grid:
        """Return the grid to start from: least squared error, or the full range of a softmax."""
        choices = MATTHEW if site.role is Role.SOFTMAX_OUT else CHOICES
        placement = self.run.placement
        return activation_grid(placement, site, self.ranges, self.statistics, choices)


def _candidate(
    search: _Search, decided: Gemm, left: Grid, right: Grid
) -> Callable[[Gemm, Tensor, Tensor | None], Tensor]:
    """Return the products of the rest of a block: one with candidate grids, the others in float32.

    Layers that read the same tensor get it rounded as well: they will share the grid.
    """
    graph = search.run.graph

    def product(gemm: Gemm, a: Tensor, b: Tensor | None) -> Tensor:
        if search.grids.share(gemm.left, decided.left):
            a = left.fake_quantize(a)
        if gemm.name != decided.name:
            return float_product(graph, gemm, a, b)
        if b is not None:
            return torch.matmul(a, right.fake_quantize(b))
        weight = right.fake_quantize(graph.weight(gemm))  # [out, in]
        return torch.nn.functional.linear(a, weight, graph.bias(gemm))

    return product


def best_grid(grid: Grid, shares: tuple[float, ...], loss: Callable[[Grid], float]) -> Grid:
    """Return the grid with the step among `shares` of its own, or between two, of least loss."""

    def at(share: float) -> Grid:
        return replace(grid, scale=grid.scale * share)

    losses = {share: loss(at(share)) for share in shares}
    best = min(losses, key=losses.__getitem__)
    place = shares.index(best)
    for other in (place - 1, place + 1):
        if 0 <= other < len(shares):
            between = (best + shares[other]) / 2
            losses[between] = loss(at(between))
    return at(min(losses, key=losses.__getitem__))


APQ_VIT = Method(
    name="apq-vit",
    summary="Steps judged at the block's output without the smallest errors, softmax unclipped",
    source="Ding et al., ACM MM 2022, arXiv 2303.14341",
    calibrate=calibrate,
    cost="3 forward passes, 1 backward pass, and every block about 70 times on 16 images",
    takes_long=True,
    order=70,
)
