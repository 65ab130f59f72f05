"""Crops of the photographs that ship: many, different, the same everywhere, each with a licence."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.data import Preprocessing
from edgevit.data.photographs import CropSource, crop_of, is_stand_in, photographs
from edgevit.errors import EnvironmentError_

FOLDER = Path(str(files("edgevit") / "assets" / "photos"))
PREPROCESSING = Preprocessing.from_crop_pct(
    input_size=(3, 64, 64),
    crop_pct=0.9,
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def test_a_thousand_crops_of_fifteen_photographs():
    images = photographs()
    assert len(images) >= 1024
    assert len(images.classes) == 15
    assert is_stand_in(images)
    assert is_stand_in(images.subset(3, 0))


def test_a_draw_holds_every_photograph_and_no_crop_twice():
    subset = photographs().subset(32, 0)
    assert len({item.folder for item in subset.items}) == 15
    ((pixels, labels, names),) = subset.batches(PREPROCESSING, 32)
    assert pixels.shape == (32, 64, 64, 3)
    assert (labels == -1).all()
    assert len({picture.tobytes() for picture in pixels}) == len(set(names)) == 32
    assert len(set(subset.sha256s())) == 32


def test_a_crop_depends_on_its_name_alone():
    photo = Image.fromarray(
        np.arange(300 * 451 * 3, dtype=np.uint32).astype(np.uint8).reshape(300, 451, 3)
    )
    first, second = (np.asarray(crop_of(photo, name)) for name in (b"a/00", b"a/01"))
    assert np.array_equal(first, np.asarray(crop_of(photo, b"a/00")))
    assert first.shape != second.shape or not np.array_equal(first, second)


@pytest.mark.parametrize("size", [(451, 300), (1, 1), (1000, 3)])
def test_crops_lie_inside_and_have_a_quarter_of_the_area_where_they_can(size):
    photo = Image.new("RGB", size)
    for number in range(50):
        crop = crop_of(photo, f"x/{number}".encode())
        assert 1 <= crop.width <= size[0]
        assert 1 <= crop.height <= size[1]
        if size == (451, 300):
            assert crop.width * crop.height >= 0.2 * 451 * 300


def test_every_photograph_has_its_licence_and_all_are_small():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if line.startswith("| ") and ".jpg" in line]
    photos = sorted(path.name for path in FOLDER.glob("*.jpg"))
    assert [row.split(" | ")[0].strip("| ") for row in rows] == photos
    assert all("CC0" in row or "public domain" in row for row in rows)
    assert sum((FOLDER / name).stat().st_size for name in photos) < 1_500_000


def test_an_incomplete_installation_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("edgevit.data.photographs.files", lambda _: tmp_path)
    with pytest.raises(EnvironmentError_, match="EV186"):
        photographs()
    assert CropSource(tmp_path).names() == []
