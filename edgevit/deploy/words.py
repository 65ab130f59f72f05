"""A board's words as text that can be shown: bounded, control characters as escapes."""

from __future__ import annotations

from typing import Any

from edgevit.report.escaping import escape

MOST_CHARACTERS = 2000


def plain(text: str | bytes, most: int = MOST_CHARACTERS) -> str:
    """Return the end of what a board said, without anything that a terminal would obey."""
    if isinstance(text, bytes):
        text = text[-4 * most :].decode("utf-8", "replace")
    last = text.strip()[-most:]
    return escape(last, keep="\t\n")


def all_plain(content: Any) -> Any:
    """Return what JSON can hold with every text in it made `plain`."""
    if isinstance(content, str):
        return plain(content)
    if isinstance(content, dict):
        return {plain(key): all_plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [all_plain(value) for value in content]
    return content
