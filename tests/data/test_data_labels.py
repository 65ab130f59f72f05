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
from timm.utils.misc import natural_key

from edgevit.data import ImageItem, ImageSet, Preprocessing, labels_for, open_images
from edgevit.data.class_orders import CLASS_ORDERS
from edgevit.data.labels import label_facts
from edgevit.data.sources import FolderSource
from edgevit.errors import DataError, UsageError

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
    with pytest.raises(DataError, match="EV112"):  # without names: ImageFolder has 10 behind 1
        labels_for(None, images, 11)
    assert labels_for(None, images, 11, order="timm").labels == {str(i): i for i in range(11)}
    assert labels_for(None, images, 11, order="torchvision").labels["10"] == 2
    with pytest.raises(DataError, match="EV105"):  # 11 of 12: counted from 0 or from 1?
        labels_for([*names, "name 11"], images)


# --- the order of folders, where there are no names ---------------------------------------------

DIFFERENT = (["1", "2", "10"], ["class_1", "class_10", "class_2"], ["apple", "Zebra"])
ALIKE = (["cat", "dog"], ["01", "02", "10"], ["class_0", "class_1"], ["0", "1", "9"], ["A", "B"])


@pytest.mark.parametrize("names", DIFFERENT)
def test_where_libraries_differ_the_order_is_asked_for(tmp_path: Path, names: list[str]) -> None:
    images = folders(tmp_path, names)
    with pytest.raises(DataError, match="EV112") as caught:
        labels_for(None, images, len(names))
    assert "--class-order torchvision" in caught.value.try_next
    assert "--classes" in caught.value.try_next
    ordered = sorted(names)
    assert f"torchvision {ordered[0]}" in caught.value.why
    found = labels_for(None, images, len(names), order="torchvision")
    assert found.labels == {name: index for index, name in enumerate(ordered)}
    assert "torchvision" in found.labels_from
    assert labels_for(None, images, len(names), order="timm").labels != found.labels


@pytest.mark.parametrize("names", ALIKE)
def test_where_libraries_agree_their_order_is_taken_and_said(
    tmp_path: Path, names: list[str]
) -> None:
    found = labels_for(None, folders(tmp_path, names), len(names))
    assert found.labels == {name: index for index, name in enumerate(sorted(names))}
    assert found.labels_from == "order of the folders as in torchvision and timm"


def real_orders(root: Path) -> tuple[list[str], list[str]]:
    from timm.data.readers.reader_image_folder import ReaderImageFolder
    from torchvision.datasets import ImageFolder

    theirs = ImageFolder(root).class_to_idx, ReaderImageFolder(str(root)).class_to_idx
    first, second = (sorted(one, key=one.__getitem__) for one in theirs)
    return first, second


# Without superscript digits, at which timm's own reader fails.
ODD = st.text(st.sampled_from("aAbBzZ_- .éßİ٣0123456789"), min_size=1, max_size=6).filter(
    lambda name: name.strip(". ") == name and not name.startswith(".")
)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(ODD, min_size=1, max_size=9, unique=True))
def test_orders_are_those_of_the_real_libraries(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("real")
    for name in names:
        (root / name).mkdir()
        (root / name / "a.png").touch()
    torchvision, timm = real_orders(root)
    assert CLASS_ORDERS["torchvision"](names) == torchvision
    if len({str(natural_key(name)) for name in names}) == len(names):
        assert CLASS_ORDERS["timm"](names) == timm
    else:  # 1 and 01, a and A: the real one goes by the hashes of a set
        with pytest.raises(DataError, match="EV117"):
            CLASS_ORDERS["timm"](names)


def test_names_that_timm_can_not_tell_apart(tmp_path: Path) -> None:
    images = folders(tmp_path, ["1", "01", "b"])
    with pytest.raises(DataError, match="EV112") as caught:
        labels_for(None, images, 3)
    assert "timm at random" in caught.value.why
    with pytest.raises(DataError, match="EV117"):
        labels_for(None, images, 3, order="timm")
    assert labels_for(None, images, 3, order="torchvision").labels == {"01": 0, "1": 1, "b": 2}


def test_a_number_of_any_length_is_compared() -> None:
    long = "9" * 5000  # int() refuses it
    assert CLASS_ORDERS["timm"]([f"{long}0", long, "7"]) == ["7", long, f"{long}0"]


def test_order_stated_beside_names(tmp_path: Path) -> None:
    images = folders(tmp_path, ["cat", "dog", "eel"])
    assert labels_for(["cat", "dog", "eel"], images, order="timm").labels["eel"] == 2
    with pytest.raises(UsageError, match="EV113") as caught:
        labels_for(["eel", "dog", "cat"], images, order="timm")
    assert "Folder eel is class 0 by name and 2 by order" in caught.value.why
    # Names that are not the folders': the order that was stated counts.
    assert labels_for(["x", "y", "z"], images, order="timm").labels["eel"] == 2
    with pytest.raises(UsageError, match="EV116"):
        labels_for(None, images, 3, order="keras")


def test_a_subset_needs_names(tmp_path: Path) -> None:
    images = folders(tmp_path, ["cat", "eel"])
    assert labels_for(["ape", "cat", "dog", "eel"], images).labels == {"cat": 1, "eel": 3}
    for order in (None, "torchvision"):
        with pytest.raises(DataError, match="EV105") as caught:
            labels_for(None, images, 4, order=order)
        assert "--classes FILE" in caught.value.try_next


def test_a_data_file_that_names_its_classes_says_their_order(tmp_path: Path) -> None:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    labels = np.array([0, 1])
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels, classes=["zebra", "ape"])
    found = labels_for(None, open_images(tmp_path / "a.npz"), 2)
    assert found.labels == {"zebra": 0, "ape": 1}
    assert found.labels_from == "class names of the data file"


def test_one_logit_tells_two_classes_apart(tmp_path: Path) -> None:
    images = folders(tmp_path, ["negative", "positive"])
    assert labels_for(None, images, 1).labels == {"negative": 0, "positive": 1}
    assert labels_for(["positive", "negative"], images, 1).labels == {"negative": 1, "positive": 0}


def test_facts_for_a_report_are_bounded_and_in_order(tmp_path: Path) -> None:
    names = [f"n{index:04}" for index in range(1000)]
    images = replace(image_set([1] * 3), classes=tuple(names))
    facts = label_facts(labels_for(names[::-1], images))
    assert facts is not None
    assert facts["num_folders"] == 1000
    assert list(facts["mapping"].items())[:2] == [("n0999", 0), ("n0998", 1)]
    assert len(facts["mapping"]) == 50
    odd = replace(images, classes=("a\udcff",), labels={"a\udcff": 0})
    assert list((label_facts(odd) or {})["mapping"]) == ["a\\udcff"]
    assert label_facts(labels_for(["x"], replace(images, classes=()))) is None


def test_missing_label_is_an_error_not_a_guess(tmp_path: Path) -> None:
    images = replace(folders(tmp_path, ["cat", "dog"]), labels={"cat": 0})
    half = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing.from_crop_pct(
        input_size=(3, 8, 8), crop_pct=1.0, interpolation="bicubic", mean=half, std=half
    )
    with pytest.raises(DataError, match="dog"):
        next(images.batches(preprocessing, 2))


def test_numbers_that_are_names_of_other_classes_are_no_indices(tmp_path: Path) -> None:
    """Folders 0, 1, 2 and classes called 1, 2, 3: folder 1 is the class of that name, not "2"."""
    images = folders(tmp_path, ["0", "1", "2"])
    with pytest.raises(DataError, match="EV105"):
        labels_for(["1", "2", "3"], images)
