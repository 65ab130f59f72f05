"""The table of short names against timm itself, and the list of models."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from timm.data import ImageNetInfo
from timm.models import get_pretrained_cfg
from torch.utils.flop_counter import FlopCounterMode

from edgevit.errors import UsageError
from edgevit.zoo import EMBEDDED_MODELS, list_models
from edgevit.zoo.checkpoints import CHECKPOINTS, CheckpointFormat
from edgevit.zoo.imagenet import wordnet_ids, wordnet_ids_if_imagenet
from edgevit.zoo.listing import unknown_model

ROWS = pytest.mark.parametrize("row", CHECKPOINTS.values(), ids=list(CHECKPOINTS))


@ROWS
def test_tag_exists_and_values_are_timms(row: CheckpointFormat) -> None:
    assert row.tag in timm.list_models(pretrained=True)
    config = get_pretrained_cfg(row.tag)
    assert f"{config.architecture}.{config.tag}" == row.tag
    for name in ("input_size", "mean", "std", "interpolation", "crop_pct"):
        assert getattr(config, name) == getattr(row, name), name
    assert (config.crop_mode, config.num_classes) == ("center", 1000)


@ROWS
def test_parameters_and_flops(row: CheckpointFormat) -> None:
    """Two operations per multiply-add; the literature leaves small terms out and rounds."""
    with torch.device("meta"):
        model = timm.create_model(row.tag, pretrained=False).eval()
        image = torch.empty(1, *row.input_size)
    assert sum(p.numel() for p in model.parameters()) == row.parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    assert counter.get_total_flops() / 2 == pytest.approx(row.flops, rel=0.04)


def test_short_names_are_the_ones_promised() -> None:
    sizes = {"vit": "tsbl", "deit": "tsb", "swin": "tsbl"}
    names = [f"{family}_{size}" for family, letters in sizes.items() for size in letters]
    assert list(CHECKPOINTS) == names


def test_imagenet_names() -> None:
    ids = wordnet_ids()
    assert (len(ids), ids[0], ids[999]) == (1000, "n01440764", "n15075141")
    info = ImageNetInfo()
    english = [info.index_to_description(index) for index in range(1000)]
    assert wordnet_ids_if_imagenet(english) == ids
    assert wordnet_ids_if_imagenet([name.split(",")[0] for name in english]) == ids
    assert wordnet_ids_if_imagenet(english[::-1]) == tuple(english[::-1])
    assert wordnet_ids_if_imagenet(["cat", "dog"]) == ("cat", "dog")


def test_list_of_short_names_needs_no_torch() -> None:
    code = (
        "from edgevit.zoo import list_models; import sys; rows = list_models(); "
        "assert 'torch' not in sys.modules; print(len(rows))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ran.stdout) == len(CHECKPOINTS) + len(EMBEDDED_MODELS)


def test_list_with_a_pattern() -> None:
    rows = {row.name: row for row in list_models("swin_*")}
    assert rows["swin_b"].parameters == 87_768_224
    assert rows["swin_b"].flops == 15_400_000_000
    assert rows["swin_b"].input_size == (3, 224, 224)
    tagged = rows["swin_large_patch4_window12_384.ms_in22k"]
    assert tagged.input_size == (3, 384, 384)
    assert (tagged.parameters, tagged.flops) == (None, None)
    assert "vit_b" not in rows
    assert all("deit3" in row.name for row in list_models("deit3"))
    assert list_models("no such model") == []


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("swim_b", "swin_b"),
        ("vit-cifar10", "vit_cifar10"),
        ("vit_base_patch16_242", "vit_base_patch16_224"),
        ("vit_tiny_patch16_224.augreg", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
    ],
)
def test_unknown_name_gives_the_nearest(name: str, near: str) -> None:
    error = unknown_model(name)
    assert isinstance(error, UsageError)
    assert near in error.why
