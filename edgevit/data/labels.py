"""Finds the label index of the model for the images of each class folder.

Folder names are matched with the model's class names. Without names the order of the folders
counts, where the libraries that models are trained with agree on it, or where it is stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgevit.data.class_orders import CLASS_ORDERS, check_class_order, orders_of
from edgevit.data.imageset import ImageSet
from edgevit.errors import DataError, UsageError

_SHOWN, _KEPT = 4, 50
Labels = dict[str, int]


def num_labels(num_logits: int) -> int:
    """Return how many classes so many logits tell apart: a single one says yes or no."""
    return max(num_logits, 2)


def labels_for(
    classes: Sequence[str] | None,
    images: ImageSet,
    num_classes: int | None = None,
    *,
    order: str | None = None,
    source: str = "the model",
) -> ImageSet:
    """Give the images the model's label indices.

    Args:
        classes: The model's class names in label order, or None when it has none.
        images: The images; in a flat folder their labels stay -1.
        num_classes: Number of logits; needed when `classes` is None.
        order: A key of `CLASS_ORDERS` if it is stated how the model's folders were numbered;
            folders that the names fit do without.
        source: Where `classes` are from, in words.

    Returns:
        The same images with `ImageSet.labels` set: ``{folder name: label index}``, and
        `ImageSet.labels_from`, what they were taken from in words.

    Raises:
        DataError: A folder fits no class, or several (EV105); nothing states the order and the
            libraries differ (EV112); timm has no order of these folders (EV117).
        UsageError: There is no such order (EV116), or names and order contradict (EV113).
    """
    check_class_order(order)
    if not images.classes:
        return replace(images, labels={}, labels_from="")
    known = None if num_classes is None else num_labels(num_classes)
    count = known if classes is None else len(classes)
    labels, labels_from = _labels(classes, images, count, order, source)
    return replace(images, labels=labels, labels_from=labels_from)


def label_facts(images: ImageSet) -> dict[str, Any] | None:
    """Return what a report keeps of the labels; of many folders the first ones.

    None where images have no class folders.
    """
    if not images.labels:
        return None
    pairs = _by_index(images.labels)
    return {
        "source": images.labels_from,
        "num_folders": len(pairs),
        "mapping": {_printable(folder): index for folder, index in pairs[:_KEPT]},
    }


def _labels(
    classes: Sequence[str] | None,
    images: ImageSet,
    count: int | None,
    order: str | None,
    source: str,
) -> tuple[Labels, str]:
    """Return the labels and what they are from: facts first, then what is stated."""
    folders, where = list(images.classes), images.location
    if images.numbered:
        return _by_number(folders, count, where), "label numbers of the data file"
    if classes is not None:
        if order is None or _fits(folders, classes):
            if order is None and _are_numbers(folders, classes):
                numbers = {name: int(name) for name in folders}
                return numbers, f"folder names as indices of the classes of {source}"
            return _by_name(folders, classes, where, order), f"class names of {source}"
    elif images.named is not None and len(images.named) == count and order is None:
        return _by_name(folders, images.named, where, None), "class names of the data file"
    _check_complete(folders, count, where)
    if order is not None:
        return _number(CLASS_ORDERS[order](folders)), f"order of the folders as in {order}"
    return _by_agreed_order(folders, where)


def _by_agreed_order(folders: list[str], where: str) -> tuple[Labels, str]:
    """Number folders that every library numbers alike.

    Raises:
        DataError: They differ (EV112).
    """
    orders = orders_of(folders)
    alike = len(orders) == len(CLASS_ORDERS) and len({tuple(one) for one in orders.values()}) == 1
    if alike:
        said = " and ".join(CLASS_ORDERS)
        return _number(orders[next(iter(CLASS_ORDERS))]), f"order of the folders as in {said}"
    raise DataError(
        "EV112",
        "Nothing says in which order the model's classes are.",
        where=where,
        why="The model has no class names, and libraries number these folders differently: "
        + "; ".join(_difference(library, orders.get(library), orders) for library in CLASS_ORDERS),
        try_next="--class-order torchvision if the model was trained with ImageFolder, "
        "--class-order timm with timm's; or --classes FILE with the names in output order.",
    )


def _difference(library: str, order: list[str] | None, orders: dict[str, list[str]]) -> str:
    """Return a library's order in words, from shortly before the first place where they differ."""
    if order is None:
        return f"{library} at random"
    rows = zip(*orders.values(), strict=True)
    first = next((at for at, row in enumerate(rows) if len(set(row)) > 1), 0)
    start = max(first - 1, 0)
    shown = ", ".join(map(_printable, order[start : start + _SHOWN]))
    return f"{library} {'..., ' if start else ''}{shown}, ..."


def _number(ordered: list[str]) -> Labels:
    return {name: index for index, name in enumerate(ordered)}


def _are_numbers(folders: list[str], classes: Sequence[str]) -> bool:
    """Return whether the folders are called 0, 1, ..., one for each class, and the classes not."""
    return set(folders) == {str(i) for i in range(len(classes))} and not set(folders) & set(classes)


def _by_number(folders: list[str], count: int | None, where: str) -> Labels:
    """Take labels of an array file as they are."""
    labels = {name: int(name) for name in folders}
    if count is not None and labels and max(labels.values()) >= count:
        largest = max(labels.values())
        raise _mismatch(where, f"The largest label is {largest}; the model has {count} classes.")
    return labels


def _find(folders: list[str], classes: Sequence[str]) -> dict[str, list[int]]:
    """Return folder -> indices of the classes it may be; the exact name wins over other case."""
    exact: dict[str, list[int]] = {}
    lower: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        exact.setdefault(name, []).append(index)
        lower.setdefault(name.lower(), []).append(index)
    return {name: exact.get(name) or lower.get(name.lower(), []) for name in folders}


def _fits(folders: list[str], classes: Sequence[str]) -> bool:
    return all(len(indices) == 1 for indices in _find(folders, classes).values())


def _by_name(folders: list[str], classes: Sequence[str], where: str, order: str | None) -> Labels:
    found = _find(folders, classes)
    wrong = [name for name, indices in found.items() if len(indices) != 1]
    labels = {name: indices[0] for name, indices in found.items() if len(indices) == 1}
    if wrong:
        known = ", ".join(map(_printable, list(classes)[:4]))
        raise _mismatch(
            where,
            f"{len(wrong)} of {len(folders)} folders fit no class of the model or several: "
            f"{_first(wrong)}. The model's {len(classes)} classes are {known}, ...",
        )
    if len(set(labels.values())) != len(labels):
        raise _mismatch(where, "Two folders differ only in case and mean the same class.")
    if order is not None and len(labels) == len(classes):
        _refuse_contradiction(labels, _number(CLASS_ORDERS[order](folders)), order)
    return labels


def _refuse_contradiction(labels: Labels, ordered: Labels, order: str) -> None:
    wrong = [name for name, index in _by_index(labels) if ordered[name] != index]
    if wrong:
        name = wrong[0]
        raise UsageError(
            "EV113",
            "The class names and the order of the folders contradict each other.",
            where=f"--class-order {order}",
            why=f"Folder {_printable(name)} is class {labels[name]} by name and "
            f"{ordered[name]} by order.",
            try_next="Leave out --class-order, or give the right names with --classes FILE.",
        )


def _check_complete(folders: list[str], count: int | None, where: str) -> None:
    """Refuse folders whose order says nothing, because there are more or fewer than classes."""
    if count == len(folders):
        return
    known = "an unknown number of" if count is None else str(count)
    raise _mismatch(
        where,
        f"The model has {known} classes without matching names and there are {len(folders)} "
        f"folders ({_first(folders)}), so their order says nothing.",
    )


def _by_index(labels: Any) -> list[tuple[str, int]]:
    return sorted(labels.items(), key=lambda pair: int(pair[1]))


def _printable(name: str) -> str:
    """Return a name that any encoding can write: bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _first(names: list[str], limit: int = 8) -> str:
    return ", ".join(map(_printable, names[:limit])) + (", ..." if len(names) > limit else "")


def _mismatch(where: str, why: str) -> DataError:
    return DataError(
        "EV105",
        "The class folders don't fit the model's classes.",
        where=where,
        why=why,
        try_next="--classes FILE with the class names in the order of the model's outputs; some "
        "of the classes are then enough. Folders have to be named after them (ImageNet: "
        "n01440764, ...).",
    )
