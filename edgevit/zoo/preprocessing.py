"""Reads the evaluation preprocessing that timm and torchvision store with a model.

Settings that `edgevit.data.Preprocessing` can't express exactly are refused, never approximated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgevit.data import Preprocessing
from edgevit.errors import UnsupportedError


def preprocessing_from_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Read a timm ``pretrained_cfg``; what it leaves out has timm's defaults.

    Raises:
        UnsupportedError: Another crop mode than centre or squash (EV158).
    """
    from timm.data import resolve_data_config

    known = {key: value for key, value in config.items() if value is not None}
    resolved = resolve_data_config(pretrained_cfg=known)
    mode, size = resolved["crop_mode"], tuple(resolved["input_size"])
    if mode not in ("center", "squash"):
        raise unsupported_preprocessing_error(f"timm's crop mode {mode!r} adds borders.")
    if mode == "center" and size[1] != size[2]:
        raise unsupported_preprocessing_error(
            f"Inputs are {size}; with a centre crop they must be square."
        )
    return Preprocessing.from_crop_pct(
        input_size=size,
        crop_pct=resolved["crop_pct"],
        interpolation=resolved["interpolation"],
        mean=resolved["mean"],
        std=resolved["std"],
        squash=mode == "squash",
    )


def preprocessing_from_torchvision(preset: Any) -> Preprocessing:
    """Read a torchvision ``ImageClassification`` preset."""
    resize, crop = preset.resize_size, preset.crop_size
    return Preprocessing.from_dict(
        {
            "input_size": (3, crop[0], crop[-1]),
            "resize_size": resize[0] if len(resize) == 1 else tuple(resize),
            "interpolation": preset.interpolation.value,
            "crop_pct": crop[0] / resize[0],
            "mean": preset.mean,
            "std": preset.std,
        }
    )


def unsupported_preprocessing_error(why: str) -> UnsupportedError:
    """Return the error for preprocessing that can't be reproduced (EV158)."""
    return UnsupportedError(
        "EV158",
        "The model's preprocessing can't be reproduced.",
        why=why,
        try_next="Load it through package.module:function and set edgevit_preprocessing.",
    )
