"""Builds the models of the coverage run with random weights that behave like trained ones.

A gain of zero or a layer scale of 1e-6, as networks begin, would hide all that stands before it;
normalisations take the statistics of one batch of noise.
"""

from __future__ import annotations

from typing import Any

import torch
from family_list import CONFIG, FamilyModel
from torch import nn

Size = tuple[int, int, int]


def build(model: FamilyModel) -> tuple[nn.Module, Size]:
    """Return the network in evaluation mode and the size (3, H, W) of its images."""
    torch.manual_seed(0)
    network, size = (_from_timm if model.library == "timm" else _from_transformers)(model)
    network.eval()
    with torch.no_grad():
        _spread(network)
        _settle(network, size)
    return network, size


def _from_timm(model: FamilyModel) -> tuple[nn.Module, Size]:
    import timm

    made = timm.create_model(model.name, **model.arguments)
    channels, side, _ = made.default_cfg["input_size"]
    side = model.image or int(model.arguments.get("img_size", side))
    return made, (int(channels), side, side)


def _from_transformers(model: FamilyModel) -> tuple[nn.Module, Size]:
    import transformers

    kind = getattr(transformers, model.name)
    arguments = {key: _configured(value) for key, value in model.arguments.items()}
    configuration = kind.config_class(**arguments)
    configuration._attn_implementation = "eager"
    side: Any = model.image or getattr(configuration, "image_size", 224)
    side = side if isinstance(side, int) else side[0]
    return kind(configuration), (3, side, side)


def _configured(value: Any) -> Any:
    import transformers

    if not (isinstance(value, tuple) and value and value[0] is CONFIG):
        return value
    return getattr(transformers, value[1])(**value[2])


def _spread(network: nn.Module) -> None:
    """Give parameters that begin as one number values that differ, as training would."""
    generator = torch.Generator().manual_seed(1)
    for value in network.parameters():
        first = float(value.flatten()[0]) if value.numel() > 1 else 0.0
        if value.numel() > 1 and bool((value == first).all()):
            noise = torch.rand(value.shape, generator=generator)  # [0, 1)
            value.copy_(0.2 * (noise - 0.5) if abs(first) < 1e-8 else 0.5 + noise)


def _settle(network: nn.Module, size: Size) -> None:
    """Let batch normalisations take the statistics of a batch of images.

    They are of blotches of different contrast: noise alone has the same mean everywhere, and a
    network behind a global pool would then blow rounding errors up.
    """
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    generator = torch.Generator().manual_seed(2)
    coarse = 2 * torch.randn(8, size[0], 4, 4, generator=generator)
    images = nn.functional.interpolate(coarse, size[1:], mode="bilinear")  # [8, 3, H, W]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    network(images + torch.randn(images.shape, generator=generator))
    network.eval()
    for norm in norms:
        if norm.running_var is not None:
            norm.running_var.clamp_(min=0.1 * float(norm.running_var.mean()))
