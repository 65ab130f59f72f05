"""Pixels against timm and torchvision, which are the definition; every comparison is exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from edgevit.data import Preprocessing
from edgevit.errors import DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def preprocessing(side: int = 224, crop: float = 0.9, mode: str = "bicubic", **more: object):
    return Preprocessing.from_crop_pct(
        input_size=(3, side, side), crop_pct=crop, interpolation=mode, mean=MEAN, std=STD, **more
    )


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(500, 375), (333, 501), (224, 224), (248, 248), (61, 97), (1, 9)])
def test_pixels_and_floats_equal_timm(mode: str, size: tuple[int, int]) -> None:
    choices = {"interpolation": mode, "crop_pct": 0.9, "mean": MEAN, "std": STD}
    ours, image = preprocessing(mode=mode), picture(*size)
    raw = create_transform((3, 224, 224), is_training=False, normalize=False, **choices)(image)
    full = create_transform((3, 224, 224), is_training=False, **choices)(image)
    pixels = ours.pixels(image)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, raw.permute(1, 2, 0).numpy())
    floats = ours.normalize(pixels[None])
    assert floats.dtype == np.float32
    assert floats.shape == (1, 3, 224, 224)
    assert np.array_equal(floats[0], full.numpy())  # 0 ulp


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    side=st.integers(8, 40),
    resize=st.integers(5, 60),
    mode=st.sampled_from(["bicubic", "bilinear", "nearest"]),
)
def test_any_size_equals_torchvision(
    width: int, height: int, side: int, resize: int, mode: str
) -> None:
    """Resized pictures may be smaller than the crop, which torchvision pads with black."""
    image = picture(width, height)
    theirs = Compose([Resize(resize, InterpolationMode(mode)), CenterCrop(side)])(image)
    ours = Preprocessing(
        input_size=(3, side, side),
        resize_size=resize,
        interpolation=mode,
        crop_pct=side / resize,
        mean=MEAN,
        std=STD,
    )
    assert np.array_equal(ours.pixels(image), np.asarray(theirs))


@settings(max_examples=30, deadline=None)
@given(crop=st.floats(0.5, 1.0), side=st.integers(16, 64), width=st.integers(9, 80))
def test_squash_equals_timm(crop: float, side: int, width: int) -> None:
    image = picture(width, 33)
    theirs = create_transform(
        (3, side, side + 5), crop_pct=crop, crop_mode="squash", normalize=False
    )(image)
    ours = Preprocessing.from_crop_pct(
        input_size=(3, side, side + 5),
        crop_pct=crop,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        squash=True,
    )
    assert ours.resize_size == (math.floor(side / crop), math.floor((side + 5) / crop))
    assert np.array_equal(ours.pixels(image), theirs.permute(1, 2, 0).numpy())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_normalize_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    slow = np.empty((2, 3, 4, 5), np.float32)
    for index in np.ndindex(2, 4, 5, 3):
        b, y, x, c = index
        value = np.float32(pixels[index]) / np.float32(255)
        slow[b, c, y, x] = (value - np.float32(MEAN[c])) / np.float32(STD[c])
    assert np.array_equal(preprocessing().normalize(pixels), slow)


def test_dictionary_round_trip() -> None:
    for one in (preprocessing(), preprocessing(squash=True)):
        assert Preprocessing.from_dict(one.to_dict()) == one


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": [1, 224, 224]},
        {"input_size": [3, 224]},
        {"input_size": [3, 224.5, 224]},
        {"resize_size": 0},
        {"resize_size": [1, 2, 3]},
        {"interpolation": "area"},
        {"crop_pct": math.nan},
        {"mean": [0.5]},
        {"std": [0.0, 1.0, 1.0]},
        {"mean": None},
        {"surprise": 1},
    ],
)
def test_impossible_values_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataError) as caught:
        Preprocessing.from_dict({**preprocessing().to_dict(), **change})
    assert caught.value.code == ("EV136" if "surprise" in change else "EV108")


def test_missing_value_is_refused() -> None:
    values = preprocessing().to_dict()
    del values["mean"]
    with pytest.raises(DataError, match="mean"):
        Preprocessing.from_dict(values)


def test_extreme_ratio_is_refused_instead_of_filling_memory() -> None:
    with pytest.raises(DataError) as caught:
        preprocessing().pixels(Image.new("RGB", (60_000, 1)))
    assert caught.value.code == "EV132"


@pytest.mark.parametrize("values", [{"mean": (1e30,) * 3}, {"std": (1e-30,) * 3}])
def test_values_that_leave_float32_are_impossible(values):
    both = {"mean": (0.5,) * 3, "std": (0.5,) * 3, **values}
    with pytest.raises(DataError, match="EV108"):
        Preprocessing.from_crop_pct(
            input_size=(3, 32, 32), crop_pct=1.0, interpolation="bicubic", **both
        )
