"""Where a model's class names come from: stated, beside its checkpoint, its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgevit.data import Preprocessing
from edgevit.errors import DataError, UsageError
from edgevit.zoo.class_names import check_naming, name_classes, stated_names
from edgevit.zoo.imagenet import wordnet_ids
from edgevit.zoo.loaded import LoadedModel, loaded_from_module


def loaded(logits: int = 3, classes: tuple[str, ...] | None = None) -> LoadedModel:
    half = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing.from_crop_pct(
        input_size=(3, 8, 8), crop_pct=1.0, interpolation="bicubic", mean=half, std=half
    )
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, logits))
    return loaded_from_module(module, preprocessing, classes=classes)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_own_names_without_others(weights: Path) -> None:
    own = loaded(classes=("a", "b", "c"))
    assert name_classes(own, None, None, None).names == ("a", "b", "c")
    assert name_classes(own, None, None, weights).source == "the model"
    assert name_classes(loaded(), None, "timm", weights).order == "timm"


def test_a_file_beside_the_checkpoint_is_found_and_said(weights: Path) -> None:
    (weights.parent / "labels.txt").write_text("x\ny\nz\n")
    found = name_classes(loaded(classes=("a", "b", "c")), None, None, weights)
    assert (found.names, found.source) == (("x", "y", "z"), "labels.txt beside the checkpoint")
    (weights.parent / "classes.json").write_text('{"z": 2, "y": 1, "x": 0}')  # says the same
    assert name_classes(loaded(), None, None, weights).names == ("x", "y", "z")
    (weights.parent / "config.json").write_text('{"id2label": {"0": "z", "1": "y", "2": "x"}}')
    with pytest.raises(DataError, match="EV124") as caught:
        name_classes(loaded(), None, None, weights)
    assert "labels.txt, classes.json, config.json" in caught.value.why
    assert name_classes(loaded(), ["1", "2", "3"], None, weights).names == ("1", "2", "3")


def test_a_file_that_does_not_fit_is_noted(weights: Path) -> None:
    (weights.parent / "labels.txt").write_text("x\ny\n")
    (weights.parent / "config.json").write_text('{"model_type": "vit"}')
    found = name_classes(loaded(), None, None, weights)
    assert found.names is None
    assert found.notes == (
        "labels.txt beside the checkpoint was not taken: There are 2 class names for 3 classes.",
    )


def test_two_statements_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="EV137"):
        check_naming(["a"], "timm")
    with pytest.raises(UsageError, match="EV116"):
        check_naming(None, "alphabet")
    with pytest.raises(DataError, match="EV115"):
        check_naming(tmp_path / "none.txt", None)


def test_names_of_imagenet_become_wordnet_ids(tmp_path: Path) -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    english = [info.index_to_description(index).split(",")[0] for index in range(1000)]
    assert len(set(english)) < 1000  # cranes are birds and machines
    (tmp_path / "a.json").write_text(json.dumps(english))
    assert stated_names(tmp_path / "a.json", 1000)[0] == wordnet_ids()


def test_one_logit_has_two_names() -> None:
    assert loaded(1, ("no", "yes")).classes == ("no", "yes")
    assert stated_names(["no", "yes"], 1)[0] == ("no", "yes")
    with pytest.raises(DataError, match="EV122"):
        stated_names(["yes"], 1)


def test_placeholders_given_as_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("LABEL_0\nLABEL_1\n")
    with pytest.raises(DataError, match="EV119"):
        stated_names(tmp_path / "a.txt", 2)


@pytest.mark.parametrize("stated", [(["a", "b"], None), (None, "timm")])
def test_what_is_stated_for_a_model_without_classes_is_refused(
    stated: tuple[list[str] | None, str | None],
) -> None:
    tower = replace(loaded(), num_classes=None, task="embed")
    with pytest.raises(UsageError, match="EV355"):
        name_classes(tower, *stated, None)
    assert name_classes(tower, None, None, None).names is None
