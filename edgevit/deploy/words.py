"""A board's words as text that can be shown: bounded, control characters as escapes."""

from __future__ import annotations

import re
from typing import Any

MOST_CHARACTERS = 2000
_OBEYED = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What a terminal obeys or what turns the direction of writing, but for tabs and new lines."""


def plain(text: str | bytes, most: int = MOST_CHARACTERS) -> str:
    """Return the end of what a board said, without anything that a terminal would obey."""
    if isinstance(text, bytes):
        text = text[-4 * most :].decode("utf-8", "replace")
    last = text.strip()[-most:]
    return _OBEYED.sub(lambda found: f"\\u{ord(found.group()):04x}", last)


def all_plain(content: Any) -> Any:
    """Return what JSON can hold with every text in it made `plain`."""
    if isinstance(content, str):
        return plain(content)
    if isinstance(content, dict):
        return {plain(key): all_plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [all_plain(value) for value in content]
    return content
