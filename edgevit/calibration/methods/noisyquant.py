"""NoisyQuant: a fixed noise on a layer's input before it is rounded, taken back in its bias.

Source: Liu et al., "NoisyQuant: Noisy bias-enhanced post-training activation quantization for
vision transformers" (CVPR 2023, arXiv 2211.16056). With N ~ U(-n, n) drawn once, one value per
input channel, a layer computes ``Q(X + N) W^T + b - W N``: where values pile up near the edge of a
step their rounding error falls, elsewhere it rises, so noise is kept only where the layer's output
error falls on images that had no part in choosing it. As in the official code the noise may have
a constant part c, a fraction of a step.

Here the noise costs nothing at run time: it is added to the beta of the LayerNorm in front, where
that feeds linears alone. Behind a GELU, an attention or the image there is no such place on a
target whose zero points are integers; those layers are counted in the notes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgevit.calibration.methods.method import Method
from edgevit.calibration.methods.plain import MSE
from edgevit.calibration.methods.ptq4vit import PTQ4VIT
from edgevit.calibration.run import Calibrator, Run
from edgevit.graph.interpret import run_graph
from edgevit.graph.layernorm import LayerNormFeed, ln_of
from edgevit.graph.model import Gemm
from edgevit.quantizers.simulation import Grid, IntegerLinear, QuantizedGraph, float_product

DRAWS = 4
AMPLITUDES = tuple(at / 8 for at in range(1, 17))  # n in steps of the grid, up to 2
SHIFTS = (-0.4, -0.2, 0.2, 0.4)  # c in steps of the grid
MUST_SAVE = 0.01  # share of the output error, on held-out images
TOKENS = 2048  # of each half of the images


def noisy(base: Calibrator) -> Calibrator:
    """Return the calibrator that adds noise to what `base` has calibrated."""

    def calibrate(run: Run) -> QuantizedGraph:
        quantized = base(run)
        with torch.no_grad():
            _add_noise(run, quantized)
        return quantized

    return calibrate


def _add_noise(run: Run, quantized: QuantizedGraph) -> None:
    fed = list(_feeds(quantized))
    halves = _inputs(run, quantized, {gemms[0].name for _, gemms in fed})
    accepted = 0
    for done, (feed, gemms) in enumerate(fed, 1):
        layers = [_layer(quantized, gemm) for gemm in gemms]
        search, held_out = halves[gemms[0].name]
        noise = chosen_noise(layers, search, held_out, run.seed + done)
        if noise is not None:
            fold(quantized, feed, gemms, noise)
            accepted += 1
        run.progress("noise", done, len(fed))
    quantized.notes += _notes(quantized, fed, accepted)


def _feeds(quantized: QuantizedGraph) -> Iterator[tuple[LayerNormFeed, list[Gemm]]]:
    """Yield every LayerNorm that feeds only quantized linears of one grid, with those linears."""
    seen: set[str] = set()
    for gemm in quantized.graph.gemms:
        feed = ln_of(quantized.graph, gemm)
        if feed is None or feed.ln in seen:
            continue
        seen.add(feed.ln)
        gemms = [quantized.graph.gemm(name) for name in feed.linears]
        layers = [quantized.layers.get(gemm.name) for gemm in gemms]
        grids = [layer.grid for layer in layers if isinstance(layer, IntegerLinear)]
        if len(grids) == len(gemms) and all(_same(grid, grids[0]) for grid in grids):
            yield feed, gemms


def _same(a: Grid, b: Grid) -> bool:
    return a is b or a.to_dict() == b.to_dict()


def _layer(quantized: QuantizedGraph, gemm: Gemm) -> IntegerLinear:
    layer = quantized.layers[gemm.name]
    if not isinstance(layer, IntegerLinear):
        raise ValueError(f"{gemm.module}: not a linear in integers")
    return layer


def _inputs(
    run: Run, quantized: QuantizedGraph, names: set[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return gemm name -> its float32 inputs [T, in] of each half of the images, thinned out."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    images = len(run.images_at_once)

    def look(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        if gemm.name in names:
            first, second = left.tensor_split([len(left) // images * ((images + 1) // 2)])
            found[gemm.name] = (_thinned(first), _thinned(second))
        return float_product(quantized.graph, gemm, left, right)

    run_graph(quantized.graph, run.images_at_once, gemm=look)
    return found


def _thinned(x: Tensor) -> Tensor:
    """Return at most about `TOKENS` evenly spaced rows of x [..., in] as [T, in]."""
    rows = x.reshape(-1, x.shape[-1])
    return rows[:: max(1, len(rows) // TOKENS)].clone()


@dataclass(frozen=True, kw_only=True)
class Error:
    """The output error that rounding the input of some linears causes, per input sample.

    Args:
        grid: The input's grid.
        products: float32 [in, in], sum over the linears of W^T W with the rounded weights.
    """

    grid: Grid
    products: Tensor

    @staticmethod
    def of(layers: list[IntegerLinear]) -> Error:
        """Return the error of linears that read one tensor."""
        weights = [layer.weight_grid.dequantize(layer.weight_codes.int()) for layer in layers]
        return Error(grid=layers[0].grid, products=sum((w.T @ w for w in weights), torch.zeros(())))

    def __call__(self, x: Tensor, noise: Tensor) -> float:
        """Return the sum over tokens and outputs of ((Q(x + N) - N - x) W^T)^2, x [T, in]."""
        error = self.grid.fake_quantize(x + noise) - noise - x  # [T, in]
        return float(((error @ self.products) * error).sum())


def chosen_noise(
    layers: list[IntegerLinear], search: Tensor, held_out: Tensor, seed: int
) -> Tensor | None:
    """Return the noise [in] for linears that read one tensor, or None if none helps.

    Args:
        search: Inputs [T, in] that choose the noise.
        held_out: Inputs [T, in] that decide whether it stays.
        seed: Of the draws.
    """
    error = Error.of(layers)
    noise = _searched(error, search, seed)
    if len(held_out) == 0:
        return None
    plain = error(held_out, torch.zeros_like(noise))
    return noise if error(held_out, noise) < (1 - MUST_SAVE) * plain else None


def _searched(error: Error, x: Tensor, seed: int) -> Tensor:
    """Return the noise [in] with the least error: draw and amplitude first, then a shift."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(DRAWS, x.shape[1], generator=generator) * 2 - 1  # [draws, in], U(-1, 1)
    step = error.grid.unit
    candidates = [draw * (step * n) for draw in draws for n in AMPLITUDES]
    best = min(candidates, key=lambda noise: error(x, noise))
    shifted: list[Tensor] = [best, *(best + step * c for c in SHIFTS)]
    return min(shifted, key=lambda noise: error(x, noise))


def fold(quantized: QuantizedGraph, feed: LayerNormFeed, gemms: list[Gemm], noise: Tensor) -> None:
    """Add the noise [in] to the LayerNorm's beta and take it back in the linears' biases.

    The float32 graph computes what it did: its biases take W N. The integer layers take what
    their rounded weights make of the noise (B' = b - W N).
    """
    graph = quantized.graph
    graph.set_constant(feed.bias, graph.constant(feed.bias) + noise)
    for gemm in gemms:
        layer = _layer(quantized, gemm)
        rounded = layer.weight_grid.dequantize(layer.weight_codes.int())  # [out, in]
        quantized.layers[gemm.name] = replace(layer, bias=layer.bias - rounded @ noise)
        bias, weight = graph.constant(str(gemm.bias)), graph.constant(str(gemm.weight))
        graph.set_constant(str(gemm.bias), bias - weight @ noise)


def _notes(
    quantized: QuantizedGraph, fed: list[tuple[LayerNormFeed, list[Gemm]]], accepted: int
) -> list[str]:
    inside = {gemm.name for _, gemms in fed for gemm in gemms}
    outside = Counter(
        gemm.left.role.value
        for gemm in quantized.graph.gemms
        if gemm.weight is not None and gemm.name in quantized.layers and gemm.name not in inside
    )
    notes = [f"noise helps behind {accepted} of {len(fed)} LayerNorms and is left out elsewhere"]
    if outside:
        kinds = ", ".join(f"{count} {role}" for role, count in sorted(outside.items()))
        notes.append(
            f"{sum(outside.values())} linears have no LayerNorm in front that could carry the "
            f"noise at no cost ({kinds}): none is added there"
        )
    return notes


_SOURCE = "Liu et al., CVPR 2023, arXiv 2211.16056"
NOISYQUANT = Method(
    name="noisyquant",
    summary="A fixed noise before rounding, folded into LayerNorms, on the grids of mse",
    source=_SOURCE,
    calibrate=noisy(MSE.calibrate),
    cost="3 forward passes",
)
NOISYQUANT_PTQ4VIT = Method(
    name="noisyquant+ptq4vit",
    summary="A fixed noise before rounding, folded into LayerNorms, on the grids of ptq4vit",
    source=f"{_SOURCE}, and arXiv 2111.12293",
    calibrate=noisy(PTQ4VIT.calibrate),
    cost="3 forward passes, 1 backward pass",
    needs=PTQ4VIT.needs,
)
