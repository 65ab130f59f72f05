"""Gives a loaded model the names of its classes: those the user states, or a file's beside it.

English names of ImageNet become WordNet ids, which is what folders of ImageNet are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.data.class_orders import check_class_order
from edgevit.data.classes import FILE_NAMES, check_class_names, read_class_names
from edgevit.data.labels import num_labels
from edgevit.errors import DataError, UsageError

if TYPE_CHECKING:
    from edgevit.zoo.loaded import LoadedModel

ClassNames = str | Path | Sequence[str]
IMAGENET_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Names of the classes, in the order of the label indices, and their source.

    Args:
        names: Class names in label order, None where there are none.
        source: Where they are from, in words.
        order: How class folders were numbered in training, a key of
            `edgevit.data.class_orders.CLASS_ORDERS`; None where nobody said.
        notes: What was found and not taken, for the report.
    """

    names: tuple[str, ...] | None = None
    source: str = "the model"
    order: str | None = None
    notes: tuple[str, ...] = ()


def check_naming(classes: ClassNames | None, order: str | None) -> None:
    """Refuse two statements of the same thing, before anything is loaded.

    Raises:
        UsageError: There is no such order (EV116), or names were given beside it (EV137).
        DataError: The file of names can't be read; see `read_class_names`.
    """
    check_class_order(order)
    if isinstance(classes, str | Path):
        read_class_names(Path(classes))
    if classes is not None and order is not None:
        raise UsageError(
            "EV137",
            "The class names and the order of the folders are two statements of one thing.",
            where="--classes, --class-order",
            why="Names in the order of the model's outputs say which folder is which.",
            try_next="Give one of them.",
        )


def stated_names(classes: ClassNames, num_logits: int) -> tuple[tuple[str, ...], str]:
    """Return the names given for a model of so many logits, and where they are from.

    Raises:
        DataError: They can't be read or don't fit; see `edgevit.data.classes`.
    """
    if not isinstance(classes, str | Path):
        names = check_class_names([str(one) for one in classes], num_labels(num_logits), "classes")
        return names, "the names given"
    path = Path(classes)
    names = read_class_names(path)
    if not names:
        raise DataError(
            "EV119",
            "The file holds no class names.",
            where=str(path),
            why="It has LABEL_0, LABEL_1, ..., which transformers writes where names are unknown.",
            try_next="Give a file with the names, one a line.",
        )
    return _check(names, num_logits, str(path)), path.name


def name_classes(
    loaded: LoadedModel,
    classes: ClassNames | None,
    order: str | None,
    weights: str | Path | None,
) -> Naming:
    """Return what is known of a model's classes.

    Args:
        loaded: The model; its own names count where no others are stated.
        classes: What the user states: a file of names, or the names.
        order: How the class folders were numbered in training, as the user states it.
        weights: The checkpoint; a file of names beside it belongs to it.

    Raises:
        DataError: Names can't be read or don't fit (see `edgevit.data.classes`), or several files
            beside the checkpoint say different things (EV124).
        UsageError: Names or an order are stated for a model without classes (EV355).
    """
    if loaded.num_classes is None and (classes is not None or order):
        raise _no_classes(loaded)
    if classes is not None and loaded.num_classes is not None:
        names, source = stated_names(classes, loaded.num_classes)
        return Naming(names=names, source=source)
    if weights is None or loaded.num_classes is None:
        return Naming(names=loaded.classes, order=order)
    found, notes = _beside(Path(weights), loaded.num_classes)
    if not found:
        return Naming(names=loaded.classes, order=order, notes=notes)
    file, names = next(iter(found.items()))
    return Naming(names=names, source=f"{file} beside the checkpoint", order=order, notes=notes)


def _no_classes(loaded: LoadedModel) -> UsageError:
    return UsageError(
        "EV355",
        "The model has no classes to name.",
        where=loaded.name,
        why=f"Its task is {loaded.task}, and none of its outputs has a number for each class.",
        try_next="Leave --classes and --class-order out.",
    )


def with_names(loaded: LoadedModel, naming: Naming) -> LoadedModel:
    """Return the model with these names."""
    return replace(loaded, classes=naming.names)


def _beside(weights: Path, num_logits: int) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return file name -> names of what lies beside a checkpoint, and notes on what doesn't fit.

    Raises:
        DataError: Two files say different things (EV124).
    """
    found: dict[str, tuple[str, ...]] = {}
    notes = []
    for name in FILE_NAMES:
        path = weights.parent / name
        if not path.is_file():
            continue
        try:
            names = read_class_names(path)
            if names:
                found[name] = _check(names, num_logits, name)
        except DataError as error:
            if name != "config.json":  # most of those say nothing of classes
                notes.append(f"{name} beside the checkpoint was not taken: {error.what}")
    if len(set(found.values())) > 1:
        raise DataError(
            "EV124",
            "Files beside the checkpoint name the classes differently.",
            where=str(weights.parent),
            why=f"These have names for its {num_labels(num_logits)} classes: {', '.join(found)}.",
            try_next=" or ".join(f"--classes {weights.parent / name}" for name in found),
        )
    return found, tuple(notes)


def _check(names: tuple[str, ...], num_logits: int, where: str) -> tuple[str, ...]:
    """Return names that fit, those of ImageNet as WordNet ids.

    Raises:
        DataError: As `check_class_names`.
    """
    if len(names) == num_logits == IMAGENET_CLASSES:
        from edgevit.zoo.imagenet import wordnet_ids_if_imagenet

        names = wordnet_ids_if_imagenet(names)
    return check_class_names(names, num_labels(num_logits), where)
