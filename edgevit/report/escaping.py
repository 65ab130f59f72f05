r"""Shows characters that a terminal obeys, or that reorder a line, as escapes: ``\u001b``.

These are Unicode's C0 and C1 controls and DEL, the marks and overrides of writing direction, line
and paragraph separators, and halves of surrogate pairs, which no encoding can write.
"""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escape(text: str, keep: str = "") -> str:
    r"""Return the text with these characters as ``\uXXXX``, which is JSON's own escape for them.

    Args:
        text: Any text; escaping it again changes nothing.
        keep: Characters that stay, such as a newline between lines of our own.
    """
    return _UNSEEN.sub(lambda found: _escape(found.group(), keep), text)


def _escape(character: str, keep: str) -> str:
    return character if character in keep else f"\\u{ord(character):04x}"
