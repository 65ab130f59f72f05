"""The named outputs of a bundle's model, and the task that it is for.

A manifest says both in ``model.outputs`` and ``model.task``; one without them is that of a
classifier, whose one output is "logits" [B, classes].
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Mapping

from edgevit.bundle.manifest_schema import bad_manifest
from edgevit.data.tasks import (
    CLASSIFY,
    DETECT,
    EMBED,
    LOGITS,
    MAX_OUTPUTS,
    MAX_RANK,
    SEGMENT,
    TASKS,
    WANTED,
)

MAX_IMAGE_BYTES = 256 << 20
NAME_PATTERN = r"[A-Za-z][A-Za-z0-9_]{0,63}"
_NAME, _FLOAT_BYTES = re.compile(NAME_PATTERN + r"\Z"), 4
_MAX_SIDE = 1 << 24


@dataclass(frozen=True)
class Output:
    """One output of a model.

    Args:
        name: Letters, digits and "_".
        shape: Dimensions behind the batch; () for one number an image.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Elements per image."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def image_bytes(self) -> int:
        """Bytes per image, in float32."""
        return _FLOAT_BYTES * self.elements

    def to_dict(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        return {"name": self.name, "shape": list(self.shape)}


def is_classifier(model: Mapping[str, Any]) -> bool:
    """Return whether a manifest's ``model`` has logits as its one output, and classifies."""
    return "outputs" not in model


def task_of(model: Mapping[str, Any]) -> str:
    """Return the task in a manifest's ``model``; "classify" if it says none."""
    return str(model.get("task", CLASSIFY))


def outputs_of(model: Mapping[str, Any]) -> tuple[Output, ...]:
    """Return the outputs in a manifest's ``model``, checked already; the main one first."""
    if is_classifier(model):
        return (Output(LOGITS, (model["num_classes"],)),)
    return tuple(Output(one["name"], tuple(one["shape"])) for one in model["outputs"])


def check_outputs(model: Mapping[str, Any]) -> None:
    """Refuse a manifest's ``model`` whose outputs or task no model of EdgeViT has.

    Raises:
        BundleError: They are malformed, too many or too large (EV402).
    """
    task = model.get("task", CLASSIFY)
    if not isinstance(task, str) or task not in TASKS:
        raise bad_manifest(f"model.task is none of {', '.join(TASKS)}")
    if is_classifier(model):
        if task != CLASSIFY:
            raise bad_manifest("model.outputs is missing for a model that does not classify")
        if model.get("num_classes") is None:
            raise bad_manifest("model.num_classes is missing or has the wrong type")
        return
    outputs = model["outputs"]
    if not isinstance(outputs, list) or not 1 <= len(outputs) <= MAX_OUTPUTS:
        raise bad_manifest(f"model.outputs is not a list of 1 to {MAX_OUTPUTS}")
    for at, one in enumerate(outputs):
        _check_one(one, f"model.outputs[{at}]")
    if len({one["name"] for one in outputs}) != len(outputs):
        raise bad_manifest("model.outputs has a name twice")
    if sum(one.image_bytes for one in outputs_of(model)) > MAX_IMAGE_BYTES:
        raise bad_manifest(f"model.outputs takes more than {MAX_IMAGE_BYTES} bytes an image")
    _check_task(task, outputs_of(model), model.get("num_classes"))


def _check_task(task: str, outputs: tuple[Output, ...], classes: Any) -> None:
    """Refuse outputs that are not those that the task is about."""
    if task == CLASSIFY and outputs[0].shape != (classes,):
        raise bad_manifest("model.outputs does not begin with the logits of num_classes")
    if task in (EMBED, SEGMENT, DETECT):
        wanted = [(one.name, one.rank - 1) for one in WANTED[task]]
        if [(one.name, len(one.shape)) for one in outputs] != wanted:
            raise bad_manifest(f"model.outputs is not what {task!r} is about")
    if task == SEGMENT and outputs[0].shape[0] != classes:
        raise bad_manifest("model.outputs are no logits of num_classes")
    if task == DETECT:
        (queries, scores), (boxes, sides) = (one.shape for one in outputs)
        counted = type(classes) is int and scores in (classes, classes + 1)
        if not counted or (boxes, sides) != (queries, 4):
            raise bad_manifest("model.outputs are no boxes of num_classes")


def _check_one(one: Any, where: str) -> None:
    if not isinstance(one, dict) or set(one) != {"name", "shape"}:
        raise bad_manifest(f"{where} is no table of name and shape")
    if not isinstance(one["name"], str) or not _NAME.match(one["name"]):
        raise bad_manifest(f"{where}.name is not one that an output has")
    shape = one["shape"]
    if not isinstance(shape, list) or len(shape) > MAX_RANK - 1:
        raise bad_manifest(f"{where}.shape has more than {MAX_RANK - 1} dimensions")
    if not all(type(size) is int and 1 <= size <= _MAX_SIDE for size in shape):
        raise bad_manifest(f"{where}.shape is not of whole numbers from 1 on")
