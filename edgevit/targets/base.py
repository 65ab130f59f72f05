"""The interface of a target: a capability table, the placement it allows, and a lowering."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from edgevit.graph.model import Graph
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.quantizers.spec import Placement
from edgevit.runner.engines.tensorrt.kernel_table import KernelTable
from edgevit.targets.onnx.builder import Array
from edgevit.targets.widths import NO_LAYER_BITS, LayerBits


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A graph in the form one device runs.

    Args:
        onnx: Serialized ONNX model without its large constants.
        tensors: The large constants by name.
        packed_bits: Large integer constant -> width of its codes.
        layers: One row per product: name, module, bits asked, grid, carrier, output, kernel.
        session_config: Settings the engine needs to run it as intended.
        kernels: The kernels of its engine, where one was compiled.
        unchecked: Why none was although one could have been, for the report; empty otherwise.
    """

    onnx: bytes
    tensors: dict[str, Array]
    packed_bits: dict[str, int] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    session_config: dict[str, str] = field(default_factory=dict)
    kernels: KernelTable | None = None
    unchecked: str = ""


class Target(Protocol):
    """A target, as every one provides it."""

    name: str
    description: str
    widths: tuple[int, ...]
    """Widths of codes it runs, in bits."""
    engine: str
    """Name of the engine that runs its bundles, see `edgevit.runner.engines`; manifests say it."""
    grids: tuple[str, ...]
    """Kinds of grid it runs exactly, in any form of the model; see `GridSpec.kind`."""
    precisions: tuple[str, ...]
    """What the device computes in, where that decides on forms of the model; else empty."""
    computed_bits: int
    """Width in bits in which it multiplies activations, however narrow their grids; 0 if in any."""
    seen_to_run: str
    """What of it has run, and on which hardware, in a few words."""

    def prepare(self, graph: Graph) -> Graph:
        """Return the graph in the form this target prefers, computing the same function."""

    def check_graph(self, graph: Graph) -> None:
        """Refuse a prepared graph that this target can't run in any precision.

        It is asked before anything is calibrated.

        Raises:
            UnsupportedError: Names the operator and its module (EV303, EV312, EV313, EV314, EV319,
                EV322).
        """

    def place(
        self,
        graph: Graph,
        *,
        weight_bits: int,
        act_bits: int,
        float_layers: tuple[str, ...] = (),
        layer_bits: LayerBits = NO_LAYER_BITS,
    ) -> Placement:
        """Return the grids this target runs exactly, site by site.

        Args:
            float_layers: Module paths of products, or of blocks of them, that stay in float.
            layer_bits: Module path of a product -> its own (weight bits, activation bits).

        Raises:
            UsageError: Widths or layers that can't be (EV201, EV211, EV212).
        """

    def variants(self, graph: Graph, placement: Placement) -> dict[str, Placement]:
        """Return further forms of the model for the device to measure: name -> its placement."""

    def same_integers(self, quantized: QuantizedGraph) -> dict[str, QuantizedGraph]:
        """Return forms that compute the very same integers in other types, by name.

        They are for devices of this target on which the engine does not compute the main one
        exactly.
        """

    def check_deployable(self) -> None:
        """Raise `UnsupportedError` if nothing can be deployed to this target."""

    def lower(self, quantized: QuantizedGraph) -> Lowered:
        """Return the quantized graph in this target's form, its kernels checked."""

    def with_kernels(self, lowered: Lowered, variant: str) -> Lowered:
        """Return what `lower` gave, with its kernels where a compiler can tell them here."""

    def reference(self, graph: Graph) -> Lowered:
        """Return the float32 graph in this target's form."""
