"""Models of every task, from checkpoint to verdict."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as tf
from click.testing import CliRunner
from PIL import Image

import edgevit
from edgevit.cli import main
from edgevit.errors import DataError, EdgeViTError, EnvironmentError_, UnsupportedError, UsageError
from edgevit.recipe import Recipe
from edgevit.runner.engines.onnxruntime.session import session_from_bundle
from edgevit.runner.measure.tasks.boxes import found_boxes
from edgevit.runner.measure.tasks.dense import label_maps
from edgevit.zoo import reference_images

QUICK: dict[str, Any] = {"bits": 8, "method": "minmax", "num_calib": 4}
CLASSES, SIDE = 3, 32


def pictures(folder: Path, count: int = 12) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(count):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(folder / f"{index:02}.png")
    return folder


def segformer(folder: Path) -> Path:
    config = tf.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        mlp_ratios=[2, 2],
        num_attention_heads=[1, 2],
        decoder_hidden_size=16,
        id2label={0: "sky", 1: "road", 2: "tree"},
    )
    model = tf.SegformerForSemanticSegmentation(config)
    model.decode_head.classifier.weight.data *= 30  # classes that the pictures decide
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    tf.SegformerImageProcessor(size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return a bundle of a segmentation, and the folder of its images."""
    import torch

    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("dense")
    images = pictures(home / "images")
    made = edgevit.quantize(str(segformer(home / "model")), images, **QUICK)
    return made.save(home / "bundle"), images


def fp32_maps(bundle: Any, images: Path) -> dict[str, np.ndarray]:
    from edgevit.data import Preprocessing, open_images

    preprocessing, found = Preprocessing.from_dict(bundle.preprocessing), {}
    session = session_from_bundle(bundle, "fp32")
    for pixels, _, names in open_images(images).batches(preprocessing, 4):
        logits = session.run_all(preprocessing.normalize(pixels))["logits"]
        found |= dict(zip(names, label_maps(logits, (SIDE, SIDE)), strict=True))
    return found


def save_masks(maps: dict[str, np.ndarray], folder: Path) -> Path:
    folder.mkdir()
    for name, values in maps.items():
        Image.fromarray(values.astype(np.uint8)).save(folder / name)
    return folder


def validate(bundle: Any, data: Any, **more: Any) -> dict[str, Any]:
    return edgevit.validate(bundle, data, rounds=2, threads=1, **more)


def rows_of(report: dict[str, Any]) -> dict[str, Any]:
    return {row["label"]: row for row in report["task"]["metrics"]}


def test_a_segmentation_is_compared_with_fp32_without_masks(dense: Any) -> None:
    bundle, images = dense
    model = bundle.manifest["model"]
    assert (model["task"], model["num_classes"]) == ("segment", CLASSES)
    assert model["classes"] == ["sky", "road", "tree"]
    report = validate(bundle, images)
    assert report["verdict"] == "UNDECIDED"
    assert "mean IoU against fp32" in report["verdict_reason"]
    assert list(rows_of(report)) == ["mean IoU against fp32", "pixels of the same class as fp32"]
    found = rows_of(report)["mean IoU against fp32"]
    assert found["low"] <= found["engine"] <= found["high"] <= 100
    assert report["task"]["outputs"]["logits"]["sqnr_db"] > 20


def test_masks_give_a_drop_and_a_verdict(dense: Any, tmp_path: Path) -> None:
    bundle, images = dense
    maps = fp32_maps(bundle, images)
    assert len(np.unique(np.stack(list(maps.values())))) > 1  # not one class everywhere
    masks = save_masks(maps, tmp_path / "masks")
    report = validate(bundle, images, masks=masks, max_drop=50)
    row = rows_of(report)["mean IoU"]
    assert row["fp32"] == 100  # the masks are its own
    assert row["engine"] == pytest.approx(rows_of(report)["mean IoU against fp32"]["engine"])
    assert report["drop_points"]["value"] == pytest.approx(100 - row["engine"])
    assert report["verdict"] == "PASS"
    edgevit.api.check_gates(report, max_drop=50, max_latency_ms=None)
    nothing = {name: np.full_like(values, 255) for name, values in maps.items()}
    nothing[next(iter(maps))][:2] = 1
    few = validate(bundle, images, masks=save_masks(nothing, tmp_path / "few"))
    assert rows_of(few)["mean IoU"]["fp32"] <= 100


def test_wrong_masks_are_refused(
    dense: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, images = dense
    maps = fp32_maps(bundle, images)

    def caught(kind: type[EdgeViTError], code: str, **more: Any) -> EdgeViTError:
        with pytest.raises(kind) as info:
            validate(bundle, images, **more)
        assert info.value.code == code
        return info.value

    caught(DataError, "EV235", masks=tmp_path / "nowhere")
    masks = save_masks(dict(list(maps.items())[:-1]), tmp_path / "missing")
    with monkeypatch.context() as before:
        before.setattr("edgevit.runner.measure.measurements.measure", None)  # nobody gets there
        assert "belongs to the image" in caught(DataError, "EV235", masks=masks).why
    masks = save_masks(maps, tmp_path / "high")
    Image.fromarray(np.full((SIDE, SIDE), CLASSES, np.uint8)).save(masks / "00.png")
    assert "subtract 1" in caught(DataError, "EV931", masks=masks).try_next
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(masks / "00.png")
    assert "colours" in caught(DataError, "EV235", masks=masks).why
    (masks / "00.png").write_bytes(b"no picture")
    assert caught(DataError, "EV235", masks=masks).why == "It is no PNG."
    void = {name: np.full_like(labels, 255) for name, labels in maps.items()}
    caught(DataError, "EV441", masks=save_masks(void, tmp_path / "void"))
    one = validate(bundle, images, masks=save_masks(maps, tmp_path / "all"), num=1, max_drop=5)
    assert (one["verdict"], one["verdict_reason"]) == ("UNDECIDED", "One image decides nothing.")
    caught(UsageError, "EV352", annotations=tmp_path / "boxes.json")
    caught(UsageError, "EV352", classes=["a", "b", "c"])
    caught(UsageError, "EV352", class_order="timm")


def test_the_command_line_and_the_recipe_of_a_segmentation(dense: Any, tmp_path: Path) -> None:
    bundle, images = dense
    masks, out = save_masks(fp32_maps(bundle, images), tmp_path / "masks"), tmp_path / "r.json"
    arguments = ["validate", str(bundle.path), "--data", str(images), "--masks", str(masks)]
    result = CliRunner().invoke(main, [*arguments, "--rounds", "2", "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "mean IoU " in result.output
    assert "logits: cosine to fp32" in result.output
    assert "top-1" not in result.output
    assert json.loads(out.read_text())["task"]["main"] == "mean IoU"
    result = CliRunner().invoke(main, ["inspect", str(bundle.path)])
    assert "segment: logits 3x8x8" in result.output
    assert Recipe.from_toml(bundle.path / "recipe.toml").task == "segment"


def test_label_maps_go_where_the_picture_goes() -> None:
    from edgevit.data import Preprocessing
    from edgevit.data.masks import MaskFolder

    settings = {"interpolation": "bilinear", "crop_pct": 0.8, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    preprocessing = Preprocessing(input_size=(3, 24, 24), resize_size=30, **settings)
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (4, 6)), np.ones((16, 16), int)).astype(np.uint8)
    folder = MaskFolder(path=Path(), preprocessing=preprocessing)
    found = folder._placed(Image.fromarray(labels), Path())
    picture = preprocessing.pixels(Image.fromarray(labels * 100))[..., 0] / 100
    assert found.shape == (24, 24)
    assert (np.abs(found - picture) < 0.5).mean() > 0.9  # but for the edges, which are mixed there
    assert set(np.unique(found)) <= {0, 1, 2}
    small = MaskFolder(path=Path(), preprocessing=Preprocessing(
        input_size=(3, 24, 24), resize_size=20, **settings
    ))._placed(Image.fromarray(labels), Path())  # fmt: skip
    assert (small[:2] == -1).all()  # 255 in a file


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Any:
    images = reference_images("calibration")
    made = edgevit.quantize("vit_cifar10", images, task="embed", **QUICK)
    return made.save(tmp_path_factory.mktemp("embed") / "bundle")


def test_embeddings_are_judged_by_their_neighbours(embedding: Any) -> None:
    assert embedding.manifest["model"]["task"] == "embed"
    report = validate(embedding, reference_images("test"), num=200, max_drop=100)
    rows = rows_of(report)
    accuracy = rows["k-NN accuracy"]
    assert accuracy["fp32"] > 50  # the features know the classes
    assert accuracy["change"] == pytest.approx(accuracy["engine"] - accuracy["fp32"])
    assert accuracy["low"] <= accuracy["change"] <= accuracy["high"]
    assert report["drop_points"]["value"] == pytest.approx(-accuracy["change"])
    assert report["verdict"] == "PASS"
    assert rows["same vote as fp32"]["engine"] > 80
    assert rows["same nearest image as fp32"]["engine"] > 50


def test_embeddings_without_labels(embedding: Any, tmp_path: Path) -> None:
    report = validate(embedding, pictures(tmp_path / "flat", 30))
    assert "k-NN accuracy" not in rows_of(report)
    assert "same nearest image as fp32" in report["verdict_reason"]
    assert report["verdict"] == "UNDECIDED"


def yolos(folder: Path) -> Path:
    import torch

    torch.manual_seed(0)
    config = tf.YolosConfig(
        image_size=[SIDE, SIDE],
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_detection_tokens=6,
        id2label={0: "cat", 1: "dog", 2: "car"},
    )
    model = tf.YolosForObjectDetection(config)
    last = model.class_labels_classifier.layers[-1]
    last.weight.data *= 50
    last.bias.data[:] = torch.tensor([3.0, 0, 0, -1000])  # always an object, mostly a cat
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    tf.YolosImageProcessor(size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    home = tmp_path_factory.mktemp("detector")
    images = pictures(home / "images")
    made = edgevit.quantize(str(yolos(home / "model")), images, **QUICK)
    return made.save(home / "bundle"), images


def coco(bundle: Any, images: Path, path: Path) -> Path:
    """Write fp32's own boxes as annotations."""
    from edgevit.data import Preprocessing, open_images

    preprocessing = Preprocessing.from_dict(bundle.preprocessing)
    session, rows, files = session_from_bundle(bundle, "fp32"), [], []
    for pixels, _, names in open_images(images).batches(preprocessing, 4):
        outputs = session.run_all(preprocessing.normalize(pixels))
        for name, one in zip(
            names, found_boxes(outputs["logits"], outputs["boxes"], 3), strict=True
        ):
            files.append({"id": len(files), "file_name": name, "height": 100, "width": 50})
            for box, label in zip(one.boxes * [50, 100, 50, 100], one.labels, strict=True):
                place = [*box[:2], *(box[2:] - box[:2])]
                row = {"image_id": len(files) - 1, "category_id": int(label) + 7, "bbox": place}
                rows.append({"id": len(rows) + 1, "iscrowd": 0, **row})
    names = [{"id": 7 + at, "name": name} for at, name in enumerate(("cat", "dog", "car"))]
    path.write_text(json.dumps({"images": files, "annotations": rows, "categories": names}))
    return path


def test_a_detector_finds_the_boxes_of_fp32(detector: Any) -> None:
    bundle, images = detector
    outputs = {one["name"]: one["shape"] for one in bundle.manifest["model"]["outputs"]}
    assert outputs == {"logits": [6, 4], "boxes": [6, 4]}
    report = validate(bundle, images)
    row = rows_of(report)["boxes of fp32 that the engine finds"]
    assert row["engine"] > 80
    assert row["low"] <= row["engine"] <= row["high"]
    assert "boxes of fp32" in report["verdict_reason"]


def test_annotations(detector: Any, tmp_path: Path) -> None:
    bundle, images = detector
    path = coco(bundle, images, tmp_path / "boxes.json")
    if find_spec("pycocotools") is None:
        with pytest.raises(EnvironmentError_, match="EV353"):
            validate(bundle, images, annotations=path)
        return
    report = validate(bundle, images, annotations=path, max_drop=90)
    row = rows_of(report)["COCO AP"]
    assert row["fp32"] > 99  # the annotations are its own
    assert 50 < row["engine"] <= row["fp32"]
    assert report["drop_points"]["value"] == pytest.approx(row["fp32"] - row["engine"])
    assert report["verdict"] == "PASS"


def test_annotations_are_read_as_shares_of_the_picture(detector: Any, tmp_path: Path) -> None:
    from edgevit.data import Preprocessing
    from edgevit.data.annotations import read_annotations

    bundle, images = detector
    path = coco(bundle, images, tmp_path / "boxes.json")
    preprocessing, names = Preprocessing.from_dict(bundle.preprocessing), ("cat", "dog", "car")
    one = read_annotations(path, names, 3, preprocessing).of("folder/03.png")
    assert one.size == (100, 50)
    assert one.boxes.shape == (6, 4)
    assert np.abs(one.boxes).max() < 2
    assert set(one.labels) <= {0, 1, 2}
    values = json.loads(path.read_text())
    row = values["annotations"][0]
    wrong: list[tuple[Any, str]] = [
        ([], "no lists"),
        ({**values, "annotations": [{"image_id": 1}]}, "KeyError"),
        ({**values, "annotations": [{**row, "category_id": 77}]}, "category 77"),
        ({**values, "annotations": [{**row, "bbox": [1, 2, float("nan"), 4]}]}, "the box"),
        ({**values, "annotations": [{**row, "bbox": [1, 2, -3, 4]}]}, "the box"),
        ({**values, "annotations": [{**row, "bbox": [1, 2, 3, 4] * 2}]}, "the box"),
        ({**values, "annotations": [{**row, "bbox": [1, 2, 10**400, 4]}]}, "OverflowError"),
        ({**values, "annotations": [{**row, "image_id": float("inf")}]}, "OverflowError"),
        ({**values, "images": values["images"] + values["images"][:1]}, "one file_name"),
        ({**values, "images": [{**values["images"][0], "height": 0}]}, ""),
        ({**values, "annotations": [{**values["annotations"][0], "bbox": [1] * 8}]}, "ValueError"),
        ({**values, "categories": [{"id": 7, "name": "bird"}]}, "bird"),
    ]
    for content, why in wrong:
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match="EV236") as info:
            read_annotations(path, names, 3, preprocessing)
        assert why in info.value.why
    for content in ("{", "null"):
        path.write_text(content)
        with pytest.raises(DataError, match="EV236"):
            read_annotations(path, names, 3, preprocessing)
    with pytest.raises(DataError, match="EV236"):
        read_annotations(tmp_path, names, 3, preprocessing)


def test_two_images_are_not_one_of_the_annotations(detector: Any, tmp_path: Path) -> None:
    from edgevit.data import Preprocessing
    from edgevit.data.annotations import read_annotations

    bundle, images = detector
    path = coco(bundle, images, tmp_path / "boxes.json")
    path.write_text(path.read_text().replace("folder/", ""))
    preprocessing = Preprocessing.from_dict(bundle.preprocessing)
    read = read_annotations(path, ("cat", "dog", "car"), 3, preprocessing)
    batch = (np.zeros((2, 1, 1, 3), np.uint8), np.zeros(2, np.int64), ["a/03.png", "b/03.png"])
    with pytest.raises(DataError, match=r"a/03\.png and b/03\.png"):
        list(read.labelled([batch]))


def test_verbs_that_judge_by_classes_say_so(tmp_path: Path) -> None:
    from edgevit.verbs.sensitivity import sensitivity
    from edgevit.verbs.simulate import compare_methods

    name, images = str(segformer(tmp_path / "model")), pictures(tmp_path / "images")
    with pytest.raises(UnsupportedError, match="EV351"):
        compare_methods(name, images, data=images, methods=("minmax",), num_calib=2)
    with pytest.raises(UnsupportedError, match="EV351"):
        sensitivity(name, images, data=images, num_calib=2)


def test_a_task_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="EV234") as info:
        edgevit.quantize("no_such_model", task="segmnet")
    assert "no such task" in str(info.value)
