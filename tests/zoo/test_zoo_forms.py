"""Checkpoints as training scripts write them: containers, prefixes, records, other layouts."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from edgevit.errors import DataError, EdgeViTError, UsageError
from edgevit.zoo import LoadedModel, load_model
from edgevit.zoo.loaded import weights_sha256

TINY = "test_vit"
State = dict[str, Tensor]


def made(seed: int = 1, **arguments: Any) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(TINY, **{"num_classes": 7, **arguments}).eval()


def state(seed: int = 1) -> State:
    return made(seed).state_dict()


def under(prefix: str, seed: int = 1) -> State:
    return {prefix + name: tensor for name, tensor in state(seed).items()}


def averaged() -> State:
    return torch.optim.swa_utils.AveragedModel(made()).state_dict()


def loaded(content: object, folder: Path, name: str = TINY, **choices: Any) -> LoadedModel:
    torch.save(content, folder / "w.pth")
    return load_model(name, weights=folder / "w.pth", **choices)


FORMS: Mapping[str, Callable[[], object]] = {
    "torchvision's reference script": lambda: {
        "model": state(5),
        "optimizer": {},
        "args": argparse.Namespace(lr=1.0),
        "model_ema": averaged(),
    },
    "swa": averaged,
    "tutorial": lambda: {"epoch": 1, "model_state_dict": state(), "optimizer_state_dict": {}},
    "net": lambda: {"net": state(), "acc": 91.2},
    "lightning model.": lambda: {"state_dict": under("model.")},
    "lightning net.": lambda: {"state_dict": under("net.")},
    "lightning with a loss": lambda: {
        "state_dict": {**under("model."), "criterion.weight": torch.ones(7)}
    },
    "lightning, compiled": lambda: {"state_dict": under("model._orig_mod.")},
    "dino": lambda: {"student": under("module.backbone.", 5), "teacher": under("backbone.")},
    "dino, flat": lambda: {**under("student.", 5), **under("teacher.")},
    "wrapped": lambda: under("base_model.model."),
    "timm's script": lambda: {"state_dict": under("module.", 5), "state_dict_ema": state()},
    "a buffer beside": lambda: {**state(), "mean": torch.zeros(3)},
    "an unknown container": lambda: {"brain": {"v3": state()}},
    "records beside": lambda: {
        "state_dict": state(),
        "best": np.float64(0.9),
        "at": datetime.datetime(2026, 1, 1),
        "file": Path("x"),
        "more": argparse.Namespace(a=np.float32(1)),
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_form(form: str, tmp_path: Path) -> None:
    found = loaded(FORMS[form](), tmp_path)
    assert found.weights_sha256 == weights_sha256(made())
    assert found.num_classes == 7


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_other_floats_become_float32_and_are_counted(kind: torch.dtype, tmp_path: Path) -> None:
    small = {k: v.to(kind) if v.ndim == 2 else v for k, v in state().items()}
    found = loaded(small, tmp_path)
    assert any(f"{str(kind)[6:]} tensors became float32" in note for note in found.notes)
    assert {t.dtype for t in found.model.state_dict().values()} == {torch.float32}


def test_the_choice_is_said_and_can_be_made(tmp_path: Path) -> None:
    both = {"state_dict": state(5), "state_dict_ema": state()}
    found = loaded(both, tmp_path)
    assert any("'state_dict_ema'" in note for note in found.notes)
    assert any("not taken were 'state_dict'; --weights-key" in note for note in found.notes)
    other = loaded(both, tmp_path, weights_key="state_dict")
    assert other.weights_sha256 == weights_sha256(made(5))
    with pytest.raises(UsageError, match="EV176") as caught:
        loaded(both, tmp_path, weights_key="teacher")
    assert "'state_dict_ema'" in caught.value.why


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    found = loaded({**state(), "criterion.weight": torch.ones(7)}, tmp_path)
    assert any("criterion.weight" in note for note in found.notes)


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.attn.qkv.weight_scale",
        "blocks.0.attn.qkv.lora_A.weight",
        "blocks.99.norm1.weight",
        "pre_logits.fc.weight",
        "dist_token",
    ],
)
def test_what_may_belong_to_the_model_is_not_left_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="EV155") as caught:
        loaded({**state(), name: torch.ones(2)}, tmp_path)
    assert name in caught.value.why


def test_codes_are_no_weights(tmp_path: Path) -> None:
    codes = {k: v.to(torch.int8) if v.ndim == 2 else v for k, v in state().items()}
    with pytest.raises(DataError, match="EV155") as caught:
        loaded(codes, tmp_path)
    assert "not of floating point: " in caught.value.why
    assert "int8" in caught.value.why


def test_missing_names_and_the_nearest_architecture(tmp_path: Path) -> None:
    small = {"patch_embed.proj.weight": torch.zeros(384, 3, 16, 16)}
    small |= {f"blocks.{i}.norm1.weight": torch.zeros(384) for i in range(12)}
    small["pos_embed"] = torch.zeros(1, 197, 384)
    with pytest.raises(DataError, match="EV155") as caught:
        loaded(small, tmp_path)
    assert re.search(r"\d+ missing: ", caught.value.why)
    assert "--model vit_small_patch16_224" in caught.value.try_next


def microsofts(model: nn.Module) -> State:
    """Return the state by Microsoft's names: downsampling a stage earlier, buffers stored."""
    found = {}
    for name, tensor in model.state_dict().items():
        earlier = re.sub(
            r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name
        )
        found[earlier.replace("head.fc.", "head.")] = tensor
    found["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    found["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    return found


@pytest.mark.parametrize("prefix", ["", "module."])
def test_microsofts_layout_of_a_swin_with_four_stages(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=7).eval()
    content = {"model": {prefix + name: t for name, t in microsofts(swin).items()}}
    found = loaded(content, tmp_path, "swin_t")
    assert (found.num_classes, found.weights_sha256) == (7, weights_sha256(swin))


# --- arguments that shapes show -------------------------------------------------------------------

SHOWN = {
    "classes": {"num_classes": 5},
    "image size": {"img_size": 96},
    "pooling": {"global_pool": "avg"},
    "all": {"num_classes": 5, "img_size": 96, "global_pool": "avg"},
}


@pytest.mark.parametrize("case", SHOWN)
def test_shown_arguments(case: str, tmp_path: Path) -> None:
    model = timm.create_model(TINY, **SHOWN[case]).eval()
    found = loaded(model.state_dict(), tmp_path)
    assert found.arguments == SHOWN[case]
    assert found.preprocessing.input_size[1] == SHOWN[case].get("img_size", 160)
    image = torch.randn(2, *found.preprocessing.input_size)
    with torch.no_grad():
        assert torch.equal(found.model(image), model(image))
    again = loaded(model.state_dict(), tmp_path, model_args=found.arguments)
    assert again.weights_sha256 == found.weights_sha256


def test_one_channel_wants_its_mean(tmp_path: Path) -> None:
    grey = timm.create_model(TINY, num_classes=3, in_chans=1).state_dict()
    found = loaded(grey, tmp_path, preprocessing={"mean": 0.4, "std": (0.2,)})
    assert found.preprocessing.input_size == (1, 160, 160)
    assert (found.preprocessing.mean, found.preprocessing.std) == ((0.4,), (0.2,))
    uneven = {"mean": (0.4, 0.5, 0.6)}
    with pytest.raises(EdgeViTError, match="EV172"):
        loaded(grey, tmp_path, preprocessing=uneven)
    deit = timm.create_model("deit_tiny_patch16_224", in_chans=1).state_dict()
    with pytest.raises(UsageError, match="EV175"):  # its mean differs between colours
        loaded(deit, tmp_path, "deit_t")
    with pytest.raises(UsageError, match="EV174"):
        loaded(timm.create_model(TINY, in_chans=4).state_dict(), tmp_path)


def test_a_distilled_deit_under_the_short_name(tmp_path: Path) -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5)
    found = loaded({"model": model.state_dict()}, tmp_path, "deit_t")
    assert found.num_classes == 5
    assert any("deit_tiny_distilled_patch16_224" in note for note in found.notes)


def test_torchvision_classes_and_size(tmp_path: Path) -> None:
    import torchvision

    small = {"num_classes": 5, "image_size": 64}
    model = torchvision.models.vit_b_32(**small)
    found = loaded(model.state_dict(), tmp_path, "torchvision:vit_b_32")
    assert (found.arguments, found.num_classes, found.classes) == (small, 5, None)
    assert found.preprocessing.input_size == (3, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"img_sizes": 96}, "EV167"),
        ({"checkpoint_path": "/etc/passwd"}, "EV167"),
        ({"pretrained_cfg": "x"}, "EV167"),
        ({"img_size": {}}, "EV166"),
        ({"_x": 1}, "EV166"),
    ],
)
def test_arguments_that_are_none(arguments: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError, match=code):
        load_model(TINY, pretrained=False, model_args=arguments)


def test_arguments_are_literals() -> None:
    from edgevit.zoo.choices import model_choices

    read = model_choices({"model_arg": ("a=288", "b=(7, 7)", "c=True", "d=avg", "e=1.5"), "x": 1})
    assert read == {"model_args": {"a": 288, "b": (7, 7), "c": True, "d": "avg", "e": 1.5}, "x": 1}
    assert model_choices({"model_arg": ("a=__import__('os')",)})["model_args"] == {
        "a": "__import__('os')"
    }
    with pytest.raises(UsageError, match="EV166"):
        model_choices({"model_arg": ("a",)})


# --- files that are refused -----------------------------------------------------------------------


def test_a_whole_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="EV154") as caught:
        loaded(made(), tmp_path)
    assert "timm.models.vision_transformer.VisionTransformer" in caught.value.why
    assert "the whole model was saved" in caught.value.why


def test_a_script_and_a_bomb(tmp_path: Path) -> None:
    script = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    script.save(str(tmp_path / "script.pt"))
    with pytest.raises(DataError, match="TorchScript"):
        load_model(TINY, weights=tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(20_000_000))
    with pytest.raises(DataError, match="would unpack to 20,000,000"):
        load_model(TINY, weights=tmp_path / "bomb.pth")
    for name, maker in (("w.h5", "Keras"), ("w.msgpack", "Flax"), ("w.onnx", "ONNX")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(DataError, match=maker):
            load_model(TINY, weights=tmp_path / name)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_cut_files(share: float, suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    whole = tmp_path / f"w.{suffix}"
    torch.save(state(), whole) if suffix == "pth" else save_file(state(), whole)
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="EV154"):
        load_model(TINY, weights=whole)


def google_names(model: nn.Module) -> dict[str, np.ndarray]:
    """Return a timm ViT as Google's .npz names and lays it out."""
    s = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    heads, width = model.blocks[0].attn.num_heads, s["cls_token"].shape[-1]
    found = {
        "embedding/kernel": s["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": s["patch_embed.proj.bias"],
        "cls": s["cls_token"],
        "Transformer/posembed_input/pos_embedding": s["pos_embed"],
        "Transformer/encoder_norm/scale": s["norm.weight"],
        "Transformer/encoder_norm/bias": s["norm.bias"],
        "head/kernel": s["head.weight"].T,
        "head/bias": s["head.bias"],
    }
    for i in range(len(model.blocks)):
        b, to = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        attention = to + "MultiHeadDotProductAttention_1/"
        for n, name in enumerate(("query", "key", "value")):
            rows = slice(n * width, (n + 1) * width)
            weight = s[b + "attn.qkv.weight"][rows].T
            found[f"{attention}{name}/kernel"] = weight.reshape(width, heads, -1)
            found[f"{attention}{name}/bias"] = s[b + "attn.qkv.bias"][rows].reshape(heads, -1)
        out = s[b + "attn.proj.weight"].T.reshape(heads, -1, width)
        found |= {f"{attention}out/kernel": out, f"{attention}out/bias": s[b + "attn.proj.bias"]}
        for norm, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            found[f"{to}{theirs}/scale"] = s[f"{b}{norm}.weight"]
            found[f"{to}{theirs}/bias"] = s[f"{b}{norm}.bias"]
        for n in (0, 1):
            found[f"{to}MlpBlock_3/Dense_{n}/kernel"] = s[f"{b}mlp.fc{n + 1}.weight"].T
            found[f"{to}MlpBlock_3/Dense_{n}/bias"] = s[f"{b}mlp.fc{n + 1}.bias"]
    return found


def test_googles_npz(tmp_path: Path) -> None:
    small = {"embed_dim": 64, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=7, img_size=64, **small).eval()
    path, arrays = tmp_path / "w.npz", google_names(model)
    np.savez(path, **arrays)
    found = load_model("vit_tiny_patch16_224", weights=path, model_args=small)
    assert found.weights_sha256 == weights_sha256(model)
    assert found.arguments == {**small, "num_classes": 7, "img_size": 64}
    del arrays["Transformer/encoderblock_0/MlpBlock_3/Dense_1/bias"]
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"EV154|EV155"):
        load_model("vit_tiny_patch16_224", weights=path, model_args=small)


# --- preprocessing --------------------------------------------------------------------------------


def test_values_win_one_by_one() -> None:
    own = load_model(TINY, pretrained=False).preprocessing
    found = load_model(TINY, pretrained=False, preprocessing={"crop_pct": 0.5, "mean": 0.1})
    assert found.preprocessing.resize_size == 320
    assert found.preprocessing.mean == (0.1, 0.1, 0.1)
    assert found.preprocessing.std == own.std
    assert "mean, crop_pct: given" in found.preprocessing_source
    assert found.preprocessing_to_keep() == found.preprocessing.to_dict()
    again = load_model(TINY, pretrained=False, preprocessing=found.preprocessing_to_keep())
    assert again.preprocessing == found.preprocessing
    assert load_model(TINY, pretrained=False).preprocessing_to_keep() == {}


def test_files_beside_the_weights(tmp_path: Path) -> None:
    config = {"architecture": TINY, "pretrained_cfg": {"input_size": [3, 160, 160]}}
    config["pretrained_cfg"] |= {"mean": [0.1] * 3, "std": [0.3] * 3, "crop_pct": 0.8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = loaded(state(), tmp_path)
    assert (found.preprocessing.mean, found.preprocessing.resize_size) == ((0.1,) * 3, 200)
    assert "config.json beside the weights" in found.preprocessing_source
    config["architecture"] = "another"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert loaded(state(), tmp_path).own_preprocessing
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="EV173"):
        loaded(state(), tmp_path)


def test_transformers_file_beside_the_weights(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    size = {"height": 160, "width": 160}
    processor = transformers.ViTImageProcessor(size=size, image_mean=[0.2] * 3, image_std=[0.4] * 3)
    processor.save_pretrained(tmp_path)
    found = loaded(state(), tmp_path, preprocessing={"std": 0.7})
    assert found.preprocessing.mean == (0.2,) * 3
    assert found.preprocessing.std == (0.7,) * 3
    assert found.preprocessing.resize_size == (160, 160)


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ({"mean": "a"}, "EV172"),
        ({"mean": "0.1,0.2"}, "EV172"),
        ({"std": "0"}, "EV172"),
        ({"crop_pct": "0"}, "EV172"),
        ({"crop_pct": "nan"}, "EV172"),
        ({"interpolation": "best"}, "EV172"),
        ({"input_size": "3x"}, "EV172"),
    ],
)
def test_wrong_options(typed: dict[str, str], code: str) -> None:
    from edgevit.zoo.choices import model_choices

    with pytest.raises(UsageError, match=code):
        load_model(TINY, pretrained=False, **model_choices(typed))


def test_a_size_that_the_model_does_not_take() -> None:
    with pytest.raises(UsageError, match="EV174") as caught:
        load_model("deit_t", pretrained=False, preprocessing={"input_size": 96})
    assert "img_size=N" in caught.value.try_next
    built = {"model_args": {"img_size": 96}}
    assert load_model("deit_t", pretrained=False, **built).preprocessing.input_size[1:] == (96, 96)
