"""The tasks: every module in this folder that has a `TASK` is one (`base.Task`).

A task whose module is not here, and "classify", have no rows of their own: the errors of the
outputs are measured for every task (`edgevit.runner.measure.outputs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.runner.declared import declared

if TYPE_CHECKING:
    from edgevit.runner.measure.tasks.base import Task


def all_tasks() -> dict[str, Task]:
    """Return name -> task, in alphabetical order of their files.

    Raises:
        ValueError: Two tasks have one name.
    """
    return declared(__name__, __path__, "TASK")
