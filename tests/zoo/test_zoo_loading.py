"""Every way to name a model, with tiny models, on a machine that may have no network."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from edgevit.data import Preprocessing, labels_for, open_images
from edgevit.errors import DataError, EdgeViTError, EnvironmentError_, UnsupportedError, UsageError
from edgevit.zoo import (
    EMBEDDED_MODELS,
    list_models,
    load_model,
    loaded_from_module,
    network,
    reference_images,
    timm_models,
)
from edgevit.zoo.checkpoints import CHECKPOINTS
from edgevit.zoo.embedded import embedded_config
from edgevit.zoo.network import downloads, is_offline

TINY = "test_vit"  # 0.4 M parameters, input 160


def caught(name: str, kind: type[EdgeViTError], code: str, **choices: object) -> EdgeViTError:
    with pytest.raises(kind) as info:
        load_model(name, **choices)
    assert info.value.code == code
    return info.value


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Point both downloads to a closed port of this machine, and caches to an empty folder."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


# --- timm ---------------------------------------------------------------------------------------


def test_short_name_is_the_table_row() -> None:
    loaded = load_model("deit_t", pretrained=False)
    row = CHECKPOINTS["deit_t"]
    assert (loaded.name, loaded.source) == ("deit_t", f"timm:{row.tag}")
    assert (loaded.parameters, loaded.flops, loaded.num_classes) == (
        row.parameters,
        row.flops,
        1000,
    )
    assert loaded.preprocessing == Preprocessing(
        input_size=(3, 224, 224),
        resize_size=248,
        interpolation="bicubic",
        crop_pct=0.9,
        mean=row.mean,
        std=row.std,
    )
    assert loaded.classes is not None
    assert loaded.classes[:2] == ("n01440764", "n01443537")
    assert not loaded.pretrained
    assert not loaded.model.training


def test_random_weights_follow_the_seed_and_leave_torch_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    hashes = [load_model(TINY, pretrained=False, seed=s).weights_sha256 for s in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert hashes[0] == hashes[1] != hashes[2]


def test_names_without_tag_with_tag_and_with_prefix() -> None:
    sources = {
        load_model(name, pretrained=False).source
        for name in (TINY, f"{TINY}.r160_in1k", f"timm:{TINY}")
    }
    assert sources == {f"timm:{TINY}.r160_in1k"}


def test_weights_file(tmp_path: Path) -> None:
    other = load_model(TINY, pretrained=False, seed=3)
    torch.save({"model": other.model.state_dict()}, tmp_path / "mine.pth")
    loaded = load_model(TINY, weights=tmp_path / "mine.pth")
    assert loaded.weights_sha256 == other.weights_sha256
    assert loaded.pretrained
    assert loaded.source.endswith("mine.pth")


def test_fine_tuned_weights_bring_their_number_of_classes(tmp_path: Path) -> None:
    tuned = timm.create_model(TINY, num_classes=7)
    torch.save(tuned.state_dict(), tmp_path / "w.pth")
    loaded = load_model(TINY, weights=tmp_path / "w.pth")
    assert (loaded.num_classes, loaded.classes) == (7, None)


def test_weights_of_another_model(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit2").state_dict(), tmp_path / "w.pth")
    caught(TINY, DataError, "EV155", weights=tmp_path / "w.pth")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "name",
    ["swin_t", TINY, "hf-hub:timm/test_vit.r160_in1k", "torchvision:vit_b_16", "transformers:a/b"],
)
def test_no_network_is_said_in_seconds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgevit.zoo.torchvision_models.url_failure",
        lambda url: network.url_failure("http://127.0.0.1:9/w.pth"),
    )
    start = time.perf_counter()
    error = caught(name, EnvironmentError_, "EV152")
    assert time.perf_counter() - start < 20
    assert "--weights FILE" in error.try_next or "transformers:FOLDER" in error.try_next


@pytest.mark.usefixtures("no_network")
def test_weights_in_the_cache_need_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = load_model(TINY, pretrained=False, seed=5)
    torch.save(other.model.state_dict(), tmp_path / "w.pth")

    def cached(repository: str, filename: str) -> Path | None:
        assert repository == "timm/test_vit.r160_in1k"
        return tmp_path / "w.pth" if filename == "pytorch_model.bin" else None

    monkeypatch.setattr(timm_models, "_find_cached", cached)
    loaded = load_model(TINY)
    assert loaded.weights_sha256 == other.weights_sha256
    assert loaded.pretrained


def test_models_without_classifier_weights_or_known_crop(no_network: None) -> None:
    caught("vit_small_patch14_dinov2.lvd142m", UnsupportedError, "EV159")
    caught("vit_base_patch16_xp_224", UsageError, "EV184")


def test_local_timm_folder(tmp_path: Path) -> None:
    model = timm.create_model(TINY, num_classes=4)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    config = {"architecture": TINY, "num_classes": 4, "pretrained_cfg": model.pretrained_cfg}
    config["pretrained_cfg"] = {**model.pretrained_cfg, "num_classes": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_model(str(tmp_path))
    assert loaded.num_classes == 4
    assert loaded.preprocessing.input_size == (3, 160, 160)


# --- modules of the user's own ------------------------------------------------------------------

MODULE = """
import torch

def plain():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))

def known(pretrained):
    known.asked = pretrained
    return plain()

known.edgevit_preprocessing = {
    "input_size": (3, 8, 8), "crop_pct": 0.8, "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
}
known.edgevit_classes = ["a", "b", "c", "d"]

def misnamed():
    return plain()

misnamed.edgevit_preprocessing = known.edgevit_preprocessing
misnamed.edgevit_classes = ["a", "b", "c"]

def by_model():
    model = plain()
    model.pretrained_cfg = dict(known.edgevit_preprocessing)
    return model

def no_logits():
    class Counts(torch.nn.Module):
        def forward(self, x):
            return {"count": len(x), "brightest": x.flatten(1).argmax(1)}
    model = Counts()
    model.edgevit_preprocessing = known.edgevit_preprocessing
    return model

def no_module():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_edgevit_models.py").write_text(MODULE)
    (tmp_path / "own_edgevit_broken.py").write_text("import a_package_that_is_missing")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_edgevit_models", raising=False)
    return "own_edgevit_models"


def test_factory(own: str) -> None:
    path = list(sys.path)
    loaded = load_model(f"{own}:known", pretrained=False)
    assert sys.path == path
    assert sys.modules[own].known.asked is False
    assert loaded.preprocessing.resize_size == 10
    assert (loaded.classes, loaded.num_classes) == (("a", "b", "c", "d"), 4)
    assert loaded.source == f"python:{own}:known"
    assert load_model(f"{own}:by_model").preprocessing == loaded.preprocessing
    first, second = (load_model(f"{own}:by_model", seed=1).weights_sha256 for _ in range(2))
    assert first == second


def test_as_many_class_names_as_logits(own: str) -> None:
    with pytest.raises(UsageError, match="EV165") as caught:
        load_model(f"{own}:misnamed")
    assert "3 names and 4 logits" in caught.value.why


def test_a_folder_called_as_a_timm_model_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "test_vit"
    (tmp_path / name).mkdir()  # such as a bundle made before
    monkeypatch.chdir(tmp_path)
    assert load_model(name, pretrained=False).source.startswith(f"timm:{name}")
    (tmp_path / name / "config.json").write_text("no json")
    with pytest.raises(UsageError, match="EV181"):
        load_model(name, pretrained=False)


def test_factory_with_weights(own: str, tmp_path: Path) -> None:
    state = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).state_dict()
    torch.save(state, tmp_path / "w.pth")
    loaded = load_model(f"{own}:known", weights=tmp_path / "w.pth")
    assert torch.equal(loaded.model.state_dict()["1.weight"], state["1.weight"])


def test_factories_that_do_not_work(own: str) -> None:
    assert "edgevit_preprocessing = {" in caught(f"{own}:plain", UsageError, "EV157").try_next
    caught(f"{own}:no_module", UsageError, "EV156")
    caught(f"{own}:no_logits", UsageError, "EV183")
    caught(f"{own}:missing", UsageError, "EV180")
    caught("no_such_package.models:f", UsageError, "EV179")
    caught("not a module:f", UsageError, "EV151")
    error = caught("own_edgevit_broken:f", UsageError, "EV170")
    assert "a_package_that_is_missing" in error.why
    assert "own_edgevit_broken.py, line 1" in error.where


def test_module_of_the_user() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).train()
    given = Preprocessing.from_crop_pct(
        input_size=(3, 8, 8),
        crop_pct=1.0,
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    loaded = loaded_from_module(model, given)
    assert (loaded.name, loaded.num_classes, loaded.parameters) == ("Sequential", 4, 772)
    assert not loaded.model.training
    with pytest.raises(UsageError, match="EV157"):
        loaded_from_module(model)


# --- failures that are not the network's ----------------------------------------------------------


def test_refusals_full_disks_and_bugs_are_told_apart() -> None:
    refused = urllib.error.HTTPError("http://127.0.0.1", 404, "Not Found", None, None)  # type: ignore
    with pytest.raises(EnvironmentError_, match="EV161"), downloads("m"):
        raise refused
    with pytest.raises(EnvironmentError_, match="EV162"), downloads("m"):
        raise OSError(28, "No space left on device")
    for error in (urllib.error.URLError("no route"), TimeoutError(), ConnectionResetError()):
        with pytest.raises(EnvironmentError_, match="EV152"), downloads("m"):
            raise error
    for bug in (RuntimeError("shapes"), KeyError("x"), OSError(13, "denied"), FileNotFoundError()):
        assert not is_offline(bug)
        with pytest.raises(type(bug)), downloads("m"):
            raise bug


def test_wrapped_connection_errors_are_recognised() -> None:
    error = RuntimeError("could not load")
    error.__cause__ = ConnectionRefusedError("refused")
    assert is_offline(error)
    with pytest.raises(EnvironmentError_, match="could not load"), downloads("m"):
        raise error


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_embedded_model(name: str) -> None:
    loaded = load_model(name)
    assert loaded.source == f"edgevit:{name}"
    assert loaded.preprocessing.input_size == (3, 32, 32)
    assert loaded.preprocessing.resize_size == 32
    assert (loaded.num_classes, loaded.pretrained) == (10, True)
    assert loaded.classes is not None
    assert {row.name: row.parameters for row in list_models()}[name] == loaded.parameters
    random = load_model(name, pretrained=False)
    assert random.weights_sha256 != loaded.weights_sha256
    images = labels_for(loaded.classes, open_images(reference_images("test"))).subset(250, 0)
    right = 0
    for pixels, labels, _ in images.batches(loaded.preprocessing, 50):
        with torch.no_grad():
            logits = loaded.model(torch.from_numpy(loaded.preprocessing.normalize(pixels)))
        right += int((logits.argmax(1).numpy() == labels).sum())
    # Three standard errors of 250 images; labels gone wrong cost far more.
    assert right / 2.5 == pytest.approx(embedded_config(name)["top1_test8000"], abs=10)


def test_reference_images() -> None:
    assert len(open_images(reference_images("calibration"))) == 256
    images = open_images(reference_images("test"))
    assert (len(images), len(images.classes)) == (1000, 10)
    with pytest.raises(UsageError, match="EV163"):
        reference_images("train")  # type: ignore[arg-type]
