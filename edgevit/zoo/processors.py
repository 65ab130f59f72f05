"""Reads the preprocessing of a transformers image processor, and proves it on a picture.

A processor's settings can be read in more than one way (LeViT enlarges the shorter side by 256/224
and does not say so), so every reading is tried on one picture against the processor itself; the
first that gives the same pixels is taken, and a processor without one is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgevit.data import Preprocessing
from edgevit.zoo.preprocessing import unsupported_preprocessing_error

_NAMES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's filter numbers
_LEVELS = 0.5  # mean difference in 8-bit levels allowed between resizing libraries
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to understand a processor.

    Args:
        resize, crop: What pictures are resized to (shorter side, or height and width), and the
            crop of that.
        call: What the processor has to be told in order to do the same.
        picture: Height and width of the picture on which both are tried.
    """

    resize: int | Size
    crop: Size
    call: Mapping[str, Any]
    picture: Size = (301, 377)


def preprocessing_from_transformers(processor: Any, asked: Size | None = None) -> Preprocessing:
    """Read a transformers image processor and try it on one picture.

    The processor may resize with another library than Pillow, which differs by a level here and
    there; what differs by more on average is a setting not understood.

    Args:
        processor: Any image processor of transformers.
        asked: Height and width of the inputs, for processors that keep a picture's ratio and so
            give inputs of any size: every picture is resized to this one instead.

    Raises:
        UnsupportedError: The processor does something else (EV158).
    """
    kind = type(processor).__name__
    _check_scaling(processor, kind)
    found = ""
    for reading in _readings(processor, kind, asked):
        preprocessing = _preprocessing(processor, reading)
        found = _difference(processor, reading, preprocessing, kind)
        if not found:
            return preprocessing
    raise unsupported_preprocessing_error(found)


def _check_scaling(processor: Any, kind: str) -> None:
    if not processor.do_resize or not processor.do_rescale:
        raise unsupported_preprocessing_error(
            f"{kind} does not resize, or does not scale to [0, 1]."
        )
    if abs(processor.rescale_factor * 255 - 1) > 1e-6:
        raise unsupported_preprocessing_error(
            f"{kind} scales by {processor.rescale_factor}, not by 1/255."
        )


def _preprocessing(processor: Any, reading: Reading) -> Preprocessing:
    resize, crop = reading.resize, reading.crop
    normalize = bool(processor.do_normalize)
    flips = bool(getattr(processor, "do_flip_channel_order", False))
    values: dict[str, Any] = {
        "input_size": (3, *crop),
        "resize_size": resize,
        "interpolation": _NAMES.get(int(processor.resample), str(processor.resample)),
        "crop_pct": crop[0] / (resize if isinstance(resize, int) else resize[0]),
        "mean": tuple(processor.image_mean) if normalize else (0.0, 0.0, 0.0),
        "std": tuple(processor.image_std) if normalize else (1.0, 1.0, 1.0),
        "channel_order": "BGR" if flips else "RGB",
        "crop_rounding": "half_even" if _is_centred(resize, crop) else "down",
    }
    return Preprocessing.from_dict(values)


def _is_centred(resize: int | Size, crop: Size) -> bool:
    """Return whether the crop is never off the middle by half a pixel."""
    if isinstance(resize, int):
        return False
    return all((a - b) % 2 == 0 for a, b in zip(resize, crop, strict=True))


def _readings(processor: Any, kind: str, asked: Size | None) -> Iterator[Reading]:
    """Yield each way to understand the sizes.

    Raises:
        UnsupportedError: They leave the inputs' size open, and none is asked for (EV158).
    """
    size = {k: v for k, v in dict(getattr(processor, "size", None) or {}).items() if v}
    crop_pct = getattr(processor, "crop_pct", None)
    crop = _crop(processor)
    if _is_open(processor, size, crop, crop_pct):
        if asked is None:
            raise unsupported_preprocessing_error(
                f"{kind} resizes to {size or 'a number of patches'}, so inputs have any size; "
                "--input-size HxW resizes every picture to one."
            )
        yield _at(processor, size, asked)
    elif size.keys() == {"height", "width"}:
        fixed = int(size["height"]), int(size["width"])
        yield Reading(resize=fixed, crop=crop or fixed, call={})
        if crop_pct and fixed[0] == fixed[1]:
            yield Reading(resize=int(fixed[0] / crop_pct), crop=crop or fixed, call={})
    elif size.keys() == {"shortest_edge"}:
        yield from _by_shorter_side(int(size["shortest_edge"]), crop, crop_pct)
    else:
        raise unsupported_preprocessing_error(f"{kind} resizes to {size}.")


def _by_shorter_side(short: int, crop: Size | None, crop_pct: Any) -> Iterator[Reading]:
    if crop is None:  # ConvNeXT's way: squash from 384 on
        resize = (short, short) if short >= 384 else int(short / crop_pct)
        yield Reading(resize=resize, crop=(short, short), call={})
        return
    for resized in (int(short / crop_pct) if crop_pct else short, int(256 / 224 * short)):
        yield Reading(resize=resized, crop=crop, call={})


def _crop(processor: Any) -> Size | None:
    if not getattr(processor, "do_center_crop", False):
        return None
    crop = dict(processor.crop_size)
    return int(crop["height"]), int(crop["width"])


def _is_open(processor: Any, size: Mapping[str, int], crop: Size | None, crop_pct: Any) -> bool:
    if crop is not None:
        return False
    keeps = bool(getattr(processor, "keep_aspect_ratio", False))
    fixed = size.keys() == {"height", "width"} or (size.keys() == {"shortest_edge"} and crop_pct)
    return keeps or not fixed


def _at(processor: Any, size: Mapping[str, int], asked: Size) -> Reading:
    """Return the reading for a processor that is told a size, or shown a picture of its ratio."""
    height, width = asked
    sides = {"height": height, "width": width}
    call: dict[str, Any] = {"size": sides}
    if hasattr(processor, "max_num_patches"):
        call = {"max_num_patches": height * width // processor.patch_size**2}
    elif size.keys() == {"longest_edge"}:
        call = {"size": {"longest_edge": max(asked)}, "pad_size": sides}
    elif getattr(processor, "keep_aspect_ratio", False):
        call["keep_aspect_ratio"] = False
    picture = (height + height // 2, width + width // 2)  # of the same ratio
    return Reading(resize=asked, crop=asked, call=call, picture=picture)


def _difference(processor: Any, reading: Reading, preprocessing: Preprocessing, kind: str) -> str:
    """Return how the processor's input differs from ours on one picture; empty if it does not."""
    picture = _waves(reading.picture)
    try:
        given = processor(picture, return_tensors="np", **reading.call)
        theirs = _whole(np.asarray(given["pixel_values"]), processor, reading.crop)
    except (ValueError, TypeError, KeyError) as error:
        return f"{kind} can't be asked for inputs of one size: {error}"[:300]
    ours = preprocessing.normalize(preprocessing.pixels(picture)[None])  # [1, 3, H, W]
    if theirs.shape != ours.shape:
        return f"{kind} gives {theirs.shape}, its settings say {ours.shape}."
    scale = 255 * np.asarray(preprocessing.std).reshape(3, 1, 1)
    difference = float(np.abs((theirs - ours) * scale).mean())
    if difference < _LEVELS:
        return ""
    return f"{kind} differs from its settings by {difference:.1f} of 255 levels."


def _whole(values: npt.NDArray[Any], processor: Any, size: Size) -> npt.NDArray[Any]:
    """Return [1, 3, H, W] of what may be patches [1, N, patch * patch * 3]."""
    if values.ndim != 3:
        return values
    side = int(processor.patch_size)
    rows, columns = size[0] // side, size[1] // side
    patches = values.reshape(1, rows, columns, side, side, 3)  # [1, rows, columns, p, p, 3]
    whole: npt.NDArray[Any] = patches.transpose(0, 5, 1, 3, 2, 4).reshape(1, 3, *size)
    return whole


def _waves(size: Size) -> Image.Image:
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    waves = [np.sin(rows / a + columns / b) for a, b in ((17, 23), (31, 11), (13, 41))]
    return Image.fromarray((127.5 + 127.5 * np.stack(waves, 2)).astype(np.uint8))  # [H, W, 3]
