"""timm's networks without their classifier: the pooled embedding, or the stages' feature maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from edgevit.data.tasks import CLASSIFY, EMBED, FEATURES
from edgevit.zoo.tasks import TaskOutputs, choose_task

MOST_STAGES = 4


class Stages(nn.Module):
    """Returns the feature maps [B, C, H, W] of the last stages that timm names.

    Args:
        model: A model with timm's `forward_intermediates`, or one with `forward_features` alone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return "stage1", ... of images float32 [B, 3, H, W], or "features" where there is one."""
        model: Any = self.model
        if not hasattr(model, "forward_intermediates"):
            return {"features": model.forward_features(image)}
        count = min(MOST_STAGES, len(model.feature_info))
        maps = model.forward_intermediates(image, indices=count, intermediates_only=True)
        return {f"stage{index}": each for index, each in enumerate(maps, 1)}


def timm_task(model: nn.Module, asked: str | None, name: str) -> str:
    """Return the task of one of timm's models: a classifier's is plain, a tower's is asked for.

    Raises:
        UsageError: The task does not fit (EV234), or it has to be chosen (EV233).
    """
    has_classifier = bool(getattr(model, "num_classes", 0))
    if asked is None and has_classifier:
        return CLASSIFY
    return choose_task(asked, (*((CLASSIFY,) if has_classifier else ()), EMBED, FEATURES), name)


def for_task(model: nn.Module, task: str) -> nn.Module:
    """Return the model for its task; a tower's classifier is taken off."""
    if task == CLASSIFY:
        return model
    tower: Any = model
    if getattr(tower, "num_classes", 0):
        tower.reset_classifier(0)
    return TaskOutputs(tower, EMBED) if task == EMBED else Stages(tower)
