"""Names of the calibration methods, read from their files: help and completion import no torch."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

_METHODS = "edgevit.calibration.methods"
_MAKERS = {"Method", "replace"}


def method_names() -> tuple[str, ...]:
    """Return the names of all methods in `edgevit.calibration.methods`, in alphabetical order."""
    package = find_spec(_METHODS)  # found, not imported
    folders = [] if package is None else package.submodule_search_locations or []
    files = [file for folder in folders for file in Path(folder).glob("*.py")]
    return tuple(sorted(name for file in files for name in _names(file)))


def _names(file: Path) -> list[str]:
    """Return what ``name=`` is in each ``NAME = Method(...)`` at the top of a file."""
    found: list[str] = []
    for statement in ast.parse(file.read_text("utf-8"), str(file)).body:
        made = getattr(statement, "value", None)  # of an assignment, with or without a type
        if isinstance(made, ast.Call) and getattr(made.func, "id", "") in _MAKERS:
            values = [word.value for word in made.keywords if word.arg == "name"]
            found += [str(value.value) for value in values if isinstance(value, ast.Constant)]
    return found
