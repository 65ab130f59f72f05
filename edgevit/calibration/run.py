"""One calibration run: what a method is given, and the passes over the images it may ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from edgevit.calibration.rewrites.fp16 import with_half_body
from edgevit.calibration.statistics.fisher import Statistics, collect
from edgevit.calibration.statistics.ranges import (
    Ranges,
    images_per_batch,
    images_whose_patches_fit,
    observe_ranges,
)
from edgevit.graph.model import Gemm, Graph
from edgevit.progress import Progress, no_progress
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.quantizers.spec import Placement

MEMORY_BYTES = 1_500_000_000
"""What one streamed batch's activations may take; peak memory is about twice that."""


@dataclass(kw_only=True)
class Run:
    """The state of one calibration.

    Args:
        graph: A copy that belongs to this run: methods rewrite it.
        placement: The grids the target offers.
        images: float32 [N, 3, H, W], normalised as the model wants them.
        seed: Seed of everything drawn at random.
        memory_bytes: Bound on the activations kept at one time.
        progress: Called with (stage, done, total).
        checkpoint: Folder in which a long method keeps what it has done; None to keep nothing.
    """

    graph: Graph
    placement: Placement
    images: Tensor
    seed: int = 0
    memory_bytes: int = MEMORY_BYTES
    progress: Progress = no_progress
    checkpoint: Path | None = None

    @cached_property
    def batch_size(self) -> int:
        """Images per streamed batch."""
        return images_per_batch(self.graph, self.images[:1], self.memory_bytes // 3)

    @property
    def sites(self) -> set[str]:
        """Names of the sites that will be quantized."""
        return set(self.placement.options)

    @property
    def gemms(self) -> list[Gemm]:
        """The products that will be quantized: both of their operands have a grid on offer."""
        sites = self.sites
        return [g for g in self.graph.gemms if {g.left.name, g.right.name} <= sites]

    @cached_property
    def images_at_once(self) -> Tensor:
        """The images of a pass that holds all of them, but only a few tensors, at a time."""
        most = max(32, min(64, self.batch_size))
        return self.images[: min(most, images_whose_patches_fit(self.graph, self.memory_bytes))]

    def observe(self) -> Ranges:
        """Return the range of every operand of every product in float32 (one forward pass)."""
        return observe_ranges(self.graph, self.images, self.batch_size, self.progress)

    def statistics(self, ranges: Ranges, *, weighted: bool, grams: bool = True) -> Statistics:
        """Return histograms and Gram matrices of the sites in `ranges`.

        Args:
            weighted: Weight by Fisher information (needs a backward pass), else count evenly.
            grams: Make the Gram matrices.
        """
        return collect(
            self.graph,
            self.images,
            ranges,
            batch_size=self.batch_size,
            seed=self.seed,
            weighted=weighted,
            progress=self.progress,
            grams=grams,
        )

    def quantized(self) -> QuantizedGraph:
        """Return the graph with no layer quantized yet."""
        notes = list(self.placement.notes)
        return QuantizedGraph(graph=self.graph, placement=self.placement, notes=notes)


Calibrator = Callable[[Run], QuantizedGraph]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One calibration method.

    Args:
        name: As given to ``--method``.
        summary: One line for tables.
        source: Paper, or what it is.
        calibrate: From a `Run` to the quantized graph.
        num_images: Calibration images unless the user says otherwise.
        cost: What it costs, in words: passes over the images.
        takes_long: Whether it runs layers or blocks many times over, for many minutes.
        needs: What a target must offer beyond uniform grids, in words; empty for nothing.
        order: Place in tables: smallest first, by name where it is the same.
    """

    name: str
    summary: str
    source: str
    calibrate: Calibrator
    num_images: int = 32
    cost: str = "2 forward passes"
    takes_long: bool = False
    needs: str = ""
    order: int = 1000


def calibrate(
    graph: Graph,
    placement: Placement,
    images: Tensor,
    method: Method,
    *,
    seed: int = 0,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress = no_progress,
    checkpoint: Path | None = None,
) -> QuantizedGraph:
    """Return the quantized graph; `graph` itself is left as it was. Arguments as in `Run`.

    Where the target's body is float16, scales and constants of the result are float16 numbers.
    """
    run = Run(
        graph=graph.clone(),
        placement=placement,
        images=images,
        seed=seed,
        memory_bytes=memory_bytes,
        progress=progress,
        checkpoint=checkpoint,
    )
    quantized = method.calibrate(run)
    quantized.notes += _few_images_note(run)
    if placement.float_type == "float16":
        quantized = with_half_body(quantized, run.images, run.batch_size, progress)
    return quantized


def _few_images_note(run: Run) -> list[str]:
    """Return a note for the report if a pass over all images at once had to do with fewer."""
    seen = vars(run).get("images_at_once")  # there once it was asked for
    if seen is None or len(seen) == len(run.images):
        return []
    fitted = f"layers were fitted on the first {len(seen)} of {len(run.images)} images"
    return [f"{fitted}, which is what is held in memory at once; ranges saw all of them"]
