"""Checkpoint files: safe to read, all or nothing, differences named."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from edgevit.errors import DataError
from edgevit.zoo.fitting import load_weights
from edgevit.zoo.loaded import weights_sha256


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def state(seed: int = 1) -> dict[str, torch.Tensor]:
    return model(seed).state_dict()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state().items()}


WRAPPED = {
    "plain": state,
    "model": lambda: {"model": state(), "epoch": 3, "optimizer": {"lr": 0.1}},
    "state_dict": lambda: {"state_dict": state(), "args": argparse.Namespace(lr=1)},
    "ema first": lambda: {"model": state(5), "model_ema": state()},
    "nested": lambda: {"model": {"state_dict": state()}},
    "parallel": lambda: {"model": prefixed("module.")},
    "compiled": lambda: prefixed("_orig_mod."),
    "both": lambda: prefixed("_orig_mod.module."),
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("make", WRAPPED.values(), ids=list(WRAPPED))
def test_containers_and_prefixes(make: Callable[[], object], suffix: str, tmp_path: Path) -> None:
    torch.save(make(), tmp_path / f"w{suffix}")
    loaded = model()
    load_weights(loaded, tmp_path / f"w{suffix}")
    assert weights_sha256(loaded) == weights_sha256(model(1))


def test_safetensors(tmp_path: Path) -> None:
    save_file(prefixed("module."), tmp_path / "w.safetensors")
    loaded = model()
    load_weights(loaded, tmp_path / "w.safetensors")
    assert weights_sha256(loaded) == weights_sha256(model(1))


def test_hash_is_over_sorted_names_and_bytes() -> None:
    from hashlib import sha256

    net = nn.Linear(2, 1)
    expected = sha256()
    for name in ("bias", "weight"):
        expected.update(name.encode() + net.state_dict()[name].numpy().tobytes())
    assert weights_sha256(net) == expected.hexdigest()
    assert weights_sha256(model(1)) != weights_sha256(model(2))
    assert weights_sha256(model().bfloat16()) != weights_sha256(model())


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (os.environ["EDGEVIT_TEST_TRAP"],)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_code_in_a_checkpoint_does_not_run(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEVIT_TEST_TRAP", str(tmp_path / "ran"))
    if protocol == "torch":
        torch.save({"model": state(), "more": Hostile()}, tmp_path / "w.pth")
    else:
        (tmp_path / "w.pth").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(DataError, match="EV154"):
        load_weights(model(), tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


def write_truncated(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:300])


UNREADABLE = {
    "missing.pth": lambda path: None,
    "empty.pth": lambda path: path.write_bytes(b""),
    "text.pth": lambda path: path.write_text("weights"),
    "text.safetensors": lambda path: path.write_text("weights"),
    "truncated.pth": write_truncated,
    "list.pth": lambda path: torch.save([1, 2], path),
    "nothing.pth": lambda path: torch.save({"epoch": 1}, path),
    "weights.h5": lambda path: path.write_bytes(b"x"),
    "weights": lambda path: path.write_bytes(b"x"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files(name: str, tmp_path: Path) -> None:
    UNREADABLE[name](tmp_path / name)
    with pytest.raises(DataError) as caught:
        load_weights(model(), tmp_path / name)
    assert caught.value.code == "EV154"
    assert caught.value.why
    assert name in caught.value.where


def test_differences_are_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    wrong = state()
    wrong["0.weight"] = torch.zeros(3, 5)
    del wrong["2.bias"]
    wrong |= {f"extra.{i:02}": torch.zeros(1) for i in range(12)}
    torch.save(wrong, tmp_path / "w.pth")
    loaded = model()
    before = weights_sha256(loaded)
    with pytest.raises(DataError) as caught:
        load_weights(loaded, tmp_path / "w.pth")
    why = caught.value.why
    assert caught.value.code == "EV155"
    assert "1 missing: 2.bias" in why
    assert "12 unexpected: extra.00" in why
    assert "extra.07, ..." in why
    assert "extra.08" not in why
    assert "1 other shapes: 0.weight [3, 5] instead of [3, 4]" in why
    assert weights_sha256(loaded) == before


def test_checkpoint_published_before_timm_is_converted(tmp_path: Path) -> None:
    """Microsoft's Swin files: other names for downsampling and head, and buffers in the file."""
    tiny = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 8, "num_classes": 3}
    tiny |= {"depths": (1, 1), "num_heads": (1, 2)}
    swin = timm.models.swin_transformer.SwinTransformer
    torch.manual_seed(1)
    published = swin(**tiny)
    torch.manual_seed(2)
    loaded = swin(**tiny)
    renamed = {}
    for name, tensor in published.state_dict().items():
        old = name.replace("layers.1.downsample", "layers.0.downsample")
        renamed[old.replace("head.fc.", "head.")] = tensor
    renamed["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    torch.save({"model": renamed}, tmp_path / "swin.pth")
    load_weights(loaded, tmp_path / "swin.pth")
    assert weights_sha256(loaded) == weights_sha256(published)


def test_other_window_size_is_not_resized_silently(tmp_path: Path) -> None:
    name = "relative_position_bias_table"
    tiny = {"img_size": 32, "patch_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
    swin = timm.models.swin_transformer.SwinTransformer
    torch.save(swin(window_size=8, **tiny).state_dict(), tmp_path / "swin.pth")
    with pytest.raises(DataError, match=name):
        load_weights(swin(window_size=4, **tiny), tmp_path / "swin.pth")


def test_a_container_that_holds_itself_is_refused(tmp_path: Path) -> None:
    loop: dict[str, object] = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "loop.pth")
    with pytest.raises(DataError, match="EV154"):
        load_weights(model(), tmp_path / "loop.pth")
