"""torchvision and transformers models: names, preprocessing, checkpoints; all built here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgevit.errors import DataError, EdgeViTError, EnvironmentError_, UnsupportedError, UsageError
from edgevit.zoo import load_model


def caught(name: str, kind: type[EdgeViTError], code: str, **choices: object) -> EdgeViTError:
    with pytest.raises(kind) as info:
        load_model(name, **choices)
    assert info.value.code == code
    return info.value


def test_torchvision_model() -> None:
    loaded = load_model("torchvision:mobilenet_v3_small", pretrained=False)
    assert loaded.source == "torchvision:mobilenet_v3_small.IMAGENET1K_V1"
    assert loaded.classes is not None
    assert loaded.classes[0] == "n01440764"
    error = caught("torchvision:vit_b_61", UsageError, "EV182")
    assert "vit_b_16" in error.why


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "swin_v2_b", "maxvit_t", "regnet_y_400mf"])
def test_torchvision_preset_pixels(name: str) -> None:
    import numpy as np
    import torchvision
    from PIL import Image

    from edgevit.zoo.preprocessing import preprocessing_from_torchvision

    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    ours = preprocessing_from_torchvision(preset)
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (301, 277, 3), dtype=np.uint8))
    got = ours.normalize(ours.pixels(image)[None])[0]
    assert np.array_equal(got, preset(image).numpy())


def transformers_folder(path: Path, processor: object, classes: int = 5, **more: object) -> Path:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
        num_labels=classes,
        **more,
    )
    transformers.ViTForImageClassification(config).save_pretrained(path)
    processor.save_pretrained(path)
    return path


def vit_processor(**more: object) -> object:
    import transformers

    return transformers.ViTImageProcessor(size={"height": 32, "width": 32}, **more)


def test_transformers_folder(tmp_path: Path) -> None:
    names = {index: f"animal {index}" for index in range(5)}
    path = transformers_folder(tmp_path / "m", vit_processor(), id2label=names)
    loaded = load_model(str(path))
    assert loaded.classes == tuple(names.values())
    assert loaded.preprocessing.resize_size == (32, 32)
    assert loaded.preprocessing.interpolation == "bilinear"
    assert loaded.model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert load_model(f"transformers:{path}").weights_sha256 == loaded.weights_sha256
    random = load_model(str(path), pretrained=False)
    assert random.weights_sha256 != loaded.weights_sha256
    weights, weight = path / "model.safetensors", torch.zeros(1)
    again = load_model(str(path), weights=weights, seed=9)
    assert again.weights_sha256 == loaded.weights_sha256
    torch.save(loaded.model.model.state_dict(), tmp_path / "now.pth")
    assert load_model(str(path), weights=tmp_path / "now.pth").weights_sha256 == (
        loaded.weights_sha256
    )
    for other in ({"other": torch.zeros(1)}, {**loaded.model.model.state_dict(), "more": weight}):
        torch.save(other, tmp_path / "other.pth")
        caught(str(path), DataError, "EV155", weights=tmp_path / "other.pth")


def test_transformers_placeholders_are_no_names(tmp_path: Path) -> None:
    path = transformers_folder(tmp_path / "m", vit_processor(), classes=3)
    assert load_model(str(path)).classes is None


def test_transformers_checkpoint_without_classifier(tmp_path: Path) -> None:
    import transformers

    path = transformers_folder(tmp_path / "m", vit_processor())
    config = transformers.ViTConfig.from_pretrained(path)
    transformers.ViTModel(config).save_pretrained(path)
    error = caught(str(path), DataError, "EV155", task="classify")
    assert "classifier.weight" in error.why


def test_transformers_processors(tmp_path: Path) -> None:
    import transformers as tf

    from edgevit.zoo.processors import preprocessing_from_transformers as read

    squash = read(tf.DeiTImageProcessor(size={"height": 40, "width": 36}, crop_size=32))
    assert (squash.resize_size, squash.input_size) == ((40, 36), (3, 32, 32))
    convnext = read(tf.ConvNextImageProcessor(size={"shortest_edge": 224}))
    assert (convnext.resize_size, convnext.input_size) == (256, (3, 224, 224))
    convnext = read(tf.ConvNextImageProcessor(size={"shortest_edge": 384}))
    assert convnext.resize_size == (384, 384)
    bit = read(tf.BitImageProcessor(size={"shortest_edge": 256}, crop_size=224))
    assert (bit.resize_size, bit.input_size) == (256, (3, 224, 224))
    raw = read(vit_processor(do_normalize=False))
    assert (raw.mean, raw.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    "more",
    [{"do_resize": False}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}],
)
def test_transformers_processor_that_can_not_be_reproduced(more: dict[str, object]) -> None:
    from edgevit.zoo.processors import preprocessing_from_transformers

    with pytest.raises(UnsupportedError, match="EV158"):
        preprocessing_from_transformers(vit_processor(**more))


def test_transformers_size_of_model_and_processor_differ(tmp_path: Path) -> None:
    import transformers

    processor = transformers.ViTImageProcessor(size={"height": 48, "width": 48})
    caught(str(transformers_folder(tmp_path / "m", processor)), UnsupportedError, "EV158")


def test_transformers_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevit.zoo.transformers_models.find_spec", lambda name: None)
    error = caught("transformers:a/b", EnvironmentError_, "EV153")
    assert "pip install 'edgevit[transformers]'" in error.try_next


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    caught(str(tmp_path), UsageError, "EV181")
    (tmp_path / "config.json").write_text("{")
    caught(str(tmp_path), UsageError, "EV181")
    (tmp_path / "config.json").write_text('{"model_type": "nothing known"}')
    caught(str(tmp_path), UsageError, "EV164")
