"""Targets by name: the ``TARGETS`` of every target file or folder beside this file."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from edgevit.errors import UsageError
from edgevit.recipe import DEFAULT_TARGET
from edgevit.targets.base import Target
from edgevit.targets.naming import target_modules, target_names


def _find() -> dict[str, Target]:
    """Return name -> target in the order of `target_names`.

    Raises:
        ValueError: A file's ``NAMES`` are not the names of its ``TARGETS``, or a name stands twice.
    """
    found: dict[str, Target] = {}
    for module, names in target_modules():
        made = {target.name: target for target in import_module(module).TARGETS}
        if set(made) != set(names) or set(made) & set(found):
            raise ValueError(f"{module}: TARGETS {sorted(made)}, but NAMES {sorted(names)}")
        found |= made
    return {name: found[name] for name in target_names()}


TARGETS = _find()


def target_named(name: str) -> Target:
    """Return the target of this name, in small or capital letters.

    Raises:
        UsageError: There is none (EV203).
    """
    known = name.lower()
    if known in TARGETS:
        return TARGETS[known]
    near = get_close_matches(known, TARGETS, n=1)
    raise UsageError(
        "EV203",
        f"There is no target {name!r}.",
        where="--target",
        why="Known targets: " + ", ".join(TARGETS),
        try_next=f"--target {near[0] if near else DEFAULT_TARGET}",
    )
