"""Every layer's grids at every width, each layer looked at on its own.

They are those of ``edgevit`` before it goes from layer to layer: LayerNorms reparameterised, heads
brought to one range, activation grids by Fisher-weighted histograms, weight steps on the Gram
matrix. One forward and backward pass serves all widths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from edgevit.calibration.rewrites.rounding import rounding_loss
from edgevit.calibration.run import Run
from edgevit.calibration.search import activation_grids
from edgevit.calibration.search.parallel import SearchChoices, activation_grid, rewritten
from edgevit.calibration.search.shared_grids import GridChooser
from edgevit.calibration.search.weight_scales import search_scale
from edgevit.calibration.statistics.fisher import Statistics
from edgevit.calibration.statistics.ranges import Ranges
from edgevit.graph.model import Gemm, Graph, Site
from edgevit.quantizers.quantized_graph import Grid, IntegerMatmul, QuantizedGraph, integer_linear
from edgevit.quantizers.spec import Placement
from edgevit.quantizers.uniform import UniformGrid

CHOICES = SearchChoices(activations="fisher", weights="gram", twin=True, fold_layernorms=True)
LayerBits = Mapping[str, tuple[int, int]]
Place = Callable[[LayerBits], Placement]
"""Module path -> (weight bits, activation bits) of some layers; the target's placement."""


@dataclass(kw_only=True)
class Candidates:
    """The grids of all layers at all widths, and how much each of them loses.

    Args:
        run: Its graph has been rewritten.
        placements: Width -> what the target offers when every layer has it.
        ranges, statistics: Of the run's images.
    """

    run: Run
    placements: dict[int, Placement]
    ranges: Ranges
    statistics: Statistics
    _weights: dict[tuple[str, int], UniformGrid] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._grids = {
            bits: GridChooser(self.graph, self._choose(bits)) for bits in self.placements
        }

    def _choose(self, bits: int) -> Callable[[Site], Grid]:
        placement = self.placements[bits]
        return lambda site: activation_grid(placement, site, self.ranges, self.statistics, CHOICES)

    @property
    def graph(self) -> Graph:
        """The rewritten graph."""
        return self.run.graph

    @property
    def gemms(self) -> list[Gemm]:
        """The products that get grids."""
        return self.run.gemms

    def grid(self, site: Site, bits: int) -> Grid:
        """Return the grid of an activation."""
        return self._grids[bits].grid(site)

    def weight_grid(self, gemm: Gemm, bits: int) -> UniformGrid:
        """Return the grid of a weight."""
        key = gemm.name, bits
        if key not in self._weights:
            spec = self.placements[bits].options[gemm.right.name][0]
            weight, gram = self.graph.weight(gemm), self.statistics.grams[gemm.name]
            scale = search_scale(weight, spec, gram)
            self._weights[key] = UniformGrid.symmetric(spec, scale)
        return self._weights[key]

    def activation_loss(self, site: Site, bits: int) -> float:
        """Return half the Fisher-weighted squared output error that rounding a tensor causes."""
        return activation_grids.error(
            self.grid(site, bits), self.statistics.histograms[site.name]
        ) / (2 * len(self.run.images))

    def weight_loss(self, gemm: Gemm, bits: int) -> float:
        """Return the same for a weight.

        With the importance of an output element taken as its token's times its channel's (over
        their sum), the error of row r is ``b_r / sum(b) * d_r G d_r^T`` (G weighted by tokens).
        """
        grid, gram = self.weight_grid(gemm, bits), self.statistics.grams[gemm.name]
        rows = self.statistics.rows[gemm.name]  # [out]
        weight = self.graph.weight(gemm)
        errors = rounding_loss(weight, grid.fake_quantize(weight), gram)  # [out]
        return float(errors @ rows / rows.sum().clamp_min(1e-30)) / (2 * len(self.run.images))

    @torch.no_grad()
    def quantized(self, bits: LayerBits) -> QuantizedGraph:
        """Return the graph with these widths: gemm name -> (weight bits, activation bits)."""
        made = self.run.quantized()
        for gemm in self.gemms:
            weight_bits, act_bits = bits[gemm.name]
            left = self.grid(gemm.left, act_bits)
            if gemm.weight is None:
                right = self.grid(gemm.right, act_bits)
                made.layers[gemm.name] = IntegerMatmul(left=left, right=right)
            else:
                grid = self.weight_grid(gemm, weight_bits)
                weight, bias = self.graph.weight(gemm), self.graph.bias(gemm)
                made.layers[gemm.name] = integer_linear(left, grid, weight, bias)
        return made


def candidates(run: Run, place: Place, widths: tuple[int, ...]) -> Candidates:
    """Rewrite the run's graph and take the statistics that all widths share."""
    ranges = rewritten(run, CHOICES)
    modules = [gemm.module for gemm in run.graph.gemms]
    return Candidates(
        run=run,
        placements={b: place(dict.fromkeys(modules, (b, b))) for b in widths},
        ranges=ranges,
        statistics=run.statistics(ranges, weighted=True),
    )
