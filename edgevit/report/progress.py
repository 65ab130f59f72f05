"""Draws long work: one line per stage with a bar and the time left; on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgevit.report.escaping import escape

if TYPE_CHECKING:
    from rich.console import Console

    from edgevit.progress import Progress


@contextmanager
def show_progress(console: Console) -> Iterator[Progress]:
    """Yield a callable (stage, done, total) that draws; silent when not on a terminal.

    Off a terminal one plain line per finished stage is printed instead of a bar.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            stage = escape(stage)  # a board's stages are its own words
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)
            if done == total and not console.is_terminal:
                console.print(f"{stage}: done")

        yield report
