"""Reads the evaluation preprocessing that timm, torchvision and transformers store with a model.

Settings that `edgevit.data.Preprocessing` can't express exactly are refused, never approximated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from edgevit.data import Preprocessing
from edgevit.errors import UnsupportedError

_NAMES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's filter numbers
_LEVELS = 2.0  # mean difference in 8-bit levels allowed between resizing libraries


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


def preprocessing_from_transformers(processor: Any) -> Preprocessing:
    """Read a transformers image processor and try it on one picture.

    The processor may resize with another library than Pillow, which differs by a level here and
    there; what differs by more on average is a setting not understood.

    Raises:
        UnsupportedError: The processor does something else (EV158).
    """
    kind = type(processor).__name__
    if not processor.do_resize or not processor.do_rescale:
        raise unsupported_preprocessing_error(
            f"{kind} does not resize, or does not scale to [0, 1]."
        )
    if abs(processor.rescale_factor * 255 - 1) > 1e-6:
        raise unsupported_preprocessing_error(
            f"{kind} scales by {processor.rescale_factor}, not by 1/255."
        )
    resize, crop = _transformers_sizes(processor, kind)
    normalize = bool(processor.do_normalize)
    preprocessing = Preprocessing.from_dict(
        {
            "input_size": (3, *crop),
            "resize_size": resize,
            "interpolation": _NAMES.get(int(processor.resample), str(processor.resample)),
            "crop_pct": crop[0] / (resize if isinstance(resize, int) else resize[0]),
            "mean": tuple(processor.image_mean) if normalize else (0.0, 0.0, 0.0),
            "std": tuple(processor.image_std) if normalize else (1.0, 1.0, 1.0),
        }
    )
    _try_out(processor, preprocessing, kind)
    return preprocessing


def _transformers_sizes(processor: Any, kind: str) -> tuple[int | tuple[int, int], tuple[int, int]]:
    """Return what to resize to (shorter side, or height and width) and the crop."""
    size = {key: value for key, value in dict(processor.size).items() if value}
    crops = bool(getattr(processor, "do_center_crop", False))
    crop_pct = getattr(processor, "crop_pct", None)
    if size.keys() == {"shortest_edge"}:
        short = int(size["shortest_edge"])
        if crop_pct and not crops:  # ConvNeXT's way: squash from 384 on
            squashes = short >= 384
            return ((short, short) if squashes else int(short / crop_pct)), (short, short)
        resize: int | tuple[int, int] = short
    elif size.keys() == {"height", "width"}:
        resize = int(size["height"]), int(size["width"])
    else:
        raise unsupported_preprocessing_error(f"{kind} resizes to {size}.")
    if crops:
        crop = dict(processor.crop_size)
        return resize, (int(crop["height"]), int(crop["width"]))
    if isinstance(resize, int):
        raise unsupported_preprocessing_error(
            f"{kind} resizes to {size} without a crop, so inputs have any size."
        )
    return resize, resize


def _try_out(processor: Any, preprocessing: Preprocessing, kind: str) -> None:
    rows, columns = np.mgrid[0:301, 0:377]
    waves = [np.sin(rows / a + columns / b) for a, b in ((17, 23), (31, 11), (13, 41))]
    picture = Image.fromarray((127.5 + 127.5 * np.stack(waves, 2)).astype(np.uint8))  # [H, W, 3]
    theirs = np.asarray(processor(picture, return_tensors="np")["pixel_values"])  # [1, 3, H, W]
    ours = preprocessing.normalize(preprocessing.pixels(picture)[None])  # [1, 3, H, W]
    if theirs.shape != ours.shape:
        raise unsupported_preprocessing_error(
            f"{kind} gives {theirs.shape}, its settings say {ours.shape}."
        )
    scale = 255 * np.asarray(preprocessing.std).reshape(3, 1, 1)
    difference = float(np.abs((theirs - ours) * scale).mean())
    if not difference < _LEVELS:
        raise unsupported_preprocessing_error(
            f"{kind} differs from its settings by {difference:.1f} of 255 levels."
        )


def unsupported_preprocessing_error(why: str) -> UnsupportedError:
    """Return the error for preprocessing that can't be reproduced (EV158)."""
    return UnsupportedError(
        "EV158",
        "The model's preprocessing can't be reproduced.",
        why=why,
        try_next="Load it through package.module:function and set edgevit_preprocessing.",
    )
