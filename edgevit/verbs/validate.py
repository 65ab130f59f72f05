"""The verb `validate`: measure a bundle on this device, and the limits a report must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bundle import Bundle
from edgevit.data import ImageSet, open_images
from edgevit.data.tasks import CLASSIFY
from edgevit.errors import (
    AccuracyGateError,
    DeviceError,
    LatencyGateError,
    UndecidedError,
    UnsupportedError,
)
from edgevit.progress import Progress, no_progress
from edgevit.runner.engines import open_for_engine
from edgevit.runner.measure.limits import check_limits, check_runs

if TYPE_CHECKING:
    from edgevit.zoo.class_names import ClassNames, Naming

DEFAULT_MAX_DROP = 1.0
"""Points of top-1 the verdict allows when the user sets no limit."""


def validate(
    bundle: str | Path | Bundle,
    data: str | Path | ImageSet,
    *,
    num: int | None = None,
    seed: int = 0,
    max_drop: float | None = None,
    max_latency_ms: float | None = None,
    threads: int | None = None,
    batch: int = 1,
    rounds: int = 50,
    provider: str | None = None,
    engine: str = "auto",
    eer_metrics: Sequence[str] = (),
    eer_weights: Sequence[float] | None = None,
    eer_reference: str | Path = "vit_b",
    classes: ClassNames | None = None,
    class_order: str | None = None,
    masks: str | Path | None = None,
    annotations: str | Path | None = None,
    trust_code: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Measure a bundle on this device and return the report (see docs/validate.md).

    Args:
        bundle: A folder or an opened bundle.
        data: Labelled images; class folders are matched with the model's class names.
        num: Use only this many images, drawn class-balanced with `seed`.
        max_drop: Accuracy limit in points for the verdict; 1.0 if left out.
        max_latency_ms: Not used here; `check_gates` compares it with the report.
        threads: CPU threads of the engines, None to leave it to them.
        batch: Batch size of the latency runs.
        rounds: Alternating latency rounds.
        provider: ONNX Runtime provider; None for the one the bundle was made for.
        engine: "onnxruntime", "tensorrt", or "auto" for the one the bundle was made for, with
            ONNX Runtime standing in for a TensorRT that is not here.
        eer_metrics, eer_weights, eer_reference: Metrics, weights and reference of the Efficient
            Error Rate, see `edgevit.verbs.eer.eer_asked`; bits and size of ViT-B/16.
        classes: Class names in the order of the model's outputs, or a file of them; in place of
            those in the bundle.
        class_order: "torchvision" or "timm": how the class folders were numbered in training,
            where no names say it; in place of what the bundle says.
        masks: For a segmentation, a folder with a label map NAME.png for each image; see
            docs/tasks.md.
        annotations: For a detector, boxes of the images in COCO's JSON format.
        trust_code: Run a compiled engine in the bundle that another machine compiled: it is a
            program. Without it such a one is not used, and the graph is compiled here.
        progress: Called with (stage, done, total).

    Raises:
        EdgeViTError: Any of `edgevit.errors`; accuracy and latency gates are `check_gates`.
    """
    from edgevit.data.labels import label_facts
    from edgevit.runner.engines.choice import check_asked
    from edgevit.runner.engines.tensorrt.compared_kernels import with_compared_kernels
    from edgevit.runner.measure.conditions import Conditions
    from edgevit.runner.measure.measurements import BATCH, measure
    from edgevit.runner.measure.validation import validation_report
    from edgevit.verbs.eer import eer_asked
    from edgevit.verbs.truth import batches_of

    check_limits(max_drop=max_drop, max_latency_ms=max_latency_ms)
    check_runs(threads=threads, batch=batch, rounds=rounds)
    eer = eer_asked(eer_metrics, eer_weights, eer_reference)
    opened = bundle if isinstance(bundle, Bundle) else open_for_engine(bundle)
    opened.check_limits(max(BATCH, batch))
    images = open_labelled_for(opened, data, num, seed, classes, class_order)
    conditions = Conditions(
        engine=engine,
        threads=threads,
        provider=provider,
        batch=batch,
        rounds=rounds,
        max_drop=DEFAULT_MAX_DROP if max_drop is None else max_drop,
        trust_code=trust_code,
    )
    check_asked(opened.manifest, engine)
    batches = batches_of(opened, images, masks, annotations)
    measured = measure(opened, batches, len(images), conditions, progress)
    measured = replace(measured, skipped_images=[str(name) for name in images.skipped])
    report = validation_report(
        opened,
        measured,
        max_drop_points=DEFAULT_MAX_DROP if max_drop is None else max_drop,
        eer=eer,
        labels=label_facts(images),
    )
    return {**report, "build": with_compared_kernels(report["build"], opened)}


def open_labelled_for(
    bundle: Bundle,
    data: str | Path | ImageSet,
    num: int | None,
    seed: int,
    classes: ClassNames | None,
    class_order: str | None,
) -> ImageSet:
    """Return the images with the labels of a bundle's model; arguments as in `validate`.

    Raises:
        DataError, UsageError: Names, order and folders don't fit (see `edgevit.data.labels`), or
            are nothing for a model that does not classify (EV352).
    """
    from edgevit.verbs.truth import check_options
    from edgevit.zoo.class_names import Naming, check_naming, stated_names

    check_naming(classes, class_order)
    model = bundle.manifest["model"]
    if bundle.task != CLASSIFY:
        check_options(bundle.task, {"--classes": classes, "--class-order": class_order})
        return numbered_folders(data, num, seed)
    names, order = model.get("classes"), class_order or model.get("class_order")
    naming = Naming(names=tuple(names) if names else None, order=order)
    if classes is not None:
        names, source = stated_names(classes, model["num_classes"])
        naming = Naming(names=names, source=source)
    elif names and "classes_from" in model:
        naming = replace(naming, source=model["classes_from"])
    return open_labelled(data, naming, model["num_classes"], num, seed)


def numbered_folders(data: str | Path | ImageSet, num: int | None, seed: int) -> ImageSet:
    """Return the images, their folders numbered in order: labels that are no outputs' classes."""
    images = data if isinstance(data, ImageSet) else open_images(data)
    if num is not None:
        images = images.subset(num, seed, option="--num")
    labels = {folder: at for at, folder in enumerate(images.classes)}
    return replace(images, labels=labels, labels_from="order of the folders" if labels else "")


def open_labelled(
    data: str | Path | ImageSet, naming: Naming, num_classes: int | None, num: int | None, seed: int
) -> ImageSet:
    """Return the images, or `num` of them drawn with `seed`, with the model's labels.

    Raises:
        UnsupportedError: The model has no classes (EV351).
    """
    from edgevit.data import labels_for

    require_classes(num_classes)
    images = data if isinstance(data, ImageSet) else open_images(data)
    if num is not None:
        images = images.subset(num, seed, option="--num")
    return labels_for(naming.names, images, num_classes, order=naming.order, source=naming.source)


def require_classes(num_classes: int | None) -> None:
    """Refuse a model without classes where predictions are compared.

    Raises:
        UnsupportedError: It has none (EV351).
    """
    if num_classes is None:
        raise UnsupportedError(
            "EV351",
            "The model gives no classes to compare.",
            where="the model's outputs",
            why="Predictions are compared here, and it returns no logits [batch, classes].",
            try_next="`edgevit quantize` and `edgevit validate` compare its outputs themselves; "
            "`edgevit sensitivity` without --data ranks its layers.",
        )


def check_gates(
    report: dict[str, Any], *, max_drop: float | None, max_latency_ms: float | None
) -> None:
    """Raise when a limit the user set does not hold.

    Raises:
        AccuracyGateError: The drop is above `max_drop` (EV501).
        UndecidedError: There are too few images to tell (EV502), nothing says what is right for
            them (EV503), or their accuracies say nothing (EV114).
        LatencyGateError: The median latency is above `max_latency_ms` (EV601).
        DeviceError: No latency was measured that could be compared with it (EV602).
    """
    if max_drop is not None and report["verdict"] == "FAIL":
        raise AccuracyGateError(
            "EV501",
            "The accuracy drop is above the limit.",
            where=f"--max-drop {max_drop:g}",
            why=report["verdict_reason"],
            try_next="Quantize to more bits, or leave sensitive layers in float.",
        )
    if max_drop is not None and report["verdict"] == "UNDECIDED":
        _refuse_worthless(report, max_drop)
        if report["drop_points"] is None:
            raise UndecidedError(
                "EV503",
                "There is no accuracy drop to judge.",
                where=f"--max-drop {max_drop:g}",
                why=report["verdict_reason"],
                try_next="Validate on images with labels, or leave --max-drop out.",
            )
        raise UndecidedError(
            "EV502",
            "There are too few images to decide.",
            where=f"--max-drop {max_drop:g}",
            why=report["verdict_reason"],
            try_next="Validate on more images.",
        )
    if max_latency_ms is None:
        return
    if not report["latency_ms"]["engine"]:
        raise DeviceError(
            "EV602",
            "The latency limit can't be checked.",
            where=f"--max-latency-ms {max_latency_ms:g}",
            why="No latency of the device the bundle is for was measured.",
            try_next="Deploy to a device with the engine the bundle was made for.",
        )
    p50 = report["latency_ms"]["engine"]["p50"]
    if p50 > max_latency_ms:
        raise LatencyGateError(
            "EV601",
            "The latency is above the limit.",
            where=f"--max-latency-ms {max_latency_ms:g}",
            why=f"The engine's median is {p50:.2f} ms.",
            try_next="Use more threads, a smaller model, or a faster device.",
        )


def _refuse_worthless(report: dict[str, Any], max_drop: float) -> None:
    """Refuse a drop between accuracies that say nothing.

    Raises:
        UndecidedError: fp32 is at chance level, or all images are of one class (EV114).
    """
    chance = report["chance"]
    if report["drop_points"] is None or chance is None:
        return
    if chance["above"] is False or chance["num_classes"] == 1:
        raise UndecidedError(
            "EV114",
            "The accuracies say nothing, so their drop can't be judged.",
            where=f"--max-drop {max_drop:g}",
            why=report["verdict_reason"],
            try_next="Check the labels and the preprocessing in the report, and give images of "
            "several classes.",
        )
