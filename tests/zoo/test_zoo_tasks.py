"""What each kind of checkpoint can be used for, which outputs it then has, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from edgevit.errors import DataError, EdgeViTError, UsageError
from edgevit.zoo import load_model, loaded_from_module

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
MLP = {**SMALL, "intermediate_size": 64}
SQUARE = {"height": 64, "width": 64}
VISION = {"image_size": 64, "patch_size": 16, "projection_dim": 16, **MLP}
TEXT = {"vocab_size": 50000, **MLP}
PREPROCESSING = {
    "input_size": (3, 16, 16),
    "crop_pct": 1.0,
    "interpolation": "bicubic",
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
}
Shapes = dict[str, tuple[int, ...]]


def vit() -> Any:
    return tf.ViTConfig(image_size=64, patch_size=16, **MLP)


def dinov2(**more: Any) -> Any:
    return tf.Dinov2Config(**{"image_size": 64, "patch_size": 16, **SMALL, **more})


def vit_processor() -> Any:
    return tf.ViTImageProcessor(size=SQUARE)


def bit_processor() -> Any:
    return tf.BitImageProcessor(size={"shortest_edge": 72}, crop_size=64)


def clip() -> Any:
    config = tf.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=16)
    return tf.CLIPModel(config)


def siglip2() -> Any:
    vision = {"num_patches": 16, "patch_size": 16, **MLP}
    return tf.Siglip2Model(tf.Siglip2Config(vision_config=vision, text_config=TEXT))


def sam() -> Any:
    vision = {"image_size": 64, "patch_size": 16, **SMALL, "output_channels": 16, "mlp_dim": 64}
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 16}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2}
    return tf.SamModel(
        tf.SamConfig(
            vision_config={**vision, "global_attn_indexes": [1], "window_size": 2},
            prompt_encoder_config=prompt,
            mask_decoder_config=decoder,
        )
    )


def depth_anything() -> Any:
    backbone = dinov2(
        image_size=56,
        patch_size=14,
        num_hidden_layers=4,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = tf.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        patch_size=14,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
    )
    return tf.DepthAnythingForDepthEstimation(config)


def segformer() -> Any:
    config = tf.SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 16, 24, 32],
        decoder_hidden_size=16,
        num_attention_heads=[1, 1, 1, 2],
        num_labels=7,
    )
    return tf.SegformerForSemanticSegmentation(config)


def yolos() -> Any:
    config = tf.YolosConfig(image_size=[64, 96], patch_size=16, num_detection_tokens=9, **MLP)
    return tf.YolosForObjectDetection(config)


def mobilevit(kind: str) -> Any:
    config = tf.MobileViTConfig(
        image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 12, 16, 20, 24, 64]
    )
    return getattr(tf, kind)(config)


def mobilevit_processor() -> Any:
    return tf.MobileViTImageProcessor(size={"shortest_edge": 72}, crop_size=64)


def at(height: int, width: int) -> dict[str, Any]:
    return {"preprocessing": {"input_size": (height, width)}}


PLAIN: list[tuple[Any, Any, dict[str, Any], str, int | None, Shapes]] = [
    (segformer, tf.SegformerImageProcessor(size=SQUARE), {}, "segment", 7, {"logits": (7, 16, 16)}),
    (
        yolos,
        tf.YolosImageProcessor(),
        at(64, 96),
        "detect",
        2,
        {"logits": (9, 3), "boxes": (9, 4)},
    ),
    (
        lambda: tf.Dinov2Backbone(dinov2()),
        bit_processor(),
        {},
        "features",
        None,
        {"stage1": (32, 4, 4)},
    ),
    (
        depth_anything,
        tf.DPTImageProcessor(size={"height": 56, "width": 56}, keep_aspect_ratio=True),
        at(56, 70),
        "features",
        None,
        {"depth": (56, 70)},
    ),
    (
        lambda: mobilevit("MobileViTForSemanticSegmentation"),
        mobilevit_processor(),
        {},
        "segment",
        2,
        {"logits": (2, 2, 2)},
    ),
]
ASKED: list[tuple[Any, Any, dict[str, Any], str, Shapes]] = [
    (lambda: tf.ViTModel(vit()), vit_processor(), {}, "embed", {"embedding": (32,)}),
    (lambda: tf.ViTModel(vit()), vit_processor(), {}, "features", {"features": (17, 32)}),
    (lambda: tf.Dinov2Model(dinov2()), bit_processor(), {}, "embed", {"embedding": (32,)}),
    (clip, tf.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64), {}, "embed",
     {"embedding": (16,)}),
    (siglip2, tf.Siglip2ImageProcessor(max_num_patches=16), at(64, 64), "embed",
     {"embedding": (32,)}),
    (sam, tf.SamImageProcessor(), at(64, 64), "features", {"features": (16, 4, 4)}),
    (lambda: mobilevit("MobileViTModel"), mobilevit_processor(), {}, "embed",
     {"embedding": (64,)}),
]  # fmt: skip


def saved(folder: Path, model: nn.Module, processor: Any) -> str:
    model.save_pretrained(folder)  # type: ignore[operator]
    processor.save_pretrained(folder)
    return str(folder)


def shapes(model: nn.Module, size: tuple[int, int, int]) -> Shapes:
    with torch.no_grad():
        found = model(torch.zeros(2, *size))
    assert all(tensor.shape[0] == 2 for tensor in found.values())
    return {name: tuple(tensor.shape[1:]) for name, tensor in found.items()}


def caught(kind: type[EdgeViTError], code: str, name: str, **choices: Any) -> EdgeViTError:
    with pytest.raises(kind) as info:
        load_model(name, **choices)
    assert info.value.code == code
    return info.value


@pytest.mark.parametrize(("model", "processor", "choices", "task", "classes", "outputs"), PLAIN)
def test_a_head_says_the_task(
    model: Any,
    processor: Any,
    choices: dict[str, Any],
    task: str,
    classes: int | None,
    outputs: Shapes,
    tmp_path: Path,
) -> None:
    loaded = load_model(saved(tmp_path, model(), processor), **choices)
    assert (loaded.task, loaded.num_classes) == (task, classes)
    assert shapes(loaded.model, loaded.preprocessing.input_size) == outputs


@pytest.mark.parametrize(("model", "processor", "choices", "task", "outputs"), ASKED)
def test_a_tower_has_to_be_told(
    model: Any,
    processor: Any,
    choices: dict[str, Any],
    task: str,
    outputs: Shapes,
    tmp_path: Path,
) -> None:
    name = saved(tmp_path, model(), processor)
    error = caught(UsageError, "EV233", name, **choices)
    assert "--task embed" in error.try_next
    loaded = load_model(name, task=task, **choices)
    assert (loaded.task, loaded.num_classes, loaded.classes) == (task, None, None)
    assert shapes(loaded.model, loaded.preprocessing.input_size) == outputs
    random = load_model(name, task=task, pretrained=False, **choices)
    assert random.weights_sha256 != loaded.weights_sha256


def test_patches_are_those_of_the_processor(tmp_path: Path) -> None:
    """SigLIP2's tower gives of an image what it gives of the processor's patches."""
    from PIL import Image

    processor = tf.Siglip2ImageProcessor(max_num_patches=24)
    name = saved(tmp_path, siglip2(), processor)
    loaded = load_model(name, task="embed", **at(64, 96))
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (64, 96, 3), generator=rng, dtype=torch.uint8).numpy()
    given = processor(Image.fromarray(noise), return_tensors="pt")
    tower = tf.Siglip2VisionModel.from_pretrained(name).eval()
    pixels = loaded.preprocessing.pixels(Image.fromarray(noise))
    image = torch.from_numpy(loaded.preprocessing.normalize(pixels[None]))
    with torch.no_grad():
        theirs = tower(**given).pooler_output
        torch.testing.assert_close(loaded.model(image)["embedding"], theirs)


def test_the_first_token_stands_in_for_a_pooler_without_weights(tmp_path: Path) -> None:
    model = tf.ViTForImageClassification(vit()).eval()
    loaded = load_model(saved(tmp_path, model, vit_processor()), task="embed")
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        tokens = model.vit(image).last_hidden_state
        torch.testing.assert_close(loaded.model(image)["embedding"], tokens[:, 0])


def test_a_task_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    name = saved(tmp_path, tf.ViTForImageClassification(vit()), vit_processor())
    error = caught(UsageError, "EV234", name, task="segment")
    assert "classify, embed, features" in error.why
    caught(UsageError, "EV234", name, task="detetc")
    tower = saved(tmp_path / "tower", tf.ViTModel(vit()), vit_processor())
    caught(DataError, "EV155", tower, task="classify")  # it has no weights for that
    dense = saved(tmp_path / "dense", segformer(), tf.SegformerImageProcessor(size=SQUARE))
    assert "--task features" in caught(UsageError, "EV234", dense, task="embed").try_next
    caught(UsageError, "EV234", "torchvision:vit_b_16", task="embed", pretrained=False)


@pytest.mark.parametrize("name", ["test_vit", "test_byobnet", "test_efficientnet"])
def test_timm_towers(name: str) -> None:
    whole = load_model(name, pretrained=False, seed=3).model
    tower = load_model(name, pretrained=False, seed=3, task="embed")
    image = torch.rand(2, *tower.preprocessing.input_size)
    with torch.no_grad():
        pooled = whole.forward_head(whole.forward_features(image), pre_logits=True)
        torch.testing.assert_close(tower.model(image)["embedding"], pooled)
        stages = load_model(name, pretrained=False, seed=3, task="features").model(image)
        expected = whole.forward_intermediates(image, indices=4, intermediates_only=True)
    assert 1 <= len(stages) <= 4
    for ours, theirs in zip(stages.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_tower_of_timm_has_to_be_told() -> None:
    name, arguments = "vit_small_patch14_dinov2.lvd142m", {"img_size": 28, "depth": 1}
    choices = {"pretrained": False, "model_args": arguments}
    with pytest.raises(EdgeViTError, match="--task embed") as info:
        load_model(name, **choices)
    assert info.value.code == "EV159"
    loaded = load_model(name, task="embed", **choices, preprocessing={"input_size": (28, 28)})
    assert shapes(loaded.model, (3, 28, 28)) == {"embedding": (384,)}


def test_embedded_models_without_their_classifier() -> None:
    loaded = load_model("vit_cifar10", task="embed")
    outputs = shapes(loaded.model, loaded.preprocessing.input_size)
    assert list(outputs) == ["embedding"]
    assert loaded.classes is None


class Dense(nn.Module):
    def __init__(self, returned: Any) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 4, stride=4)
        self.returned = returned

    def forward(self, image: torch.Tensor) -> Any:
        return self.returned(self.convolution(image))


def test_modules_of_ones_own() -> None:
    def load(returned: Any, task: str | None = None) -> Any:
        return loaded_from_module(Dense(returned), PREPROCESSING, task=task)

    plain = load(lambda x: x)
    assert (plain.task, plain.num_classes) == ("features", None)
    assert "no --task says" in plain.notes[-1]
    with pytest.raises(UsageError, match="EV234"):
        load(lambda x: x, "classify")
    loaded = load(lambda x: x, "segment")
    assert (loaded.task, loaded.num_classes) == ("segment", 5)
    assert shapes(loaded.model, (3, 16, 16)) == {"logits": (5, 4, 4)}
    assert load(lambda x: {"out": x}, "segment").num_classes == 5  # as torchvision calls it
    pyramid = load(lambda x: [x, x[:, :, ::2, ::2]], "features")
    assert shapes(pyramid.model, (3, 16, 16)) == {"stage1": (5, 4, 4), "stage2": (5, 2, 2)}
    pooled = load(lambda x: x.mean((2, 3), keepdim=True), "embed")
    assert shapes(pooled.model, (3, 16, 16)) == {"embedding": (5,)}
    with pytest.raises(UsageError, match="four numbers a box"):
        load(lambda x: {"logits": x.flatten(2), "boxes": x.flatten(2)}, "detect")
    for task in ("embed", "detect"):
        with pytest.raises(UsageError, match="EV234"):
            load(lambda x: x, task)


class Boxes(nn.Module):
    """A detector of five logits and a box for each of 16 places."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.body, self.edgevit_classes = nn.Conv2d(3, 9, 4, 4), names

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.body(image).flatten(2).transpose(1, 2)  # [B, 16, 9]
        return {"logits": found[..., :5], "pred_boxes": found[..., 5:].sigmoid()}


@pytest.mark.parametrize("names", [["a", "b", "c", "d"], ["a", "b", "c", "d", "e"]])
def test_the_names_of_a_detector_say_whether_no_object_is_a_logit(names: list[str]) -> None:
    loaded = loaded_from_module(Boxes(names), PREPROCESSING, task="detect")
    assert (loaded.num_classes, loaded.classes) == (len(names), tuple(names))
    with pytest.raises(UsageError, match="EV165"):
        loaded_from_module(Boxes(names[:3]), PREPROCESSING, task="detect")
