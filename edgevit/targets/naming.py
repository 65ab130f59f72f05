"""Names of the targets, for help and completion: without torch and without an engine.

A target is a folder here with ``target.py``, or a file. The folder's ``__init__.py``, which is
imported and so imports nothing heavy, or the file, which is only read, says ``NAMES``.
"""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from edgevit import targets
from edgevit.recipe import DEFAULT_TARGET


def target_names() -> tuple[str, ...]:
    """Return the names of all targets: the default, then folders and files by their names."""
    found = [name for _, names in target_modules() for name in names]
    return tuple(sorted(found, key=lambda name: name != DEFAULT_TARGET))


def target_modules() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the module of each target file or folder, not imported, and the names it says."""
    here = sorted(pkgutil.iter_modules(targets.__path__), key=lambda one: (not one.ispkg, one.name))
    for one in here:
        module = f"{targets.__name__}.{one.name}"
        if one.ispkg:
            names = getattr(import_module(module), "NAMES", ())
            module = f"{module}.target"
        else:
            file = Path(getattr(one.module_finder, "path", ""), f"{one.name}.py")
            is_source = file.is_file()  # only compiled files may be installed
            names = _names_in(file) if is_source else getattr(import_module(module), "NAMES", ())
        if names:
            yield module, tuple(names)


def _names_in(file: Path) -> tuple[str, ...]:
    """Return the ``NAMES = (...)`` at the top of a file, empty without such a line."""
    for statement in ast.parse(file.read_text("utf-8"), str(file)).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "NAMES":
            return tuple(ast.literal_eval(statement.value))
    return ()
