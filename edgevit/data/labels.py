"""Which label index of the model the images of a class folder have.

Folder names are matched with the model's class names; nothing is guessed from their order unless
the model has no class names at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgevit.data.imageset import ImageSet
from edgevit.errors import DataError


def labels_for(
    classes: Sequence[str] | None, images: ImageSet, num_classes: int | None = None
) -> ImageSet:
    """Give the images the model's label indices.

    Args:
        classes: The model's class names in label order, or None when it has none.
        images: The images; in a flat folder their labels stay -1.
        num_classes: Number of logits; needed when `classes` is None.

    Returns:
        The same images with `ImageSet.labels` set: ``{folder name: label index}``.

    Raises:
        DataError: A folder fits no class, or several (EV105).
    """
    folders = list(images.classes)
    count = len(classes) if classes is not None else num_classes
    if images.numbered:
        labels = _by_number(folders, count, images.location)
    elif classes is not None and not _are_numbers(folders, classes):
        labels = _by_name(folders, classes, images.location)
    else:  # the model has no names, or the folders are called 0, 1, ... like its labels
        labels = _by_order(folders, count, images.location)
    return replace(images, labels=labels)


def _are_numbers(folders: list[str], classes: Sequence[str]) -> bool:
    """Return whether the folders are called 0, 1, ..., one for each class, and the classes not."""
    return set(folders) == {str(i) for i in range(len(classes))} and folders[0] not in classes


def _by_number(folders: list[str], count: int | None, where: str) -> dict[str, int]:
    """Take labels of an array file as they are."""
    labels = {name: int(name) for name in folders}
    if count is not None and labels and max(labels.values()) >= count:
        largest = max(labels.values())
        raise _mismatch(where, f"The largest label is {largest}; the model has {count} classes.")
    return labels


def _by_name(folders: list[str], classes: Sequence[str], where: str) -> dict[str, int]:
    exact: dict[str, list[int]] = {}
    lower: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        exact.setdefault(name, []).append(index)
        lower.setdefault(name.lower(), []).append(index)
    found = {name: exact.get(name) or lower.get(name.lower(), []) for name in folders}
    wrong = [name for name, indices in found.items() if len(indices) != 1]
    labels = {name: indices[0] for name, indices in found.items() if len(indices) == 1}
    if wrong:
        known = ", ".join(list(classes)[:4])
        raise _mismatch(
            where,
            f"{len(wrong)} of {len(folders)} folders fit no class of the model or several: "
            f"{_first(wrong)}. The model's {len(classes)} classes are {known}, ...",
        )
    if len(set(labels.values())) != len(labels):
        raise _mismatch(where, "Two folders differ only in case and mean the same class.")
    return labels


def _by_order(folders: list[str], count: int | None, where: str) -> dict[str, int]:
    """Number the folders in sorted order: 2 before 10 when all are numbers."""
    if folders and count != len(folders):
        known = "an unknown number of" if count is None else str(count)
        raise _mismatch(
            where,
            f"The model has {known} classes without matching names and there are {len(folders)} "
            f"folders ({_first(folders)}), so their order says nothing.",
        )
    numeric = all(name.isascii() and name.isdigit() for name in folders)
    ordered = sorted(folders, key=int) if numeric else sorted(folders)
    return {name: index for index, name in enumerate(ordered)}


def _first(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _mismatch(where: str, why: str) -> DataError:
    return DataError(
        "EV105",
        "The class folders don't fit the model's classes.",
        where=where,
        why=why,
        try_next="Name each folder after its class (ImageNet: n01440764, ...), "
        "or give a folder of another data set.",
    )
