"""Class names of ImageNet models, as WordNet ids in label order (n01440764, ...)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

_AGREEING = 0.9


@lru_cache(maxsize=1)
def wordnet_ids() -> tuple[str, ...]:
    """Return the 1,000 ids of ImageNet-1k."""
    return tuple(ImageNetInfo().label_names())


def classes_of_timm(model: nn.Module) -> tuple[str, ...] | None:
    """Return the names stored with a timm model, or those of the ImageNet subset it fits."""
    config = getattr(model, "pretrained_cfg", {})
    names = config.get("label_names")
    if names:
        return tuple(str(name) for name in names)
    subset = infer_imagenet_subset(model)
    if subset is None:
        return None
    return wordnet_ids() if subset == "imagenet-1k" else tuple(ImageNetInfo(subset).label_names())


def wordnet_ids_if_imagenet(names: Sequence[str]) -> tuple[str, ...]:
    """Replace the English names of ImageNet-1k, in label order, by their ids; others stay."""
    ids = wordnet_ids()
    if len(names) != len(ids):
        return tuple(names)
    info = ImageNetInfo()
    ours = [_first(info.index_to_description(index)) for index in range(len(ids))]
    agreeing = sum(_first(a) == b for a, b in zip(names, ours, strict=True))
    return ids if agreeing >= _AGREEING * len(ids) else tuple(names)


def _first(description: str) -> str:
    return description.split(",")[0].strip().lower()
