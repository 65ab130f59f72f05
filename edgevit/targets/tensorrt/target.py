"""The TensorRT targets: one class, one capability table each (see profiles.py beside it).

One file serves TensorRT 10.3 to 11.4: opset 20, strongly typed, explicit Q/DQ. What such a graph
computes can be checked with ONNX Runtime on the CPU; which kernels TensorRT picks is known only
after the engine was built on the device.
"""

from __future__ import annotations

from typing import Any

from edgevit.errors import UnsupportedError
from edgevit.graph.cut_heads import with_cut_heads
from edgevit.graph.model import Graph
from edgevit.quantizers.float8 import Float8Grid
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.quantizers.spec import MAX_BITS, MIN_BITS, Placement
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.base import Lowered
from edgevit.targets.layer_rows import layer_rows
from edgevit.targets.onnx.builder import OnnxBuilder, whole_model
from edgevit.targets.onnx.lowering import lower_graph
from edgevit.targets.onnx.reference import check_written, float_reference
from edgevit.targets.onnx.row_gather import with_rows_before_norms
from edgevit.targets.tensorrt.compiling import with_kernels
from edgevit.targets.tensorrt.conformance import BuildFacts, Conformance, check_onnx
from edgevit.targets.tensorrt.fp16 import to_half_body
from edgevit.targets.tensorrt.operators import refuse_operators
from edgevit.targets.tensorrt.placement import UNPLACED, main_placement, variant_placements
from edgevit.targets.tensorrt.products import QdqWriter
from edgevit.targets.tensorrt.profiles import PROFILES, DeviceProfile
from edgevit.targets.widths import NO_LAYER_BITS, LayerBits


class TensorRTTarget:
    """A device that runs TensorRT engines.

    Args:
        profile: Its capability table.
    """

    widths = tuple(range(MIN_BITS, MAX_BITS + 1))
    computed_bits = MAX_BITS
    seen_to_run = "not yet on hardware; the graph ran in ONNX Runtime"

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        float8 = Float8Grid.kinds if profile.runs("fp8") else ()
        self.grids: tuple[str, ...] = (*UniformGrid.kinds, *float8)
        self.name, self.description = profile.name, profile.description
        self.precisions, self.engine = profile.precisions, profile.engine

    def prepare(self, graph: Graph) -> Graph:
        """Return the graph: a fused q, k, v projection is one product, the best there is."""
        return graph

    def check_graph(self, graph: Graph) -> None:
        """Write it in float32 once, and look for what TensorRT has no layer for."""
        written = float_reference(graph)
        refuse_operators(graph, written, self.profile)
        check_written(graph, written)

    def place(
        self,
        graph: Graph,
        *,
        weight_bits: int,
        act_bits: int,
        float_layers: tuple[str, ...] = (),
        layer_bits: LayerBits = NO_LAYER_BITS,
    ) -> Placement:
        """Offer symmetric grids for the linears of the blocks; the rest is float16."""
        return main_placement(
            self.profile,
            graph,
            weight_bits=weight_bits,
            act_bits=act_bits,
            float_layers=float_layers,
            layer_bits=layer_bits,
        )

    def variants(self, graph: Graph, placement: Placement) -> dict[str, Placement]:
        """Return the other forms of the model that the device should measure."""
        return variant_placements(self.profile, graph, placement)

    def same_integers(self, quantized: QuantizedGraph) -> dict[str, QuantizedGraph]:
        """Return none: one is enough."""
        return {}

    def check_deployable(self) -> None:
        """Do nothing: the file can be written anywhere."""

    def lower(self, quantized: QuantizedGraph) -> Lowered:
        """Write the strongly typed model, and hold it against the rules of the device.

        Raises:
            UnsupportedError: It breaks a rule of level E (EV311).
        """
        builder, writer = write_model(quantized)
        skeleton = builder.model(quantized.graph.input_size)
        model = whole_model(skeleton, builder.tensors)
        refuse_faults(
            check_onnx(model, self.profile, facts=BuildFacts(asked=precision_of(quantized)))
        )
        return Lowered(
            onnx=skeleton,
            tensors=builder.tensors,
            packed_bits=builder.packed_bits,
            layers=layer_rows(
                quantized,
                kernels=dict.fromkeys(writer.probes, "Q/DQ"),  # TensorRT picks them on the device
                tensors={name: probes.output for name, probes in writer.probes.items()},
                in_float=lambda name: _in_float(name in quantized.float32_nodes),
                unplaced=UNPLACED,
            ),
        )

    def with_kernels(self, lowered: Lowered, variant: str) -> Lowered:
        """Compile it with TensorRT for RTX, if that is here and knows the device's generation.

        Raises:
            DeviceError: It is the device's own compiler and makes no engine of it (EV752, EV753).
        """
        return with_kernels(lowered, self.profile, variant)

    def reference(self, graph: Graph) -> Lowered:
        """Write the float32 model."""
        return float_reference(graph)


TARGETS = tuple(
    TensorRTTarget(profile) for profile in PROFILES.values() if profile.engine == "tensorrt"
)


def precision_of(quantized: QuantizedGraph) -> str:
    """Return what the engine is meant to compute in: "fp16", "int8" or "fp8"."""
    if not quantized.layers:
        return "fp16"
    in_integers = all(layer.has_integer_sums for layer in quantized.layers.values())
    return "int8" if in_integers else "fp8"


def refuse_faults(found: Conformance) -> None:
    """Refuse a graph that the device would not build, or would compute wrongly.

    Raises:
        UnsupportedError: There are findings of level E (EV311).
    """
    if found.conforms:
        return
    first = found.errors[0]
    raise UnsupportedError(
        "EV311",
        f"The graph breaks {len(found.errors)} rules of {found.target}.",
        where=first.node,
        why=f"rule {first.rule}: {first.message}",
        try_next=first.remedy,
    )


def write_model(quantized: QuantizedGraph) -> tuple[OnnxBuilder, QdqWriter]:
    """Return the finished model under construction, and its writer with the probes of products."""
    writer = QdqWriter(layers=quantized.layers, wide=quantized.float32_nodes)
    graph = with_cut_heads(quantized.graph, apart=quantized.float32_nodes)
    builder = lower_graph(with_rows_before_norms(graph), writer)
    wide = quantized.float32_nodes | writer.float32_names
    to_half_body(builder, wide=wide)
    return builder, writer


def _in_float(wide: bool) -> dict[str, Any]:
    return {"kernel": f"float{32 if wide else 16}", "float_bits": 32 if wide else 16}
