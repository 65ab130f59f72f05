"""Named calibration methods, all over the same graph, sites and grids.

Every file here is looked through for values of type `Method`: a new method is one new file.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module

from edgevit.calibration.naming import method_names
from edgevit.calibration.run import Method
from edgevit.errors import UsageError
from edgevit.recipe import DEFAULT_METHOD


def _stated_methods() -> Iterator[Method]:
    """Yield the methods at the top of every file of this folder; some stand in several."""
    for file in pkgutil.iter_modules(__path__):
        values = vars(import_module(f"{__name__}.{file.name}")).values()
        yield from (value for value in values if isinstance(value, Method))


def _find() -> dict[str, Method]:
    """Return name -> method in the order of tables.

    Raises:
        ValueError: Two methods have one name, or a name can't be read from a file's text.
    """
    methods = {id(method): method for method in _stated_methods()}.values()
    names = sorted(method.name for method in methods)
    said = list(method_names()) or names  # nothing, where only compiled files are installed
    if names != said or len(set(names)) < len(names):
        raise ValueError(f"methods {names}, where the files say {said}")
    in_order = sorted(methods, key=lambda one: (one.name != DEFAULT_METHOD, one.order, one.name))
    return {method.name: method for method in in_order}


METHODS = _find()


def method_named(name: str) -> Method:
    """Return the method of this name.

    Raises:
        UsageError: There is none (EV202).
    """
    if name in METHODS:
        return METHODS[name]
    near = get_close_matches(name, METHODS, n=1)
    raise UsageError(
        "EV202",
        f"There is no calibration method {name!r}.",
        where="--method",
        why="Known methods: " + ", ".join(METHODS),
        try_next=f"--method {near[0] if near else DEFAULT_METHOD}",
    )
