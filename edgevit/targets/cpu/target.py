"""The `cpu` target: ONNX Runtime on x86-64 or Arm, 8-bit integer kernels.

What it runs exactly: linears with u8 activations (any zero point, per tensor) and s8 weights
(symmetric, per output channel), products of two activations, of attention or not, with a u8 left
and an s8 right operand; one of the two may be a constant, whose codes are stored as weights are.
Codes of k < 8 bits are carried in those 8-bit types. Softmax, GELU, LayerNorm and the residual
stream stay in float32, where the engine is fastest.
"""

from __future__ import annotations

from dataclasses import replace

from edgevit.bundle.manifest import EXACT_VARIANT
from edgevit.graph.model import Gemm, Graph
from edgevit.graph.sites import Role
from edgevit.quantizers.codebook import FINE_BITS, CodebookGrid
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.quantizers.spec import MAX_BITS, MIN_BITS, GridSpec, Kind, Placement
from edgevit.quantizers.twin import FINE_IS_NEGATIVE, TWINS, TwinGrid, largest_ratio_log2
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.base import Lowered
from edgevit.targets.cpu.float_parts import engine_parts
from edgevit.targets.cpu.kernels import check_kernels, kernels_of
from edgevit.targets.cpu.products import QuantizedWriter
from edgevit.targets.cpu.saturation import without_saturation
from edgevit.targets.cpu.split_linear import with_split_linears
from edgevit.targets.divided import SELF_DIVIDED, self_divided
from edgevit.targets.layer_rows import Unplaced, layer_rows
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.onnx.lowering import lower_graph
from edgevit.targets.onnx.reference import check_written, float_reference
from edgevit.targets.twins import missing_twin
from edgevit.targets.widths import (
    NO_LAYER_BITS,
    LayerBits,
    is_asked_in_float,
    refuse_unmatched,
    widths_of,
)

IMAGE_BITS = 8  # the picture itself has 8 bits a channel
CONV_CHANNELS = 24
"""In and out, from which on a convolution is faster in integers; see docs/log.md."""
EXACT_IN_S8 = 7  # bits; wider s8 operands may saturate there


class CpuTarget:
    """ONNX Runtime's CPU provider."""

    name = "cpu"
    widths = tuple(range(MIN_BITS, MAX_BITS + 1))
    engine = "onnxruntime"
    grids: tuple[str, ...] = (*UniformGrid.kinds, *TwinGrid.kinds, *CodebookGrid.kinds)
    precisions: tuple[str, ...] = ()
    computed_bits = MAX_BITS
    seen_to_run = "ran on x86-64 in every test, on Arm in emulation"
    description = "ONNX Runtime on this kind of processor, 8-bit integer kernels"

    def prepare(self, graph: Graph) -> Graph:
        """Split fused q, k, v projections: three products are faster than cutting one apart."""
        return with_split_linears(graph)

    def check_graph(self, graph: Graph) -> None:
        """Write it in float32 once: whatever has no form in ONNX is refused here."""
        check_written(graph, float_reference(graph))

    def place(
        self,
        graph: Graph,
        *,
        weight_bits: int,
        act_bits: int,
        float_layers: tuple[str, ...] = (),
        layer_bits: LayerBits = NO_LAYER_BITS,
    ) -> Placement:
        """Offer grids for every product that is not asked to stay in float."""
        widths = widths_of(graph, weight_bits=weight_bits, act_bits=act_bits, layer_bits=layer_bits)
        refuse_unmatched(graph, float_layers)
        placement = Placement(
            target=self.name,
            weight_bits=weight_bits,
            act_bits=act_bits,
            float_parts=engine_parts,
        )
        divided = self_divided(graph)
        for gemm in graph.gemms:
            reason = _left_in_float(graph, gemm, float_layers, divided)
            for site in (gemm.left, gemm.right):
                if reason:
                    placement.skipped[site.name] = reason
                else:
                    placement.options[site.name] = _options(gemm, site.role, *widths[gemm.name])
            if not reason:
                bits, offered = widths[gemm.name][1], placement.options[gemm.left.name]
                why = f"they need more than 8 bits at {bits}-bit codes"
                placement.missing |= missing_twin(gemm.left, bits, offered, why)
        return placement

    def variants(self, graph: Graph, placement: Placement) -> dict[str, Placement]:
        """Return none: there is one form."""
        return {}

    def same_integers(self, quantized: QuantizedGraph) -> dict[str, QuantizedGraph]:
        """Return the form for processors on which the main one is not exact."""
        unsigned = without_saturation(quantized)
        return {} if unsigned is None else {EXACT_VARIANT: unsigned}

    def check_deployable(self) -> None:
        """Do nothing: this machine is such a device."""

    def lower(self, quantized: QuantizedGraph) -> Lowered:
        """Write the model and make sure that every quantized product gets an integer kernel."""
        writer = QuantizedWriter(layers=quantized.integer_layers)
        builder = lower_graph(quantized.graph, writer)
        skeleton = builder.model(quantized.graph.input_size)
        kernels = kernels_of(whole_model(skeleton, builder.tensors))
        outputs = {name: probes.output for name, probes in writer.probes.items()}
        return Lowered(
            onnx=skeleton,
            tensors=builder.tensors,
            packed_bits=builder.packed_bits,
            layers=layer_rows(
                quantized,
                kernels=check_kernels(outputs, kernels),
                tensors=outputs,
                in_float=lambda name: {"kernel": "float32"},
                unplaced=_UNPLACED,
            ),
        )

    def with_kernels(self, lowered: Lowered, variant: str) -> Lowered:
        """Return it as it is: `lower` has checked the kernels of this machine."""
        return lowered

    def reference(self, graph: Graph) -> Lowered:
        """Write the float32 model."""
        return float_reference(graph)


TARGETS = (CpuTarget(),)
_UNPLACED: dict[Unplaced, str] = {
    "depthwise": "a depthwise convolution: float is faster here",
    "grouped": "a convolution in groups: float is faster here",
    "transposed": "a transposed convolution has no integer kernel here",
    "computed": "its weight is computed: there is no integer kernel here",
}


def _left_in_float(
    graph: Graph, gemm: Gemm, float_layers: tuple[str, ...], divided: set[str]
) -> str:
    if is_asked_in_float(gemm.module, float_layers):
        return "asked for in the recipe"
    if gemm.window is not None and min(graph.constant(str(gemm.weight)).shape[:2]) < CONV_CHANNELS:
        return f"a convolution with fewer than {CONV_CHANNELS} channels: float is faster here"
    return SELF_DIVIDED if gemm.name in divided else ""


def _options(gemm: Gemm, role: Role, weight_bits: int, act_bits: int) -> tuple[GridSpec, ...]:
    """Return the grids this target runs exactly at a site of this role, preferred first."""
    if role is Role.WEIGHT:
        return (_weight(weight_bits),)
    bits = IMAGE_BITS if role is Role.PATCH_IN else act_bits
    uniform: tuple[GridSpec, ...] = (GridSpec(bits=bits), GridSpec(bits=bits, symmetric=True))
    if role in {Role.KEY, Role.VALUE, Role.FACTOR}:
        uniform = (GridSpec(bits=bits, signed=True, symmetric=True),)
    elif role is Role.QUERY:
        uniform = (GridSpec(bits=bits, symmetric=True),)
    elif role is Role.SOFTMAX_OUT:
        uniform = (GridSpec(bits=bits, zero_at_bottom=True),)
    twin = _twin(TWINS[role], bits) if role in TWINS else None
    return uniform + _offer(twin) + _offer(_codebook(uniform[0]))


def _weight(bits: int) -> GridSpec:
    """Return the weights' grid; -128 is left out: Arm's sums without dot products can't take it."""
    widest = bits == MAX_BITS
    return GridSpec(bits=bits, signed=True, symmetric=True, granularity="channel", narrow=widest)


def _codebook(uniform: GridSpec) -> GridSpec | None:
    """Return a codebook of the same width, None at 8 bits, where the grid is as fine."""
    if uniform.bits == FINE_BITS:
        return None
    level_bits = EXACT_IN_S8 if uniform.signed else FINE_BITS
    return replace(uniform, kind=CodebookGrid.kinds[0], level_bits=level_bits)


def _offer(spec: GridSpec | None) -> tuple[GridSpec, ...]:
    return () if spec is None else (spec,)


def _twin(kind: Kind, bits: int) -> GridSpec | None:
    """Return the twin grid if its operands fit u8 with a ratio worth having, else None.

    GELU: the positive range in units of the negative one is at most (1 - 2^(1-k)) 2^m, which
    covers real activations only up to 4 bits. Softmax at 8 bits: 2^1, no better than uniform.
    """
    ratio = largest_ratio_log2(kind, bits)
    enough = bits <= 4 if FINE_IS_NEGATIVE[kind] else bits < 8
    return GridSpec(kind=kind, bits=bits, max_ratio_log2=ratio) if enough and ratio > 0 else None
