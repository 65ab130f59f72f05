"""Checks on the calibration images that losses of single units add up to the loss of all.

An allocation by summed losses is worth what the sum says of the truth: the correlation, over
random allocations, of the predicted sum with the true KL divergence from float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgevit.calibration.mixed.candidates import Candidates
from edgevit.calibration.statistics.ranges import batches
from edgevit.calibration.statistics.scores import class_scores_tensor
from edgevit.quantizers.quantized_graph import QuantizedGraph

ALLOCATIONS = 10
IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class Additivity:
    """Predicted sums and true KLs (nats per image) of some allocations.

    Args:
        predicted: In the units of the criterion.
        true: Mean KL to float32 on the calibration images.
    """

    predicted: tuple[float, ...]
    true: tuple[float, ...]

    @property
    def correlation(self) -> float:
        """Pearson's correlation, 0 where either does not vary."""
        pairs = torch.tensor([self.predicted, self.true], dtype=torch.float64)  # [2, R]
        centred = pairs - pairs.mean(1, keepdim=True)
        norms = centred.norm(dim=1)
        if float(norms.min()) <= 0:
            return 0.0
        return float(centred[0] @ centred[1] / norms.prod())


@torch.no_grad()
def mean_kl(
    quantized: QuantizedGraph, images: Tensor, expected: Tensor, batch_size: int = 32
) -> float:
    """Return the mean of KL(float32 || quantized) in nats.

    Args:
        images: float32 [N, 3, H, W].
        expected: float32 [N, classes], log-probabilities of the float32 model.
    """
    parts = [quantized.forward(part) for part in batches(images, batch_size)]
    found = class_scores_tensor(torch.cat(parts)).log_softmax(1)  # [N, classes]
    return float((expected.exp() * (expected - found)).sum(1).mean())


@torch.no_grad()
def log_probabilities(found: Candidates, images: Tensor) -> Tensor:
    """Return float32 [N, classes] of the float32 model."""
    parts = [found.graph.forward(part) for part in batches(images, 32)]
    return class_scores_tensor(torch.cat(parts)).log_softmax(1)


def random_choices(generator: torch.Generator, units: int, choices: Sequence[int]) -> list[int]:
    """Return one of `choices` for each unit, drawn evenly."""
    drawn = torch.randint(len(choices), (units,), generator=generator)
    return [choices[int(at)] for at in drawn]
