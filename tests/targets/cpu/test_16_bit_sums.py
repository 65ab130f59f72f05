"""No width and no grid of the cpu target lets two products leave 16 bits, in the form for that."""

import itertools

import pytest
import torch

from edgevit.calibration.statistics.histogram import Histogram
from edgevit.graph.model import Role
from edgevit.quantizers.codebook import CodebookGrid, level_spec
from edgevit.quantizers.quantized_graph import IntegerMatmul, QuantizedGraph
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.twin import TwinGrid
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.cpu.saturation import may_saturate, without_saturation
from edgevit.targets.cpu.target import CpuTarget

WIDTHS = range(2, 9)
LIMITS = -(1 << 15), (1 << 15) - 1


def widest(spec):
    """The grid of a specification whose operands reach as far as any can."""
    scale = torch.tensor(1.0)
    if spec.kind == "uniform":
        zero = spec.fixed_zero_point
        zero = torch.tensor(0 if zero is None else zero, dtype=torch.int32)
        return UniformGrid(spec=spec, scale=scale, zero_point=zero)
    if spec.kind == "codebook":
        within = level_spec(spec)
        inside = list(range(within.qmin + 1, within.qmin + (1 << spec.bits) - 1))
        levels = tuple(sorted({within.qmin, *inside, within.qmax}))
        zero = torch.tensor(0 if spec.signed else 128, dtype=torch.int32)
        return CodebookGrid(spec=spec, scale=scale, zero_point=zero, levels=levels)
    return TwinGrid(spec=spec, scale=scale, ratio_log2=spec.max_ratio_log2)


def extremes(grid):
    """The least and the largest 8-bit code the engine multiplies."""
    low, high = (int(end) for end in grid.operand_range)
    offset = int(grid.zero_point) if hasattr(grid, "zero_point") else grid.operand_offset
    return low + offset, high + offset


def sums_of_two(left, right):
    """Every sum of two products of extreme codes, the right ones as s8."""
    products = [a * b for a in extremes(left) for b in extremes(right)]
    return [a + b for a, b in itertools.product(products, products)]


def products_of(vit, bits):
    """Every pair of grids offered to a product of attention, at its widest."""
    placement = CpuTarget().place(vit, weight_bits=bits, act_bits=bits)
    for gemm in vit.gemms:
        if gemm.weight is None:
            sides = (placement.options[site.name] for site in (gemm.left, gemm.right))
            for left, right in itertools.product(*sides):
                yield gemm, placement, IntegerMatmul(left=widest(left), right=widest(right))


@pytest.mark.parametrize("bits", WIDTHS)
def test_what_may_saturate_is_known_for_every_grid_offered(vit, bits):
    kinds = set()
    for _, _, layer in products_of(vit, bits):
        sums = sums_of_two(layer.left, layer.right)
        kinds.add((layer.left.spec.kind, layer.right.spec.kind))
        assert may_saturate(layer) == (min(sums) < LIMITS[0] or max(sums) > LIMITS[1])
        assert may_saturate(layer) == (bits == 8)
    assert ("uniform", "uniform") in kinds
    assert (("codebook", "codebook") in kinds) == (bits < 8)


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_other_form_has_the_same_operands_and_no_s8(vit, bits):
    for gemm, placement, layer in products_of(vit, bits):
        quantized = QuantizedGraph(graph=vit, placement=placement, layers={gemm.name: layer})
        changed = without_saturation(quantized)
        if bits < 8:
            assert changed is None
            continue
        right, new = layer.right, changed.layers[gemm.name].right
        x = torch.linspace(-200, 200, 4001)
        assert torch.equal(right.operand(right.codes(x)), new.operand(new.codes(x)))
        assert (new.spec.carrier, may_saturate(changed.layers[gemm.name])) == ("u8", False)
        assert changed.placement.options[gemm.right.name] == (new.spec,)
        assert quantized.layers[gemm.name] is layer


@pytest.mark.parametrize("bits", WIDTHS)
def test_weights_never_pair_two_least_codes(vit, bits):
    """Arm without dot products can't add -128 x -128 twice; 7 bits are exact on x86-64 too."""
    placement = CpuTarget().place(vit, weight_bits=bits, act_bits=8)
    specs = [
        placement.options[gemm.right.name] for gemm in vit.gemms if gemm.right.role is Role.WEIGHT
    ]
    for (spec,) in specs:
        assert spec.qmin == max(-(1 << (bits - 1)), -127)
        assert bits == 8 or max(map(abs, sums_of_two(top_left(), widest(spec)))) <= -LIMITS[0]


def top_left():
    return widest(GridSpec(bits=8))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_levels_found_for_keys_stay_within_7_bits(bits):
    spec = GridSpec(kind="codebook", bits=bits, signed=True, symmetric=True, level_bits=7)
    histogram = Histogram(low=-3.0, high=5.0)
    histogram.add(torch.randn(4096, generator=torch.Generator().manual_seed(0)), None)
    levels = CodebookGrid.fit(spec, histogram).levels
    assert -64 <= levels[0] < levels[-1] <= 63
    with pytest.raises(ValueError, match="7-bit"):
        CodebookGrid(
            spec=spec, scale=torch.tensor(1.0), zero_point=torch.tensor(0), levels=(-65, 3)
        )
