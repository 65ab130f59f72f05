"""Searches the steps of q and k head by head, running q k^T for every candidate.

Source: Yuan et al., PTQ4ViT (arXiv 2111.12293), section 3.3, whose search tries each candidate on
the product itself. For linears a histogram of the input finds the same steps without running the
layer, because rounding errors average out over many inputs. A score of q k^T sums over the few
channels of one head, where they do not: steps from histograms left a quarter more Fisher-weighted
error on a small ViT at 4 bits than steps tried on the product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from edgevit.calibration.run import Run
from edgevit.calibration.statistics.fisher import ProductStatistics, forward_backward
from edgevit.calibration.statistics.ranges import Ranges
from edgevit.graph.channels import head_channels
from edgevit.graph.model import Gemm

COARSE = tuple(0.3 + 0.075 * i for i in range(12))  # shares of the largest value, 0.3 .. 1.125
SCORES = 2_000_000
"""At most so many elements of q k^T are looked at, evenly from all images: bounds the time."""
_REFINEMENTS = 2
_ROUNDS = 2  # q with k in float32, k with q rounded, and both once more


def head_steps(run: Run, ranges: Ranges) -> dict[str, Tensor]:
    """Return site -> float32 [H], the best step of every head of q and of k.

    Sites whose heads can't be rescaled are left out. One batch of the images is enough.

    Args:
        ranges: Of every site that will be quantized.
    """
    wanted = {g.name for g in run.gemms if g.kind == "qk" and _has_heads_of_its_own(run, g)}
    images = run.images[: run.batch_size]
    generator = torch.Generator().manual_seed(run.seed)
    steps: dict[str, Tensor] = {}
    for product in forward_backward(run.graph, images, ranges, generator, True):
        if product.gemm.name in wanted:
            found = _search(product, run.placement.options[product.gemm.left.name][0].bits)
            steps |= dict(
                zip((product.gemm.left.name, product.gemm.right.name), found, strict=True)
            )
    return steps


def _has_heads_of_its_own(run: Run, gemm: Gemm) -> bool:
    """Return whether every head of q has a head of k, and both can be rescaled."""
    found = [head_channels(run.graph, site) for site in (gemm.left, gemm.right)]
    heads = {len(one[1]) if one else None for one in found}
    return len(heads) == 1 and None not in heads


@torch.no_grad()
def _search(product: ProductStatistics, bits: int) -> tuple[Tensor, Tensor]:
    """Return the steps of q [H] and of k [H]; q [B, H, N, D], k [B, H, D, N]."""
    if product.right is None or product.output.grad is None:
        raise ValueError(f"{product.gemm.module}: not a product of q and k with a gradient")
    stride = -(-product.output.numel() // SCORES)
    left, right = product.left[::stride], product.right[::stride]
    output, importance = product.output[::stride], product.output.grad[::stride].square()

    def error(a: Tensor, b: Tensor) -> Tensor:
        return ((a @ b - output).square() * importance).sum((0, 2, 3))  # [H]

    rounded_right = right
    for _ in range(_ROUNDS):
        left_steps = _best(left, bits, partial(error, b=rounded_right))
        rounded_left = _round(left, left_steps, bits)
        right_steps = _best(right, bits, partial(error, rounded_left))
        rounded_right = _round(right, right_steps, bits)
    return left_steps, right_steps


def _best(x: Tensor, bits: int, error: Callable[[Tensor], Tensor]) -> Tensor:
    """Return [H]: for each head of x [B, H, M, K] the step of least error, coarse to fine."""
    full = x.abs().amax((0, 2, 3)).clamp_min(1e-6) / ((1 << (bits - 1)) - 0.5)  # [H]
    shares = torch.tensor(COARSE)[:, None].expand(-1, len(full))  # [S, H]
    width = COARSE[1] - COARSE[0]
    for _ in range(_REFINEMENTS + 1):
        errors = torch.stack([error(_round(x, share * full, bits)) for share in shares])
        best = shares.gather(0, errors.argmin(0, keepdim=True))  # [1, H]
        width /= 3
        shares = best + width * torch.arange(-1.0, 2.0)[:, None]  # [3, H]
    return best[0] * full


def _round(x: Tensor, steps: Tensor, bits: int) -> Tensor:
    """Return x [B, H, M, K] on the symmetric grid of each head."""
    half, step = 1 << (bits - 1), steps.reshape(1, -1, 1, 1)
    return (x / step).round_().clamp_(-half, half - 1).mul_(step)
