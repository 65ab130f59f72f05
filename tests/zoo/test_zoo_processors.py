"""Preprocessing read from transformers' processors, against the processors on real photographs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from edgevit.data import Preprocessing
from edgevit.data.photographs import photographs
from edgevit.errors import UnsupportedError
from edgevit.zoo.processors import preprocessing_from_transformers as read

SQUARE, WIDE = {"height": 64, "width": 64}, {"height": 64, "width": 96}
FIXED: list[tuple[str, dict[str, Any]]] = [
    ("MobileViTImageProcessor", {"size": {"shortest_edge": 288}, "crop_size": 256}),
    ("MobileViTImageProcessor", {"do_flip_channel_order": False, "crop_size": 192}),
    ("LevitImageProcessor", {}),
    ("PoolFormerImageProcessor", {}),
    ("PoolFormerImageProcessor", {"crop_pct": 0.95, "size": SQUARE, "crop_size": SQUARE}),
    ("ViTImageProcessor", {}),
    ("DeiTImageProcessor", {}),
    ("BeitImageProcessor", {"do_center_crop": True, "size": SQUARE, "crop_size": 57}),
    ("BitImageProcessor", {"size": {"shortest_edge": 97}, "crop_size": 64}),
    ("CLIPImageProcessor", {}),
    ("SiglipImageProcessor", {}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
    ("PvtImageProcessor", {}),
    ("SegformerImageProcessor", {"size": SQUARE}),
    ("DPTImageProcessor", {"size": WIDE, "ensure_multiple_of": 32}),
    ("YolosImageProcessor", {"size": WIDE}),
    ("RTDetrImageProcessor", {"size": WIDE}),
    ("MobileNetV2ImageProcessor", {}),
]
OPEN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("YolosImageProcessor", {}, {"size": WIDE}),
    ("DetrImageProcessor", {}, {"size": WIDE}),
    ("DPTImageProcessor", {"keep_aspect_ratio": True}, {"size": WIDE, "keep_aspect_ratio": False}),
]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    images = photographs()
    drawn = images.items[:: len(images.items) // 8]
    return [images.source.decode(images.source.read(images.prefix + item.name)) for item in drawn]


def pillow(name: str) -> Any:
    """Return the processor's form that resizes with Pillow."""
    return getattr(transformers, f"{name}Pil")


def levels(ours: Preprocessing, theirs: Any, picture: Image.Image) -> tuple[float, float]:
    """Return the largest and the mean difference in 8-bit levels."""
    scale = 255 * np.asarray(ours.std).reshape(3, 1, 1)
    mine = ours.normalize(ours.pixels(picture)[None])
    assert theirs["pixel_values"].shape == mine.shape
    difference = np.abs((mine - theirs["pixel_values"]) * scale)
    return float(difference.max()), float(difference.mean())


@pytest.mark.parametrize(("name", "settings"), FIXED)
def test_pixels_are_the_processors(
    name: str, settings: dict[str, Any], pictures: list[Image.Image]
) -> None:
    ours = read(getattr(transformers, name)(**settings))
    assert ours == read(pillow(name)(**settings))
    for picture in pictures:
        theirs = pillow(name)(**settings)(picture, return_tensors="np")
        assert levels(ours, theirs, picture)[0] < 1e-3
        default = getattr(transformers, name)(**settings)(picture, return_tensors="np")
        largest, mean = levels(ours, default, picture)  # another library resizes
        assert (largest < 2.1, mean < 0.05) == (True, True)


@pytest.mark.parametrize(("name", "settings", "call"), OPEN)
def test_a_size_is_asked_for_where_the_processor_has_none(
    name: str, settings: dict[str, Any], call: dict[str, Any], pictures: list[Image.Image]
) -> None:
    processor = pillow(name)(**settings)
    with pytest.raises(UnsupportedError, match="--input-size HxW"):
        read(processor)
    ours = read(processor, (64, 96))
    assert ours.input_size == (3, 64, 96)
    for picture in pictures:
        theirs = processor(picture, return_tensors="np", **call)
        assert levels(ours, theirs, picture)[0] < 1e-3


@pytest.mark.parametrize(
    ("name", "size"), [("SamImageProcessor", (96, 96)), ("Siglip2ImageProcessor", (64, 96))]
)
def test_pictures_of_the_asked_ratio_are_the_processors(name: str, size: tuple[int, int]) -> None:
    processor = getattr(transformers, name)()
    with pytest.raises(UnsupportedError, match="EV158"):
        read(processor)
    ours = read(processor, size)
    assert ours.input_size == (3, *size)
    assert ours.mean == tuple(processor.image_mean)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("EfficientNetImageProcessor", {}),  # normalises twice
        ("GLPNImageProcessor", {}),  # rounds a picture's own size down
        ("Owlv2ImageProcessor", {}),  # pads to a square
        ("Swin2SRImageProcessor", {}),
    ],
)
def test_what_can_not_be_reproduced_is_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="EV158"):
        read(getattr(transformers, name)(**settings))


def test_blue_comes_first_where_the_processor_flips(pictures: list[Image.Image]) -> None:
    flipped = read(transformers.MobileViTImageProcessor())
    plain = read(transformers.MobileViTImageProcessor(do_flip_channel_order=False))
    assert (flipped.channel_order, plain.channel_order) == ("BGR", "RGB")
    pixels = flipped.pixels(pictures[0])
    assert np.array_equal(pixels[..., ::-1], plain.pixels(pictures[0]))
    assert pixels.flags["C_CONTIGUOUS"]
    assert Preprocessing.from_dict(flipped.to_dict()) == flipped
