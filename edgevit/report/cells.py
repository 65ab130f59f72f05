"""The table and the text of which everything shown on a terminal is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgevit.report.escaping import escape

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def new_table(title: str, *headings: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table; `numbers` are the headings of columns aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=plain_text(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in headings:
        justify: Any = "right" if heading in numbers else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    return table


def plain_text(content: str, style: str = "", keep: str = "") -> Text:
    """Return text that is never read as markup, and never broken by what comes from outside.

    Args:
        keep: Control characters of our own, a newline, that are no foreign ones.
    """
    from rich.text import Text

    return Text(escape(content, keep), style=style)
