"""Reads constructor arguments of a model off the shapes of a checkpoint.

Each reading compares one tensor of the checkpoint with the same tensor of the model as its name
alone would build it; what the shapes do not show is not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isqrt
from typing import Any

from torch import Tensor, nn

from edgevit.zoo.weights import StateDict


def timm_arguments(model: nn.Module, state: StateDict) -> dict[str, Any]:
    """Return number of classes, image size, channels and pooling of a timm checkpoint."""
    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    own = model.state_dict()
    found = {
        "num_classes": _classes(own, state, _names(config.get("classifier"))),
        "in_chans": _changed(own, state, _names(config.get("first_conv")), axis=1),
        "img_size": _image_size(model, own, state),
        "global_pool": _pooling(own, state),
    }
    return {name: value for name, value in found.items() if value is not None}


def torchvision_arguments(model: nn.Module, state: StateDict) -> dict[str, Any]:
    """Return number of classes and image size of a torchvision checkpoint."""
    own = model.state_dict()
    linears = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    found = {"num_classes": _changed(own, state, linears[-1:], axis=0)}
    position = "encoder.pos_embedding"
    patch = getattr(model, "patch_size", None)
    if position in own and position in state and isinstance(patch, int):
        side = isqrt(max(state[position].shape[1] - 1, 0))  # one class token
        if state[position].shape != own[position].shape and side**2 == state[position].shape[1] - 1:
            found["image_size"] = side * patch
    return {name: value for name, value in found.items() if value is not None}


def classifier_rows(own: Mapping[str, Tensor], state: StateDict) -> int | None:
    """Return the number of classes of a checkpoint whose classifier is called so."""
    return _changed(own, state, ["classifier"], axis=0)


def _names(name: Any) -> list[str]:
    if isinstance(name, str):
        return [name]
    return [part for part in name if isinstance(part, str)] if isinstance(name, Iterable) else []


def _classes(own: Mapping[str, Tensor], state: StateDict, names: list[str]) -> int | None:
    """Return rows of the classifier if the model has none or another number of them.

    Swin's classifier was called ``head`` before it was ``head.fc``.
    """
    older = [name.removesuffix(".fc") for name in names]
    for name, spelled in [*zip(names, names, strict=True), *zip(names, older, strict=True)]:
        weight, mine = state.get(f"{spelled}.weight"), own.get(f"{name}.weight")
        if weight is not None and weight.ndim == 2:
            return None if mine is not None and len(mine) == len(weight) else len(weight)
    return None


def _changed(
    own: Mapping[str, Tensor], state: StateDict, names: list[str], axis: int
) -> int | None:
    """Return the checkpoint's length of an axis if that is where a weight differs."""
    for name in names:
        mine, theirs = own.get(f"{name}.weight"), state.get(f"{name}.weight")
        if mine is None or theirs is None or mine.ndim != theirs.ndim:
            continue
        if mine.shape[axis] != theirs.shape[axis]:
            return int(theirs.shape[axis])
    return None


def _image_size(model: nn.Module, own: Mapping[str, Tensor], state: StateDict) -> int | None:
    """Return the side in pixels if the position embedding is that of another square grid."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    mine, theirs = own.get("pos_embed"), state.get("pos_embed")
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if mine is None or theirs is None or patch is None or grid is None or mine.ndim != 3:
        return None
    prefix = mine.shape[1] - grid[0] * grid[1]
    tokens = theirs.shape[1] - prefix if theirs.ndim == 3 else 0
    side = isqrt(max(tokens, 0))
    is_square = side > 0 and side * side == tokens and patch[0] == patch[1]
    return side * int(patch[0]) if is_square and theirs.shape[1] != mine.shape[1] else None


def _pooling(own: Mapping[str, Tensor], state: StateDict) -> str | None:
    """Return the pooling that the place of the last LayerNorm shows, if it is another one.

    timm's ViT normalises before the class token is taken, or after the mean over all tokens.
    """
    places = ("norm.weight", "fc_norm.weight")
    mine, theirs = ([name in tensors for name in places] for tensors in (own, state))
    if mine == theirs or sum(mine) != 1 or sum(theirs) != 1:
        return None
    return "avg" if theirs[1] else "token"
