"""In which order the libraries that models are trained with number class folders.

Sources: torchvision, `datasets/folder.py` (`find_classes`: plain `sorted`); timm,
`data/readers/reader_image_folder.py` and `utils/misc.py` (`natural_key`: 2 before 10, case aside).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

from edgevit.errors import DataError, UsageError

_Order = Callable[[Iterable[str]], list[str]]
_Key = list[str | tuple[int, str]]


def torchvision_order(folders: Iterable[str]) -> list[str]:
    """Return the folders as ImageFolder numbers them: by code points, 10 before 2."""
    return sorted(folders)


def timm_order(folders: Iterable[str]) -> list[str]:
    """Return the folders as timm's reader numbers them: runs of digits as numbers, case aside.

    Raises:
        DataError: Two names are the same to it, so its order of them is left to chance (EV117).
    """
    ordered = sorted(folders, key=_natural_key)
    for first, second in pairwise(ordered):
        if _natural_key(first) == _natural_key(second):
            raise DataError(
                "EV117",
                "timm has no order of these class folders.",
                where=f"{first}, {second}",
                why="It reads digits as numbers and takes no note of case, so these two are the "
                "same to it and their order changes from run to run.",
                try_next="Give the names in the order of the model's outputs: --classes FILE.",
            )
    return ordered


CLASS_ORDERS: Mapping[str, _Order] = {"torchvision": torchvision_order, "timm": timm_order}


def check_class_order(order: str | None) -> str | None:
    """Return the name of an order, or None, as it is.

    Raises:
        UsageError: There is no such order (EV116).
    """
    if order is None or order in CLASS_ORDERS:
        return order
    raise UsageError(
        "EV116",
        f"There is no order of classes called {order!r}.",
        where="--class-order",
        why=f"Known are {' and '.join(CLASS_ORDERS)}, after what the model was trained with.",
        try_next=" or ".join(f"--class-order {name}" for name in CLASS_ORDERS),
    )


def orders_of(folders: Iterable[str]) -> dict[str, list[str]]:
    """Return the order of every library; one that has none of these folders is left out."""
    names = list(folders)
    found = {}
    for library, order in CLASS_ORDERS.items():
        try:
            found[library] = order(names)
        except DataError:
            continue
    return found


def _natural_key(name: str) -> _Key:
    """Split a name into text and numbers; a number is compared by its length, then its digits."""
    pieces = re.split(r"(\d+)", name.lower())
    return [_number(piece) if at % 2 else piece for at, piece in enumerate(pieces)]


def _number(digits: str) -> tuple[int, str]:
    plain = "".join(str(unicodedata.decimal(digit)) for digit in digits).lstrip("0")
    return len(plain), plain
