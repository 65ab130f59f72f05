"""Prepares a picture for the model: resize, centre crop, normalise.

Reproduces the evaluation transform of timm and torchvision (`Resize`, `CenterCrop`, `ToTensor`,
`Normalize` on Pillow images) without torch: pixels are equal bit for bit, normalised floats too.

Source: torchvision `transforms/functional.py` (`_compute_resized_output_size`, `center_crop`) and
timm `data/transforms_factory.py` (`transforms_imagenet_eval`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edgevit.data.decoding import MAX_PIXELS, damaged_image_error, rgb_from_image
from edgevit.data.normalizing import are_possible, normalize
from edgevit.errors import DataError

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_CROP_ROUNDINGS: dict[str, Callable[[float], int]] = {"half_even": round, "down": math.floor}
DEFAULTED = {"channel_order": "RGB", "crop_rounding": "half_even"}
"""What goes without saying in bundles and recipes."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Sizes and numbers with which pictures become model inputs.

    Args:
        input_size: (3, H, W) of the model; (1, H, W) if it takes grey pictures.
        resize_size: Length in pixels of the shorter side after resizing, the ratio being kept;
            or (height, width), to which the whole picture is squashed.
        interpolation: ``"bicubic"``, ``"bilinear"``, ``"nearest"`` or ``"lanczos"``.
        crop_pct: Cropped side over resized side, 0 to 1; says where `resize_size` came from.
        mean, std: Per channel, in units of a picture whose values lie in [0, 1].
        channel_order: ``"RGB"``, or ``"BGR"`` where the model takes blue first (MobileViT).
        crop_rounding: Where a crop begins that is off the middle by half a pixel: ``"half_even"``
            as in torchvision, or ``"down"`` as in transformers.

    Raises:
        DataError: A value is impossible (EV108).
    """

    input_size: tuple[int, int, int]
    resize_size: int | tuple[int, int]
    interpolation: str
    crop_pct: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str = "RGB"
    crop_rounding: str = "half_even"

    def __post_init__(self) -> None:
        wrong = [name for name, good in _checks(self).items() if not good]
        if wrong:
            raise DataError(
                "EV108",
                "The preprocessing has impossible values.",
                where=", ".join(f"{name}={getattr(self, name)!r}" for name in wrong),
                try_next="input_size is (3, H, W), or (1, H, W) for grey; "
                "resize_size a length or (height, width); "
                f"interpolation one of {', '.join(INTERPOLATIONS)}; mean, std a number a channel; "
                "channel_order RGB or BGR; crop_rounding half_even or down.",
            )

    @staticmethod
    def from_crop_pct(
        *,
        input_size: Sequence[int],
        crop_pct: float,
        interpolation: str,
        mean: Sequence[float],
        std: Sequence[float],
        squash: bool = False,
        **defaulted: str,
    ) -> Preprocessing:
        """Return the preprocessing of a timm configuration: resize to floor(input / crop_pct)."""
        values: dict[str, Any] = {"input_size": input_size, "resize_size": 1}
        values |= {"interpolation": interpolation, **defaulted}
        Preprocessing.from_dict({**values, "crop_pct": crop_pct, "mean": mean, "std": std})
        height, width = (math.floor(side / crop_pct) for side in input_size[1:])
        values["resize_size"] = (height, width) if squash else min(height, width)
        return Preprocessing.from_dict({**values, "crop_pct": crop_pct, "mean": mean, "std": std})

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote.

        Raises:
            DataError: A key is missing or unknown (EV136), or a value is impossible (EV108).
        """
        try:
            tupled: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()
            }
            return Preprocessing(**tupled)
        except TypeError as error:
            raise DataError(
                "EV136",
                "The preprocessing can't be read.",
                where=", ".join(map(str, values)),
                why=str(error),
                try_next=f"It has {', '.join(Preprocessing.__dataclass_fields__)}.",
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary; what is as in `DEFAULTED` is left out."""
        values = asdict(self).items()
        return {
            k: list(v) if isinstance(v, tuple) else v for k, v in values if v != DEFAULTED.get(k)
        }

    def pixels(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Resize and crop one picture of any mode and size.

        Returns:
            uint8 [H, W, 3] in the order of `channel_order`, or [H, W, 1] grey; where the resized
            picture is smaller than the crop, a black border.

        Raises:
            DataError: The picture is so long and thin that resizing it takes too much memory, or
                its mode has no defined range (EV132).
        """
        channels, height, width = self.input_size
        picture = rgb_from_image(image)
        if channels == 1:
            picture = picture.convert("L")
        cropped = np.asarray(placed(picture, self), dtype=np.uint8)
        pixels = cropped.reshape(height, width, channels)  # [H, W, C]
        return np.ascontiguousarray(pixels[..., ::-1]) if self.channel_order == "BGR" else pixels

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Turn uint8 pixels [B, H, W, C] into float32 [B, C, H, W]: (x / 255 - mean) / std."""
        return normalize(pixels, self.mean, self.std)


def placed(image: Image.Image, preprocessing: Preprocessing, border: int = 0) -> Image.Image:
    """Return the part of a picture, or of a label map, that the model sees, in its size.

    Args:
        image: Of any mode that Pillow resizes.
        preprocessing: Sizes and interpolation are read.
        border: Value around a picture that is smaller than the crop.
    """
    _, height, width = preprocessing.input_size
    resized = _resize(image, preprocessing.resize_size, preprocessing.interpolation)
    rounded = _CROP_ROUNDINGS[preprocessing.crop_rounding]
    return _center_crop(resized, height, width, rounded, border)


def _checks(p: Preprocessing) -> dict[str, bool]:
    """Return for each field whether its value is possible."""
    resize = p.resize_size if isinstance(p.resize_size, tuple) else (p.resize_size,) * 2
    is_size = _are(p.input_size, 3, int) and p.input_size[0] in (1, 3) and min(p.input_size) > 0
    channels = p.input_size[0] if is_size else 3
    return {
        "input_size": is_size,
        "resize_size": _are(resize, 2, int) and min(resize) > 0,
        "interpolation": p.interpolation in INTERPOLATIONS,
        "crop_pct": _are((p.crop_pct,), 1, float) and p.crop_pct > 0,
        "mean": _are(p.mean, channels, float) and are_possible(p.mean, ()),
        "std": _are(p.std, channels, float) and are_possible((), p.std),
        "channel_order": p.channel_order == "RGB" or (p.channel_order == "BGR" and channels == 3),
        "crop_rounding": p.crop_rounding in _CROP_ROUNDINGS,
    }


def _are(values: Any, count: int, kind: type[int] | type[float]) -> bool:
    """Return whether `values` is a tuple of `count` finite numbers."""
    kinds = (int,) if kind is int else (int, float)
    return (
        isinstance(values, tuple)
        and len(values) == count
        and all(isinstance(v, kinds) and not isinstance(v, bool) for v in values)
        and all(math.isfinite(v) for v in values)
    )


def _resize(image: Image.Image, size: int | tuple[int, int], interpolation: str) -> Image.Image:
    """Resize as `torchvision.transforms.Resize` does on Pillow images."""
    width, height = image.size
    if isinstance(size, tuple):
        new_height, new_width = size
    elif width <= height:
        new_width, new_height = size, int(size * height / width)
    else:
        new_width, new_height = int(size * width / height), size
    if new_width * new_height > MAX_PIXELS:
        raise damaged_image_error(f"{width} x {height} pixels become {new_width} x {new_height}.")
    if (width, height) == (new_width, new_height):
        return image
    return image.resize((new_width, new_height), INTERPOLATIONS[interpolation])


def _center_crop(
    image: Image.Image, height: int, width: int, rounded: Callable[[float], int], fill: int
) -> Image.Image:
    """Crop as `torchvision.transforms.CenterCrop` does: a border first, black in a picture."""
    missing_x, missing_y = max(width - image.width, 0), max(height - image.height, 0)
    if missing_x or missing_y:
        border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
        image = ImageOps.expand(image, border=border, fill=fill)
    top = rounded((image.height - height) / 2.0)
    left = rounded((image.width - width) / 2.0)
    return image.crop((left, top, left + width, top + height))
