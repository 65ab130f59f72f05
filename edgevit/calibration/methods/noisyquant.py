"""NoisyQuant: a fixed noise on a layer's input before it is rounded, taken back in its bias.

Source: Liu et al., "NoisyQuant: Noisy bias-enhanced post-training activation quantization for
vision transformers" (CVPR 2023, arXiv 2211.16056). With N ~ U(-n, n) drawn once, one value per
input channel, a layer computes ``Q(X + N) W^T + b - W N``: where values pile up near the edge of a
step their rounding error falls, elsewhere it rises, so noise is kept only where the layer's output
error falls on images that had no part in choosing it. As in the official code the noise may have
a constant part c, a fraction of a step.

Where a LayerNorm in front feeds linears alone its beta takes the noise, which costs nothing at run
time. Behind a GELU, an attention or the image it is an addition in front of the rounding, which
has to save as much as anything else that takes more operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgevit.calibration.methods.plain import MSE
from edgevit.calibration.methods.ptq4vit import PTQ4VIT
from edgevit.calibration.rewrites.noise_places import Place, add_noise, linear_in_integers, places
from edgevit.calibration.run import Calibrator, Method, Run
from edgevit.calibration.search.parallel import OPERATORS_MUST_SAVE
from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Gemm
from edgevit.quantizers.quantized_graph import Grid, IntegerLinear, QuantizedGraph, float_product

DRAWS = 4
AMPLITUDES = tuple(at / 8 for at in range(1, 17))  # n in steps of the grid
SHIFTS = tuple(at / 10 for at in range(-15, 16))  # c in steps of the grid
NEAR = (-0.4, -0.2, 0.0, 0.2, 0.4)  # what is tried around it when n is known
FREE_MUST_SAVE = 0.01  # share of the output error on held-out images, in a LayerNorm's beta
TOKENS = 2048  # of each half of the images
SEARCHED_TOKENS = 512  # of those of the half that chooses


def noisy(base: Calibrator, *, additions: bool = True) -> Calibrator:
    """Return the calibrator that adds noise to what `base` has calibrated.

    Args:
        additions: Whether it may add operators; else LayerNorms alone take noise.
    """

    def calibrate(run: Run) -> QuantizedGraph:
        quantized = base(run)
        with torch.no_grad():
            _add_all(run, quantized, additions)
        return quantized

    return calibrate


def _add_all(run: Run, quantized: QuantizedGraph, additions: bool) -> None:
    found = [place for place in places(quantized) if place.norm is not None]
    if additions:
        found += [place for place in places(quantized) if place.norm is None]
    taken: list[Place] = []
    done = 0
    for part in _in_memory(run, quantized, found):
        halves = _inputs(run, quantized, {place.gemms[0] for place in part})
        for place in part:
            done += 1
            layers = [linear_in_integers(quantized, name) for name in place.gemms]
            search, held_out = halves[place.gemms[0]]
            noise = choose_noise(layers, search, held_out, run.seed + done, must_save(place))
            if noise is not None:
                add_noise(quantized, place, noise)
                taken.append(place)
            run.progress("noise", done, len(found))
    quantized.notes += _notes(found, taken)


def _in_memory(run: Run, quantized: QuantizedGraph, found: list[Place]) -> Iterator[list[Place]]:
    """Yield the places in order, as many at a time as the run's memory holds the inputs of."""
    part: list[Place] = []
    size = 0
    for place in found:
        channels = linear_in_integers(quantized, place.gemms[0]).weight_codes.shape[1]
        here = 4 * 2 * TOKENS * channels  # bytes of both halves
        if part and size + here > run.memory_bytes // 2:
            yield part
            part, size = [], 0
        part.append(place)
        size += here
    if part:
        yield part


def must_save(place: Place) -> float:
    """Return the share of the output error that noise has to save at a place."""
    return FREE_MUST_SAVE if place.norm is not None else OPERATORS_MUST_SAVE


def _inputs(
    run: Run, quantized: QuantizedGraph, names: set[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return gemm name -> its float32 inputs [T, in] of each half of the images, thinned out."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    images = len(run.images_at_once)

    def look(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        if gemm.name in names:
            first, second = left.tensor_split([len(left) // images * ((images + 1) // 2)])
            found[gemm.name] = (_thin(first), _thin(second))
        return float_product(quantized.graph, gemm, left, right)

    run_graph(quantized.graph, run.images_at_once, gemm=look)
    return found


def _thin(x: Tensor) -> Tensor:
    """Return at most about `TOKENS` evenly spaced rows of x [..., in] as [T, in]."""
    rows = x.reshape(-1, x.shape[-1])
    return rows[:: max(1, len(rows) // TOKENS)].clone()


@dataclass(frozen=True, kw_only=True)
class Error:
    """The output error that rounding the input of some linears causes, per input sample.

    Args:
        grid: The input's grid.
        root: float32 [in, r], times its transpose the sum over the linears of W^T W with the
            rounded weights; r is the smaller of inputs and outputs.
    """

    grid: Grid
    root: Tensor

    @staticmethod
    def of(layers: list[IntegerLinear]) -> Error:
        """Return the error of linears that read one tensor."""
        weights = torch.cat([layer.weight_values() for layer in layers])  # [outputs, in]
        return Error(grid=layers[0].grid, root=torch.linalg.qr(weights, mode="r").R.T)

    def __call__(self, x: Tensor, noise: Tensor) -> float:
        """Return the sum over tokens and outputs of ((Q(x + N) - N - x) W^T)^2, x [T, in]."""
        error = self.grid.fake_quantize(x + noise) - noise - x  # [T, in]
        return float((error @ self.root).square().sum())


def choose_noise(
    layers: list[IntegerLinear], search: Tensor, held_out: Tensor, seed: int, must_save: float
) -> Tensor | None:
    """Return the noise [in] for linears that read one tensor, or None if none helps.

    Args:
        search: Inputs [T, in] that choose the noise.
        held_out: Inputs [T, in] that decide whether it stays.
        seed: Of the draws.
        must_save: Share of the output error that it has to save there.
    """
    error = Error.of(layers)
    noise = _search(error, search, seed)
    if len(held_out) == 0:
        return None
    plain = error(held_out, torch.zeros_like(noise))
    return noise if error(held_out, noise) < (1 - must_save) * plain else None


def _search(error: Error, x: Tensor, seed: int) -> Tensor:
    """Return the noise [in] with the least error: shift, then draw and amplitude, shift again.

    The shift comes first as in the official code: behind a GELU most of the gain is the shift's.
    """
    x = x[:: max(1, len(x) // SEARCHED_TOKENS)]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(DRAWS, x.shape[1], generator=generator) * 2 - 1  # [draws, in], U(-1, 1)
    step = error.grid.unit.expand(x.shape[1])
    noises = [draw * step * n for draw in draws for n in AMPLITUDES]

    def best(tried: list[Tensor]) -> Tensor:
        return min(tried, key=lambda noise: error(x, noise))

    shift = best([step * c for c in SHIFTS])
    found = best([shift, *noises, *(shift + noise for noise in noises)])
    return best([found + step * c for c in NEAR])


def _notes(found: list[Place], taken: list[Place]) -> list[str]:
    free = [place.norm is not None for place in taken]
    norms = sum(place.norm is not None for place in found)
    notes = [f"noise helps behind {sum(free)} of {norms} LayerNorms and is left out elsewhere"]
    if len(found) > norms:
        kinds = Counter(place.role.value for place in taken if place.norm is None)
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        notes.append(
            f"noise is an addition at run time at {len(free) - sum(free)} of {len(found) - norms} "
            f"inputs without a LayerNorm in front{listed and f' ({listed})'}: elsewhere it saves "
            f"less than {OPERATORS_MUST_SAVE:.0%} of the error"
        )
    return notes


_SOURCE = "Liu et al., CVPR 2023, arXiv 2211.16056"
NOISYQUANT = Method(
    name="noisyquant",
    summary="A fixed noise before rounding, in LayerNorms or added, on the grids of mse",
    source=_SOURCE,
    calibrate=noisy(MSE.calibrate),
    cost="3 forward passes",
    order=80,
)
NOISYQUANT_PTQ4VIT = Method(
    name="noisyquant+ptq4vit",
    summary="A fixed noise before rounding, in LayerNorms or added, on the grids of ptq4vit",
    source=f"{_SOURCE}, and arXiv 2111.12293",
    calibrate=noisy(PTQ4VIT.calibrate),
    cost="3 forward passes, 1 backward pass",
    needs=PTQ4VIT.needs,
    order=80,
)
