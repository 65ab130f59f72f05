"""The one way of text to the terminal: control characters are shown as escapes, never obeyed.

Class, file, layer and node names, a board's words and the command line itself come from outside.
Whoever prints can't forget it, because the console itself does it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from edgevit.report.escaping import escape


class PlainConsole(Console):
    """A console that reads no markup and sends no control character but its own.

    Args:
        options: As in `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text; `Text` would drop some control characters without a word."""
        return super().render_str(escape(text, keep="\n"), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of something to print, foreign control characters as escapes."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(escape(text, keep="\n"), style)
