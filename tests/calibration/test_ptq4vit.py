"""ptq4vit against the literal search: run the layer for every candidate of every operand."""

from dataclasses import dataclass

import pytest
import torch

from edgevit.calibration.fisher import sampled_loss
from edgevit.calibration.methods import METHODS
from edgevit.calibration.parallel import TWIN_MUST_SAVE
from edgevit.calibration.run import calibrate
from edgevit.graph.interpret import run_graph
from edgevit.graph.sites import Role
from edgevit.quantizers.simulation import IntegerLinear, float_product
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.twin import TwinGrid
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.registry import target_named

CANDIDATES, ROUNDS = 100, 3  # as the paper's authors have them
SHARES = [0.01 + 1.19 * i / CANDIDATES for i in range(CANDIDATES)]


@dataclass
class Product:
    """One product in float32: operands, output, and squared gradient of a drawn label's loss."""

    left: torch.Tensor
    right: torch.Tensor
    output: torch.Tensor
    importance: torch.Tensor

    def error(self, left, right):
        """The score of a pair of candidates: Fisher-weighted squared error of the output."""
        return float((self.importance * (left @ right - self.output).double().square()).sum())


def products_of(graph, images, seed):
    """Return gemm name -> its product, with the gradient that calibration draws."""
    kept = {}

    def keep(gemm, left, right):
        output = float_product(graph, gemm, left, right)
        output.retain_grad()
        if right is None:
            right = graph.constant(gemm.weight).T
        kept[gemm.name] = (left, right, output)
        return output

    logits = run_graph(graph, images.clone().requires_grad_(True), gemm=keep)
    sampled_loss(logits, torch.Generator().manual_seed(seed)).backward()
    return {
        name: Product(
            left=left.detach(),
            right=right.detach(),
            output=(left @ right).detach(),
            importance=output.grad.double().square(),
        )
        for name, (left, right, output) in kept.items()
    }


def uniform_candidates(spec, x):
    full = float(x.abs().max()) / (spec.qmax - (spec.fixed_zero_point or 0) + 0.5)
    return [UniformGrid.symmetric(spec, torch.tensor(share * full)) for share in SHARES]


def twin_candidates(spec, x):
    """Every ratio with a hundred steps each, so that the coarse region ends inside the range."""
    half = 1 << (spec.bits - 1)
    steps = [share * float(x.max()) / (half - 0.5) for share in SHARES]
    return [
        TwinGrid(spec=spec, scale=torch.tensor(step / 2**m), ratio_log2=m)
        for m in range(spec.max_ratio_log2 + 1)
        for step in steps
    ]


def literal_activation(options, x, score):
    """Return the best grid, a twin one only where it saves what a twin has to save."""
    uniform = [spec for spec in options if spec.kind == "uniform"]
    spec = next((s for s in uniform if s.symmetric), uniform[0])
    best = min(uniform_candidates(spec, x), key=lambda grid: score(grid.fake_quantize(x)))
    twin = next((s for s in options if s.kind.startswith("twin")), None)
    if twin is None:
        return best
    other = min(twin_candidates(twin, x), key=lambda grid: score(grid.fake_quantize(x)))
    scores = [score(grid.fake_quantize(x)) for grid in (best, other)]
    return other if scores[1] < TWIN_MUST_SAVE * scores[0] else best


def literal_weight(spec, weight, groups, score):
    """Return [out] scales: groups of rows in turn, the others as they are chosen so far."""
    top = torch.stack([part.abs().max() for part in weight.chunk(groups)]) / (spec.qmax + 0.5)
    chosen = top.clone()
    rows = weight.shape[0] // groups
    for group in range(groups):

        def trial(share, group=group):
            scales = chosen.clone()
            scales[group] = share * top[group]
            return scales

        def of(share):
            scales = trial(share).repeat_interleave(rows)
            return score(UniformGrid.symmetric(spec, scales).fake_quantize(weight).T)

        chosen = trial(min(SHARES, key=of))
    return chosen.repeat_interleave(rows)


def literal_linear(product, options_left, spec, groups, per_row):
    """Return (input grid, weight scales [out]) after the rounds of weight, input, weight ..."""
    weight, left = product.right.T.contiguous(), product.left
    for _ in range(ROUNDS):
        scales = literal_weight(
            spec,
            weight,
            weight.shape[0] if per_row else groups,
            lambda right, left=left: product.error(left, right),
        )
        rounded = UniformGrid.symmetric(spec, scales).fake_quantize(weight).T
        grid = literal_activation(
            options_left, product.left, lambda x, right=rounded: product.error(x, right)
        )
        left = grid.fake_quantize(product.left)
    return grid, scales


def literal_matmul(product, options_left, options_right):
    right = product.right
    for _ in range(ROUNDS):
        left_grid = literal_activation(
            options_left, product.left, lambda x, right=right: product.error(x, right)
        )
        left = left_grid.fake_quantize(product.left)
        right_grid = literal_activation(
            options_right, product.right, lambda x, left=left: product.error(left, x)
        )
        right = right_grid.fake_quantize(product.right)
    return left_grid, right_grid


def literal(quantized, gemm, product):
    """Return (left grid, right grid) of the literal search."""
    options = quantized.placement.options
    left, right = options[gemm.left.name], options[gemm.right.name]
    if gemm.weight is None:
        return literal_matmul(product, left, right)
    rows, columns = quantized.graph.constant(gemm.weight).shape
    groups = 3 if rows == 3 * columns else 1
    per_row = gemm.left.role is Role.PATCH_IN
    grid, scales = literal_linear(product, left, right[0], groups, per_row)
    return grid, UniformGrid.symmetric(right[0], scales)


def rounded(gemm, grid, x):
    return grid.fake_quantize(x) if gemm.weight is None else grid.fake_quantize(x.T).T


@pytest.mark.parametrize(("name", "bits"), [("vit", 4), ("vit", 6), ("swin", 4)])
def test_fast_search_finds_what_the_literal_search_of_a_whole_model_finds(
    name, bits, images, request
):
    graph = request.getfixturevalue(name)
    placement = target_named("simulation").place(graph, weight_bits=bits, act_bits=bits)
    quantized = calibrate(graph, placement, images, METHODS["ptq4vit"])
    products, ratios = products_of(quantized.graph, images, seed=0), {}
    for gemm in quantized.graph.gemms:
        layer, product = quantized.layers[gemm.name], products[gemm.name]
        is_linear = isinstance(layer, IntegerLinear)
        fast = (layer.grid, layer.weight_grid) if is_linear else (layer.left, layer.right)
        slow = literal(quantized, gemm, product)
        errors = [
            product.error(a.fake_quantize(product.left), rounded(gemm, b, product.right))
            for a, b in (fast, slow)
        ]
        ratios[gemm.module] = (errors[0] / errors[1]) ** 0.5
        steps = [
            float((f.scale / s.scale).log().mean().exp()) for f, s in zip(fast, slow, strict=True)
        ]
        print(f"{gemm.module:28s} {ratios[gemm.module]:.3f}", steps, type(fast[0]) is type(slow[0]))
    found = torch.tensor(list(ratios.values()))
    print(float(found.median()), float(found.max()))
