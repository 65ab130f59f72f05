"""Reads the names of a model's classes, in the order of its outputs, from the files they come in.

One name a line; or JSON: a list, names by index (transformers' `id2label`), indices by name
(torchvision's `class_to_idx`), or a config.json of transformers or timm that holds one of these.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgevit.errors import DataError

MAX_BYTES = 16 << 20
# What may stand beside a checkpoint, the more specific first.
FILE_NAMES = (
    "classes.txt",
    "class_names.txt",
    "labels.txt",
    "classes.json",
    "class_names.json",
    "labels.json",
    "class_to_idx.json",
    "id2label.json",
    "id2label",
    "config.json",
)
_KEYS = ("label_names", "id2label", "label2id", "class_to_idx", "classes")


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the names in a file in label order, empty where a config.json has only placeholders.

    Raises:
        DataError: It can't be read (EV115) or is not UTF-8 (EV118), is no list of names (EV119),
            a name is empty (EV120), or indices are not 0, 1, ... (EV121).
    """
    text = _text(path)
    if text.lstrip()[:1] in ("{", "[") or path.suffix.lower() == ".json":
        names = _from_json(text, path)
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    return _without_placeholders(names, path)


def check_class_names(names: Sequence[str], count: int, where: str) -> tuple[str, ...]:
    """Return names that can stand for `count` classes.

    Raises:
        DataError: There are more or fewer (EV122), or one occurs twice (EV123).
    """
    if len(names) != count:
        raise DataError(
            "EV122",
            f"There are {len(names)} class names for {count} classes.",
            where=where,
            why=f"The first names are {', '.join(names[:4])}, ...",
            try_next="Give one name for each output of the model, in their order; a model with a "
            "single output has two: what 0 means, then what 1 means.",
        )
    twice = [name for name, found in Counter(names).items() if found > 1]
    if twice:
        at = [index for index, name in enumerate(names) if name == twice[0]]
        raise DataError(
            "EV123",
            "A class name occurs twice.",
            where=where,
            why=f"{twice[0]!r} names the classes {', '.join(map(str, at[:8]))}.",
            try_next="Give every class a name of its own.",
        )
    return tuple(names)


def _text(path: Path) -> str:
    """Read a file of text.

    Raises:
        DataError: It is no file, too large or unreadable (EV115), or not UTF-8 (EV118).
    """
    try:
        if not path.is_file():
            why = "It is no regular file." if path.exists() else "There is no such file."
            raise _unreadable(path, why)
        if path.stat().st_size > MAX_BYTES:
            raise _unreadable(path, f"It is larger than {MAX_BYTES >> 20} MiB.")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            "EV118",
            "The class names are not in UTF-8.",
            where=str(path),
            why=f"Byte {error.start} can't be read: {error.reason}.",
            try_next="Save the file again as UTF-8.",
        ) from error
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        raise _unreadable(path, str(error)) from error


def _from_json(text: str, path: Path) -> list[str]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_list(path, f"It is not valid JSON: {str(error)[:200]}") from error
    for key in _KEYS:
        found = _config_value(content, key)
        if found is not None:
            return _list_text(found, path)
    return _list_text(content, path)


def _config_value(content: Any, key: str) -> Any:
    """Return what a configuration holds under a key, or its part about the checkpoint (timm)."""
    if not isinstance(content, dict):
        return None
    inner = content.get("pretrained_cfg")
    for part in (content, inner if isinstance(inner, dict) else {}):
        if isinstance(part.get(key), (list, dict)):
            return part[key]
    return None


def _list_text(content: Any, path: Path) -> list[str]:
    """Return a list of names, names by index or indices by name as a list.

    Raises:
        DataError: It is neither (EV119), or the indices are not 0, 1, ... (EV121).
    """
    if isinstance(content, dict):
        return _by_index(_pairs(content, path), path)
    if isinstance(content, list) and content and all(isinstance(name, str) for name in content):
        return [name.strip() for name in content]
    raise _no_list(path, "It holds neither a list of names, nor names and their indices.")


def _pairs(content: dict[str, Any], path: Path) -> list[tuple[int, str]]:
    """Return (index, name) of a table whose keys or values are the indices."""
    values = list(content.values())
    if values and all(type(value) is int for value in values):
        return [(index, name) for name, index in content.items()]
    found = []
    for key, value in content.items():
        name = value[0] if isinstance(value, list) and value else value  # ["n01440764", "tench"]
        if not (key.isascii() and key.isdigit() and len(key) < 9 and isinstance(name, str)):
            why = f"{key[:80]!r} is neither an index with a name, nor a name with its index."
            raise _no_list(path, why)
        found.append((int(key), name))
    return found


def _by_index(pairs: list[tuple[int, str]], path: Path) -> list[str]:
    indices = sorted(index for index, _ in pairs)
    if indices != list(range(len(pairs))) or not pairs:
        wrong = next((at for at, index in enumerate(indices) if at != index), 0)
        raise DataError(
            "EV121",
            "The indices of the classes are not 0, 1, 2, ...",
            where=str(path),
            why=f"There are {len(pairs)} names, and index {wrong} is missing or occurs twice.",
            try_next="Give each output of the model one name; indices start at 0.",
        )
    return [name.strip() for _, name in sorted(pairs)]


def _without_placeholders(names: list[str], path: Path) -> tuple[str, ...]:
    empty = [index for index, name in enumerate(names) if not name]
    if empty or not names:
        raise DataError(
            "EV120",
            "A class name is empty.",
            where=str(path),
            why=f"Name {empty[0]}, counted from 0, is empty." if names else "There are no names.",
            try_next="One name for each class, and no empty lines between them.",
        )
    if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        return ()  # what transformers writes when it was told no names
    return tuple(names)


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        "EV115",
        "The class names can't be read.",
        where=str(path),
        why=why,
        try_next="Give a text file with one name a line, or a JSON file.",
    )


def _no_list(path: Path, why: str) -> DataError:
    return DataError(
        "EV119",
        "The file holds no class names.",
        where=str(path),
        why=why,
        try_next='["cat", "dog"], {"cat": 0, "dog": 1}, {"0": "cat", "1": "dog"}, or the '
        "config.json of a model of transformers or timm that has names.",
    )
