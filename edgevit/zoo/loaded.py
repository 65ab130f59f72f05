"""What every loader returns: the model, and all that has to be known to feed and to name it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgevit.data import Preprocessing
from edgevit.errors import UsageError
from edgevit.zoo.preprocessing import preprocessing_from_timm


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to be captured.

    Args:
        name: As the user gave it.
        source: Library and exact checkpoint, such as
            ``"timm:vit_base_patch16_224.augreg_in21k_ft_in1k"``.
        model: In eval mode; float32 [B, 3, H, W] -> logits [B, num_classes].
        preprocessing: How pictures become its inputs.
        classes: Class names in label order (WordNet ids for ImageNet), None when unknown.
        num_classes: Number of logits.
        parameters: Number of parameters; buffers are not counted.
        flops: Multiply-adds per image (what the literature calls FLOPs). As loaded: the rounded
            figure of the literature, None without one; `edgevit.subject.subject_of` replaces it
            by the number counted from the captured graph, which bundles keep.
        weights_sha256: Over the names and bytes of the state dict, sorted by name.
        pretrained: False when the weights are random.
    """

    name: str
    source: str
    model: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    num_classes: int
    parameters: int
    flops: int | None
    weights_sha256: str
    pretrained: bool


def loaded_model(
    *,
    name: str,
    source: str,
    model: nn.Module,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None,
    num_classes: int,
    pretrained: bool,
    flops: int | None = None,
) -> LoadedModel:
    """Put the model into eval mode and fill in what follows from it."""
    model.eval()
    return LoadedModel(
        name=name,
        source=source,
        model=model,
        preprocessing=preprocessing,
        classes=classes if classes is not None and len(classes) == num_classes else None,
        num_classes=num_classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=flops,
        weights_sha256=weights_sha256(model),
        pretrained=pretrained,
    )


def loaded_from_module(
    model: nn.Module,
    preprocessing: Preprocessing | None = None,
    *,
    name: str = "",
    source: str = "",
    classes: tuple[str, ...] | None = None,
    pretrained: bool = True,
) -> LoadedModel:
    """Describe a module of the user's own.

    Args:
        model: Any module float32 [B, 3, H, W] -> logits [B, classes]; put into eval mode.
        preprocessing: Left out, `model.edgevit_preprocessing` (a dict as `Preprocessing.to_dict`
            gives, or with ``crop_pct`` instead of ``resize_size``) or timm's
            `model.pretrained_cfg` say it.
        name, source: For reports; left out, the class's name.
        classes: Class names; left out, `model.edgevit_classes` if there is one.
        pretrained: Whether the weights are trained.

    Raises:
        UsageError: Nothing says the preprocessing (EV157), the output is no logits (EV156), or
            there are more or fewer class names than logits (EV165).
    """
    name = name or type(model).__name__
    preprocessing = preprocessing or preprocessing_of(model, name)
    named = classes or getattr(model, "edgevit_classes", None)
    num_classes = num_logits(model.eval(), preprocessing.input_size)
    if named is not None and len(named) != num_classes:
        raise _misnamed(name, len(named), num_classes)
    return loaded_model(
        name=name,
        source=source or f"module:{type(model).__module__}.{type(model).__qualname__}",
        model=model,
        preprocessing=preprocessing,
        classes=None if named is None else tuple(str(item) for item in named),
        num_classes=num_classes,
        pretrained=pretrained,
    )


def _misnamed(name: str, named: int, num_classes: int) -> UsageError:
    return UsageError(
        "EV165",
        "The class names don't fit the model.",
        where=f"{name}: edgevit_classes",
        why=f"There are {named} names and {num_classes} logits.",
        try_next="Give one name per logit in the order of the labels, or no names.",
    )


def preprocessing_of(model: Any, name: str) -> Preprocessing:
    """Read the preprocessing a module (or its factory) carries.

    Raises:
        UsageError: It carries none (EV157).
    """
    own = getattr(model, "edgevit_preprocessing", None)
    if isinstance(own, Preprocessing):
        return own
    if isinstance(own, dict):
        if "resize_size" in own:
            return Preprocessing.from_dict(own)
        return preprocessing_from_timm({"crop_mode": "center", **own})
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict) and config.get("input_size"):
        return preprocessing_from_timm(config)
    raise UsageError(
        "EV157",
        "Nothing says how pictures become inputs of this model.",
        where=name,
        why="It has neither edgevit_preprocessing nor timm's pretrained_cfg.",
        try_next="Set on the function or the model: edgevit_preprocessing = "
        "{'input_size': (3, 224, 224), 'crop_pct': 0.9, 'interpolation': 'bicubic', "
        "'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}; "
        "in Python: quantize(model, images, preprocessing=Preprocessing(...)).",
    )


@torch.no_grad()
def num_logits(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Run one black image [1, 3, H, W] and return the number of logits.

    Raises:
        UsageError: The output is no float tensor [1, classes] (EV156).
    """
    logits = model(torch.zeros(1, *input_size))
    if isinstance(logits, torch.Tensor) and logits.ndim == 2 and logits.shape[0] == 1:
        return int(logits.shape[1])
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    raise UsageError(
        "EV156",
        "The model does not return logits.",
        why=f"For an image [1, 3, H, W] it returned {shape} instead of a tensor [1, classes].",
        try_next="Wrap it in a module whose forward returns the logits.",
    )


def weights_sha256(model: nn.Module) -> str:
    """Hash the names and bytes of the state dict, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)  # [elements]
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
