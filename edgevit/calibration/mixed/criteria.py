"""Estimates each unit's loss at each width: Fisher sensitivity, or Liu et al.'s nuclear norm.

*Fisher*: ``Omega_i(b) = 1/2 E sum g^2 (O_i(b) - O_i)^2``, the expected growth of the loss to second
order when only layer i is rounded (as in PTQ4ViT, arXiv 2111.12293, section 3.3), from the
histograms and Gram matrices of one backward pass.

*Nuclear*: Liu et al., "Post-training quantization for vision transformer" (NeurIPS 2021, arXiv
2106.14156), section 3.3: ``Omega_i(b) = (sum_j sigma_j(Y_i)) |O_i(b) - O_i|^2`` with sigma the
singular values of the attention map of an attention module and of the output of any other.
The paper rounds weights and activations together and counts weights only; here both
have a budget, so each is rounded on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgevit.calibration.mixed.allocation import Losses
from edgevit.calibration.mixed.candidates import Candidates
from edgevit.calibration.mixed.units import Unit, activation_sites
from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Gemm
from edgevit.quantizers.quantized_graph import float_product

Operand = Literal["activations", "weights"]


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Loss of each unit at each width when only it is rounded, [U, B] each."""

    weights: Losses
    activations: Losses


def fisher_losses(
    found: Candidates, weight_units: list[Unit], act_units: list[Unit], widths: tuple[int, ...]
) -> Tables:
    """Return the tables from the statistics alone; no further pass over the images."""

    def weights(unit: Unit, bits: int) -> float:
        return sum(found.weight_loss(found.graph.gemm(name), bits) for name in unit.gemms)

    def activations(unit: Unit, bits: int) -> float:
        gemms = [found.graph.gemm(name) for name in unit.gemms]
        sites = [site for gemm in gemms for site in activation_sites(found.graph, gemm)]
        return sum(found.activation_loss(site, bits) for site in sites if site.name in placed)

    placed = found.run.sites
    weight_rows = [[weights(unit, b) for b in widths] for unit in weight_units]
    act_rows = [[activations(unit, b) for b in widths] for unit in act_units]
    return Tables(weights=np.array(weight_rows), activations=np.array(act_rows))


def nuclear_losses(
    found: Candidates,
    weight_units: list[Unit],
    act_units: list[Unit],
    widths: tuple[int, ...],
) -> Tables:
    """Return the tables, from two passes of two streams per width."""
    weights = [_unit_losses(found, weight_units, bits, "weights") for bits in widths]
    activations = [_unit_losses(found, act_units, bits, "activations") for bits in widths]
    return Tables(weights=np.array(weights).T, activations=np.array(activations).T)


@torch.no_grad()
def _unit_losses(found: Candidates, units: list[Unit], bits: int, which: Operand) -> list[float]:
    """Return [U] losses with one operand of each unit's products rounded, from one pass.

    The float32 stream and the rounded one are halves of one batch; behind a unit's last
    product the rounded one starts again from float32, so that units don't see each other.
    """
    images = found.run.images_at_once
    last = {unit.gemms[-1]: at for at, unit in enumerate(units)}
    inside = {name for unit in units for name in unit.gemms}
    norms: dict[int, float] = {}
    losses = [0.0] * len(units)
    home = {name: at for at, unit in enumerate(units) for name in unit.maps}

    def step(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        if gemm.name in home:
            norms[home[gemm.name]] = nuclear_norm(left.chunk(2)[0], len(images))
        if gemm.name not in inside:
            return float_product(found.graph, gemm, left, right)
        (left, x), (right, y) = left.chunk(2), (None, None) if right is None else right.chunk(2)
        fp32 = float_product(found.graph, gemm, left, right)
        simulated = round_product(found, gemm, x, y, bits, which)
        if gemm.name not in last:
            return torch.cat([fp32, simulated])
        at = last[gemm.name]
        norm = norms.get(at) or nuclear_norm(fp32, len(images))
        losses[at] = norm * float((simulated - fp32).square().sum()) / len(images)
        return torch.cat([fp32, fp32])

    run_graph(found.graph, torch.cat([images, images]), gemm=step)
    return losses


def nuclear_norm(x: Tensor, images: int) -> float:
    """Return the sum of the singular values of every matrix [..., M, N], per image."""
    return float(torch.linalg.svdvals(x).sum()) / images


def round_product(
    found: Candidates, gemm: Gemm, left: Tensor, right: Tensor | None, bits: int, operand: Operand
) -> Tensor:
    """Return a product with its weight, or its activations, rounded to the grid of a width."""
    if operand == "activations":
        left = found.grid(gemm.left, bits).fake_quantize(left)
    if right is not None:
        if operand == "activations":
            right = found.grid(gemm.right, bits).fake_quantize(right)
        return torch.matmul(left, right)
    weight = found.graph.weight(gemm)
    if operand == "weights":
        weight = found.weight_grid(gemm, bits).fake_quantize(weight)
    return torch.nn.functional.linear(left, weight, found.graph.bias(gemm))
