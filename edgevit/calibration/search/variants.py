"""Further variants of a calibrated graph: other grids for the same layers, chosen one by one.

A device may run a model in several forms (all float16, attention in integers as well, 8-bit
floating point) and only measuring there tells which is fastest. They share the graph and its
rewrites with the calibrated main form; what a variant has in addition is calibrated here with plain
means: integer grids of least squared error, floating point grids that cover everything seen
(max calibration, as in Micikevicius et al., arXiv 2209.05433, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgevit.calibration.rewrites.fp16 import scale_shift
from edgevit.calibration.run import Run
from edgevit.calibration.search.activation_grids import search_grid
from edgevit.calibration.search.shared_grids import GridChooser
from edgevit.calibration.statistics.fisher import Statistics
from edgevit.calibration.statistics.histogram import Histogram
from edgevit.calibration.statistics.ranges import Ranges
from edgevit.graph.model import Gemm, Site
from edgevit.quantizers.base import grid_class
from edgevit.quantizers.float8 import Float8Linear
from edgevit.quantizers.quantized_graph import Grid, Layer, QuantizedGraph, matmul_layer
from edgevit.quantizers.spec import Placement


def calibrate_variant(quantized: QuantizedGraph, placement: Placement, run: Run) -> QuantizedGraph:
    """Return the main form with the grids of another placement.

    Args:
        quantized: The main form, its body already in the target's float type.
        placement: What the target offers for the variant. Where it is what the main form has, the
            calibrated layer is kept.
        run: The images; its graph is the main form's.
    """
    made = QuantizedGraph(
        graph=quantized.graph,
        placement=placement,
        notes=list(quantized.notes),
        float32_nodes=quantized.float32_nodes,
        scale_shift=quantized.scale_shift,
    )
    open_gemms = []
    for gemm in quantized.graph.gemms:
        if _same(placement, quantized.placement, gemm) and gemm.name in quantized.layers:
            made.layers[gemm.name] = quantized.layers[gemm.name]
        elif gemm.left.name in placement.options:
            open_gemms.append(gemm)
    if open_gemms:
        _calibrate(made, open_gemms, run)
    return made


def _same(placement: Placement, main: Placement, gemm: Gemm) -> bool:
    names = (gemm.left.name, gemm.right.name)
    return all(
        name in main.options and placement.options.get(name) == main.options[name] for name in names
    )


@torch.no_grad()
def _calibrate(made: QuantizedGraph, gemms: list[Gemm], run: Run) -> None:
    """Fill in the layers of these gemms from one more look at the images."""
    wanted = {site.name for gemm in gemms for site in (gemm.left, gemm.right)}
    ranges = {name: value for name, value in run.observe().items() if name in wanted}
    statistics = Statistics()
    if any(grid_class(made.placement.options[name][0].kind).needs_histogram for name in wanted):
        statistics = run.statistics(ranges, weighted=False)
    chooser = _Chooser(made=made, ranges=ranges, statistics=statistics)
    found = {gemm.name: chooser.layer(gemm) for gemm in gemms}
    layers = {name: layer.in_float16() for name, layer in found.items()}
    made.layers |= layers
    made.scale_shift = max(made.scale_shift or 0.0, scale_shift(found, layers))


@dataclass(kw_only=True)
class _Chooser:
    """Chooses the grids of a variant, one per tensor."""

    made: QuantizedGraph
    ranges: Ranges
    statistics: Statistics

    def __post_init__(self) -> None:
        self._grids: GridChooser[Grid] = GridChooser(self.made.graph, self._grid)

    def layer(self, gemm: Gemm) -> Layer:
        """Return a product on the grids offered, its scales still as they were found.

        Raises:
            ValueError: The two operands are offered grids that no product joins.
        """
        left = self._grids.grid(gemm.left)
        if gemm.weight is not None:
            return self._linear(gemm, left)
        right = self._grids.grid(gemm.right)
        if left.spec.kind != right.spec.kind:
            raise ValueError(f"{gemm.module}: no product of {left} and {right}")
        return matmul_layer(left, right)

    def _linear(self, gemm: Gemm, left: Grid) -> Float8Linear:
        """Return a linear on grids that cover everything; those of integers are the main form's."""
        if left.has_integer_sums:
            raise ValueError(f"{gemm.module}: a variant has no weights in integers of its own")
        weight, bias = self.made.graph.weight(gemm), self.made.graph.bias(gemm)
        spec = self.made.placement.options[gemm.right.name][0]
        seen = Histogram(low=float(weight.amin()), high=float(weight.amax()))
        grid = search_grid(spec, seen)
        return Float8Linear(grid=left, weight_grid=grid, weight=weight, bias=bias)

    def _grid(self, site: Site) -> Grid:
        spec, seen = self.made.placement.options[site.name][0], self.ranges[site.name]
        ends = Histogram(low=float(seen.low.min()), high=float(seen.high.max()))
        return search_grid(spec, self.statistics.histograms.get(site.name, ends))
