"""Files of class names: every form they come in, and what is refused with which code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgevit.data.classes import check_class_names, read_class_names
from edgevit.errors import DataError

NAMES = ("cat", "big dog", "eel")
FORMS: dict[str, Any] = {
    "a.json": list(NAMES),
    "class_to_idx.json": {"eel": 2, "cat": 0, "big dog": 1},
    "id2label": {"1": "big dog", "0": "cat", "2": "eel"},
    "index.json": {"0": ["cat", "x"], "1": ["big dog", "y"], "2": ["eel", "z"]},
    "transformers.json": {
        "model_type": "vit",
        "id2label": {"0": "cat", "1": "big dog", "2": "eel"},
    },
    "label2id.json": {"label2id": {"cat": 0, "big dog": 1, "eel": 2}},
    "timm.json": {"architecture": "vit", "label_names": list(NAMES), "num_classes": 3},
    "timm_inner.json": {"pretrained_cfg": {"label_names": list(NAMES)}, "architecture": "vit"},
}


@pytest.mark.parametrize("name", FORMS)
def test_json_forms(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(FORMS[name]))
    assert read_class_names(tmp_path / name) == NAMES


@pytest.mark.parametrize(
    "text",
    ["cat\nbig dog\neel", "cat\r\nbig dog\r\neel\r\n", "\ufeffcat \n big dog\neel\n\n"],
)
def test_text_forms(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert read_class_names(tmp_path / "a.txt") == NAMES


def test_what_torchvision_and_transformers_write(tmp_path: Path) -> None:
    from transformers import ViTConfig

    ViTConfig(id2label=dict(enumerate(NAMES))).save_pretrained(tmp_path)
    assert read_class_names(tmp_path / "config.json") == NAMES
    ViTConfig(num_labels=3).save_pretrained(tmp_path)
    assert read_class_names(tmp_path / "config.json") == ()  # LABEL_0, ... are no names


def test_what_timm_writes(tmp_path: Path) -> None:
    import timm
    from timm.models import save_for_hf

    model = timm.create_model("test_vit", num_classes=3)
    save_for_hf(model, tmp_path, model_config={"label_names": list(NAMES)})
    assert read_class_names(tmp_path / "config.json") == NAMES


REFUSED = [
    ("a.txt", b"cat\n\ndog\n", "EV120"),
    ("a.txt", b"", "EV120"),
    ("a.json", b'["cat", ""]', "EV120"),
    ("a.txt", "caf\u00e9\n".encode("latin-1"), "EV118"),
    ("a.txt", "cat\n".encode("utf-16"), "EV118"),
    ("a.json", b"{", "EV119"),
    ("a.json", b"3", "EV119"),
    ("a.json", b"[]", "EV119"),
    ("a.json", b'["cat", 1]', "EV119"),
    ("a.json", b'{"model_type": "vit"}', "EV119"),
    ("a.json", b"[" * 100000, "EV119"),
    ("a.json", b'{"cat": 1, "dog": 2}', "EV121"),
    ("a.json", b'{"cat": 0, "dog": 0}', "EV121"),
    ("a.json", b'{"0": "cat", "2": "dog"}', "EV121"),
    ("a.json", b"{}", "EV121"),
]


@pytest.mark.parametrize(("name", "content", "code"), REFUSED)
def test_refused(name: str, content: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_class_names(tmp_path / name)
    assert caught.value.code == code
    assert caught.value.try_next


@pytest.mark.parametrize("name", [".", "none.txt", "a\0b", "x" * 5000, "/dev/zero"])
def test_no_regular_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="EV115"):
        read_class_names(tmp_path / name)


def test_counts_and_duplicates() -> None:
    assert check_class_names(NAMES, 3, "here") == NAMES
    with pytest.raises(DataError, match="EV122") as caught:
        check_class_names(NAMES, 4, "here")
    assert "3 class names for 4 classes" in caught.value.what
    with pytest.raises(DataError, match="EV123") as caught:
        check_class_names(["a", "b", "a"], 3, "here")
    assert "'a' names the classes 0, 2" in caught.value.why
