"""A small dense task made of what is there: CIFAR-10 objects cut out and pasted on photographs.

A scene has one to three objects of five classes, each in an ellipse of its own size and slope; the
mask says for every pixel which class it belongs to, 0 where the photograph shows. Photographs and
objects of the test scenes are others than those of the training scenes.
"""

from __future__ import annotations

import io
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

CLASSES = ("background", "airplane", "automobile", "ship", "frog", "horse")
SIDE = 64
_TEST_PHOTOGRAPHS = 84
_SHORTER_SIDE = 128
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What scenes are made of.

    Args:
        photographs: uint8 [H, W, 3] each, the shorter side 128.
        objects: For each class beside the background, uint8 [N, 32, 32, 3].
    """

    photographs: tuple[Pixels, ...]
    objects: tuple[Pixels, ...]


def material(data: Path, split: str) -> Material:
    """Read photographs and CIFAR-10 objects of the split, "train" or "test"."""
    files = sorted((data / "photos").glob("*.jpg"))
    chosen = files[-_TEST_PHOTOGRAPHS:] if split == "test" else files[:-_TEST_PHOTOGRAPHS]
    return Material(
        photographs=tuple(map(_photograph, chosen)),
        objects=tuple(_objects(data / "cifar10.tar.gz", split)),
    )


def scenes(source: Material, seed: int) -> Iterator[tuple[Pixels, Pixels]]:
    """Yield (pixels uint8 [64, 64, 3], mask uint8 [64, 64]) without end."""
    random = np.random.default_rng(seed)
    while True:
        pixels = _background(source.photographs, random)  # [64, 64, 3]
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for _ in range(random.integers(1, 4)):
            _paste(pixels, mask, source.objects, random)
        yield pixels, mask


def _photograph(path: Path) -> Pixels:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    scale = _SHORTER_SIDE / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def _objects(archive: Path, split: str) -> Iterator[Pixels]:
    """Yield uint8 [N, 32, 32, 3] for each class in the order of `CLASSES`."""
    found: dict[str, list[tuple[str, Pixels]]] = defaultdict(list)
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = member.name.split("/")
            if member.isfile() and parts[0] == split and parts[1] in CLASSES:
                file = tar.extractfile(member)
                assert file is not None
                picture = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
                found[parts[1]].append((parts[2], picture))
    for name in CLASSES[1:]:
        yield np.stack([picture for _, picture in sorted(found[name], key=lambda pair: pair[0])])


def _background(photographs: tuple[Pixels, ...], random: np.random.Generator) -> Pixels:
    photograph = photographs[random.integers(len(photographs))]
    side = int(random.integers(SIDE, _SHORTER_SIDE + 1))
    top, left = (int(random.integers(length - side + 1)) for length in photograph.shape[:2])
    crop = Image.fromarray(photograph[top : top + side, left : left + side])
    pixels = np.array(crop.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return pixels[:, ::-1].copy() if random.random() < 0.5 else pixels


def _paste(
    pixels: Pixels, mask: Pixels, objects: tuple[Pixels, ...], random: np.random.Generator
) -> None:
    """Put one object into the scene in place."""
    index = int(random.integers(len(objects)))
    picture = objects[index][random.integers(len(objects[index]))]
    picture = picture[:, ::-1] if random.random() < 0.5 else picture
    side = int(random.integers(24, 45))
    scaled = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
    top, left = (int(random.integers(-side // 4, SIDE - 3 * side // 4)) for _ in range(2))
    y, x = np.mgrid[:side, :side] * (2 / (side - 1)) - 1  # [side, side], -1 to 1
    slope, ratio = random.uniform(0, np.pi), random.uniform(0.7, 1)
    u, v = x * np.cos(slope) + y * np.sin(slope), y * np.cos(slope) - x * np.sin(slope)
    inside = u**2 + (v / ratio) ** 2 <= 1  # [side, side]
    rows, columns = slice(max(top, 0), top + side), slice(max(left, 0), left + side)
    here = (slice(max(-top, 0), SIDE - top), slice(max(-left, 0), SIDE - left))
    inside = inside[here]
    pixels[rows, columns][inside] = np.asarray(scaled)[here][inside]
    mask[rows, columns][inside] = index + 1
