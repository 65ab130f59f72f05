"""Says what every error code means, and writes docs/errors.md from the source.

Run it from the project's root: ``python tests/error_codes.py``. It also lists the codes that have
more than one meaning.
"""

from __future__ import annotations

import re
import sys

from error_source import CODE, ROOT, Raised, Source

PAGE = ROOT / "docs" / "errors.md"


def by_code(raised: list[Raised]) -> dict[str, list[Raised]]:
    """Return code -> the places that raise it, codes in order."""
    found: dict[str, list[Raised]] = {}
    for one in raised:
        found.setdefault(one.code, []).append(one)
    return found


def several(raised: list[Raised]) -> dict[str, list[str]]:
    """Return the codes with other than one meaning, each with its places and sentences."""
    return {
        code: [
            f"{one.file}:{one.line} {one.kind} {text}"
            for one in places
            for text in one.what or ("nothing",)
        ]
        for code, places in by_code(raised).items()
        if len(set().union(*(one.meanings for one in places))) != 1 or not CODE.fullmatch(code)
    }


HEADER = """# Error codes

Every error that EdgeViT raises on purpose has a code, which means one thing and stays the same.
The command line prints the code and the parts below, and exits with the status; in Python the error
is an `edgevit.errors.EdgeViTError` with the same parts as `code`, `what`, `where`, `why` and
`try_next`. `<words>` in angle brackets stand for what the message fills in. A row with a dash says
no more than its first sentence; alternatives are on lines of their own.

This page is written from the source by `python tests/error_codes.py`.

| Code | Exit status | What | Why | What to do |
|---|---|---|---|---|
"""


def page(source: Source) -> str:
    """Return docs/errors.md: one row a code."""
    rows = []
    for code, places in by_code(source.raised()).items():
        status = source.statuses.get(places[0].kind, "none, it is a note")
        said = "the first one's" if code == _TOGETHER else status
        what = places[0].what[0]
        why = [text for one in places for text in one.why]
        todo = [text for one in places for text in one.try_next]
        rows.append(f"| {code} | {said} | {_cell([what])} | {_cell(why)} | {_cell(todo)} |")
    return HEADER + "\n".join(rows) + "\n"


_TOGETHER = "EV187"
"""Several errors as one, of the first one's class."""


def _cell(texts: list[str]) -> str:
    return "<br>".join(map(_escaped, dict.fromkeys(texts))) or "—"


def _escaped(text: str) -> str:
    """Return a text as Markdown: placeholders as code, no cell ended and no tag begun by it."""
    parts = text.replace("|", "\\|").split("`")
    for index, part in enumerate(parts):
        code = index % 2 == 1
        marked = part if code else re.sub(r"(\*|<(?=[a-z/!]))", r"\\\1", part)
        parts[index] = re.sub("«([^»]*)»", r"<\1>" if code else r"`<\1>`", marked)
    return re.sub(r"\s+", " ", "`".join(parts)).strip()


def main() -> None:
    """Write the page, and list the codes with several meanings."""
    source = Source()
    PAGE.write_text(page(source), encoding="utf-8")
    for code, places in several(source.raised()).items():
        print(code or "no code", *places, sep="\n    ")


if __name__ == "__main__":
    sys.exit(main())
