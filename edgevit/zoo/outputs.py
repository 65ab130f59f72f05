"""The tensors that a model returns, by name: of a tensor, a tuple, a dict or a ModelOutput.

Names are the keys or fields that the model gives, "output0", "output1", ... where it gives none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

_FOREIGN = re.compile(r"[^A-Za-z0-9_]+")
_MAX_CHARACTERS, _MAX_DEPTH = 48, 4


def named_values(returned: Any) -> dict[str, Any]:
    """Return what a model returned, taken apart, under names of letters, digits and "_" alone.

    Nested tuples and dicts are taken apart too: the second of ``hidden_states`` is
    ``hidden_states_1``. None and other things that are no tensor are kept, for the caller to name.
    """
    found: dict[str, Any] = {}
    for path, value in _walk(returned, ()):
        name = _plain("_".join(path) if path else "output0")
        stem, count = name, 0
        while name in found:
            count += 1
            name = f"{stem}_{count}"
        found[name] = value
    return found


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (keys on the way, value) of everything inside that holds nothing else."""
    parts = None if len(path) >= _MAX_DEPTH else _parts(value)
    if parts is None:
        yield path, value
        return
    for key, part in parts:
        own = f"output{key}" if isinstance(key, int) and not path else str(key)
        yield from _walk(part, (*path, own))


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """Return keys and what they stand for; None where a value is not made of others."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return [(one.name, getattr(value, one.name)) for one in fields(value)]
    return None


def _plain(name: str) -> str:
    plain = _FOREIGN.sub("_", name)[:_MAX_CHARACTERS].strip("_")
    return plain if plain[:1].isalpha() else f"output_{plain}".rstrip("_")
