"""Names of the calibration methods, read from their files: help and completion import no torch."""

from __future__ import annotations

import ast
from importlib import resources

_MAKERS = {"Method", "replace"}


def method_names() -> tuple[str, ...]:
    """Return the names of all methods in `edgevit.calibration.methods`, in alphabetical order."""
    files = (resources.files("edgevit.calibration") / "methods").iterdir()
    sources = [file.read_text(encoding="utf-8") for file in files if file.name.endswith(".py")]
    return tuple(sorted({name for source in sources for name in _names(source)}))


def _names(source: str) -> list[str]:
    """Return what ``name=`` is in each ``NAME = Method(...)`` at the top of a file."""
    found: list[str] = []
    for statement in ast.parse(source).body:
        made = statement.value if isinstance(statement, ast.Assign) else None
        if isinstance(made, ast.Call) and getattr(made.func, "id", "") in _MAKERS:
            values = [word.value for word in made.keywords if word.arg == "name"]
            found += [str(value.value) for value in values if isinstance(value, ast.Constant)]
    return found
