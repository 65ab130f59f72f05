"""Gives a bundle's images what is known of them beside their folder: label maps, or boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edgevit.bundle import Bundle
from edgevit.data import ImageSet, Preprocessing
from edgevit.data.tasks import CLASSIFY, DETECT, SEGMENT
from edgevit.errors import UsageError
from edgevit.runner.measure.measurements import BATCH

Batches = Callable[[], Iterable[Any]]
_TASKS = {
    "--masks": SEGMENT,
    "--annotations": DETECT,
    "--classes": CLASSIFY,
    "--class-order": CLASSIFY,
}


def batches_of(
    bundle: Bundle,
    images: ImageSet,
    masks: str | Path | None = None,
    annotations: str | Path | None = None,
) -> Batches:
    """Return a function that yields (pixels uint8 [B, H, W, 3], labels, names), anew each time.

    Args:
        bundle: Its task decides what may be given.
        images: The images, with the numbers of their folders for labels.
        masks: Folder of label maps for a segmentation, int64 [B, H, W] then.
        annotations: COCO's JSON for a detector, a list of `Annotated` then.

    Raises:
        UsageError: It is nothing for the bundle's task (EV352).
        EnvironmentError_: pycocotools is not installed (EV353).
        DataError: What is given can't be used (EV235, EV236).
    """
    preprocessing = Preprocessing.from_dict(bundle.preprocessing)
    check_options(bundle.task, {"--masks": masks, "--annotations": annotations})

    def plain() -> Iterable[Any]:
        return images.batches(preprocessing, BATCH)

    if masks is not None:
        from edgevit.data.masks import open_masks

        folder = open_masks(masks, preprocessing)
        for item in images.items:  # before an engine is built
            folder.find(item.shown)
        return lambda: folder.labelled(plain())
    if annotations is not None:
        from edgevit.data.annotations import read_annotations
        from edgevit.runner.measure.tasks.coco import check_installed

        check_installed()
        model = bundle.manifest["model"]
        read = read_annotations(
            annotations, model.get("classes"), model["num_classes"], preprocessing
        )
        for item in images.items:
            read.of(item.shown)
        return lambda: read.labelled(plain())
    return plain


def check_options(task: str, given: dict[str, Any]) -> None:
    """Refuse what is given for models of another task.

    Args:
        given: Option -> its value, None where it was left out.

    Raises:
        UsageError: It is nothing for this task (EV352).
    """
    for option, value in given.items():
        if value is not None and task != _TASKS[option]:
            raise UsageError(
                "EV352",
                f"{option} is nothing for this bundle.",
                where=f"{option} {value}"[:200],
                why=f"It is for models of the task {_TASKS[option]}; this one's is {task}.",
                try_next=f"Leave {option} out.",
            )
