"""Finds what the modules of a folder declare, so that a new one is one new file there."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any, Iterable


def declared(package: str, folders: Iterable[str], attribute: str) -> dict[str, Any]:
    """Return name -> value of every module that declares one, in alphabetical order of the files.

    Args:
        package: Name of the package, such as "edgevit.runner.engines".
        folders: Its ``__path__``.
        attribute: What modules declare it as; the value has a ``name``.

    Raises:
        ValueError: Two values have one name.
    """
    found: dict[str, Any] = {}
    for file in pkgutil.iter_modules(folders):
        value = getattr(import_module(f"{package}.{file.name}"), attribute, None)
        if value is not None and found.setdefault(value.name, value) is not value:
            raise ValueError(f"two {attribute.lower()}s are named {value.name!r}")
    return found
