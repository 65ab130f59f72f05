"""Scores of the classes from logits, also of a single logit that says yes or no.

One logit is the score of class 1 against 0, so softmax over (0, logit) is its logistic function;
softmax over the logit alone would be 1, and no error of it would count.
"""

from __future__ import annotations

import torch
from torch import Tensor


def class_scores_tensor(logits: Tensor) -> Tensor:
    """Return one score for each class, [B, max(2, logits)], of logits [B, logits]."""
    if logits.shape[1] != 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)  # [B, 2]
