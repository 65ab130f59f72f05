"""The tasks: every module in this folder that has a `TASK` is one (`base.Task`).

A task whose module is not here, and "classify", have no rows of their own: the errors of the
outputs are measured for every task (`edgevit.runner.measure.outputs`).
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgevit.runner.measure.tasks.base import Task


def all_tasks() -> dict[str, Task]:
    """Return name -> task, in alphabetical order of their files.

    Raises:
        ValueError: Two tasks have one name.
    """
    found: dict[str, Task] = {}
    for file in pkgutil.iter_modules(__path__):
        task = getattr(import_module(f"{__name__}.{file.name}"), "TASK", None)
        if task is not None and found.setdefault(task.name, task) is not task:
            raise ValueError(f"two tasks are named {task.name!r}")
    return found
