"""Drawing a calibration set, and the labels of class folders."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgevit.data import ImageItem, ImageSet, Preprocessing, labels_for, open_images
from edgevit.data.sources import FolderSource
from edgevit.errors import DataError

# --- drawing ------------------------------------------------------------------------------------


def image_set(counts: list[int], shuffle: int = 0) -> ImageSet:
    items = [
        ImageItem(name=f"c{c}/{i:03}.png", folder=f"c{c}")
        for c, count in enumerate(counts)
        for i in range(count)
    ]
    order = np.random.default_rng(shuffle).permutation(len(items))
    return ImageSet(
        location="here",
        source=FolderSource(Path("nowhere")),
        items=tuple(items[i] for i in order),
        classes=tuple(f"c{c}" for c in range(len(counts))),
    )


@settings(max_examples=80, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=8), data=st.data())
def test_draw_is_balanced_and_deterministic(counts: list[int], data: st.DataObject) -> None:
    num = data.draw(st.integers(1, sum(counts)))
    seed = data.draw(st.integers(0, 2**31))
    drawn = image_set(counts).subset(num, seed)
    assert len(drawn) == len({item.name for item in drawn.items}) == num
    assert drawn.items == image_set(counts, shuffle=seed + 1).subset(num, seed).items
    fewer = data.draw(st.integers(1, num))  # the first few are a draw of their own, as even
    assert drawn.items[:fewer] == image_set(counts).subset(fewer, seed).items
    taken = Counter(item.folder for item in drawn.items)
    most = max(taken.values())
    for c, count in enumerate(counts):  # nobody is behind by two unless used up
        assert taken[f"c{c}"] >= min(most - 1, count)


def test_draw_changes_with_the_seed_and_is_pinned() -> None:
    images = image_set([20] * 5)
    draws = {images.subset(10, seed).items for seed in range(20)}
    assert len(draws) == 20
    names = [item.name for item in images.subset(3, 0).items]
    # A new version must draw the same calibration images.
    assert sorted(names) == ["c0/011.png", "c2/011.png", "c4/003.png"]
    assert names == [item.name for item in images.subset(9, 0).items[:3]]


def test_too_few_images() -> None:
    with pytest.raises(DataError) as caught:
        image_set([3, 3]).subset(7, 0)
    assert caught.value.code == "EV103"
    assert "there are 6" in caught.value.what
    assert "--num-calib 6" in caught.value.try_next


# --- labels -------------------------------------------------------------------------------------


def test_subset_of_the_classes_and_other_case() -> None:
    images = image_set([1, 1])
    assert labels_for(["c2", "C1", "c0", "c9"], images).labels == {"c0": 2, "c1": 1}


def test_exact_name_wins_over_other_case() -> None:
    assert labels_for(["C0", "c0", "c1"], image_set([1, 1])).labels == {"c0": 1, "c1": 2}


def test_unmatched_folders_are_named() -> None:
    with pytest.raises(DataError, match="EV105") as caught:
        labels_for([f"n{i}" for i in range(1000)], image_set([1] * 12))
    assert "12 of 12 folders" in caught.value.why
    assert "c0, c1, c10, c11" not in caught.value.why
    assert "c0, c1, c2, c3, c4, c5, c6, c7, ..." in caught.value.why


def test_order_counts_only_without_names_and_with_all_classes() -> None:
    images = image_set([1, 1, 1])
    assert labels_for(None, images, 3).labels == {"c0": 0, "c1": 1, "c2": 2}
    for count in (2, 4, None):
        with pytest.raises(DataError, match="EV105"):
            labels_for(None, images, count)


def folders(root: Path, names: list[str]) -> ImageSet:
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / "a.png")
    return open_images(root)


def test_numbered_folders_are_label_indices(tmp_path: Path) -> None:
    names = [f"name {i}" for i in range(11)]
    images = folders(tmp_path, [str(i) for i in range(11)])
    assert labels_for(names, images).labels == {str(i): i for i in range(11)}
    assert labels_for(None, images, 11).labels == {str(i): i for i in range(11)}
    with pytest.raises(DataError, match="EV105"):  # 11 of 12: counted from 0 or from 1?
        labels_for([*names, "name 11"], images)


def test_missing_label_is_an_error_not_a_guess(tmp_path: Path) -> None:
    images = replace(folders(tmp_path, ["cat", "dog"]), labels={"cat": 0})
    half = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing.from_crop_pct(
        input_size=(3, 8, 8), crop_pct=1.0, interpolation="bicubic", mean=half, std=half
    )
    with pytest.raises(DataError, match="dog"):
        next(images.batches(preprocessing, 2))
