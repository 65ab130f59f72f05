"""The tables of methods and targets in the docs, written from what these say of themselves.

``python tests/doc_tables.py`` writes them into the docs, between the comment that names a table and
the next empty line; a test holds them equal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import families_table
import real_table

from edgevit.calibration.methods import METHODS
from edgevit.runner.engines.tensorrt.fallback_reasons import PATTERNS
from edgevit.targets.listing import list_targets
from edgevit.targets.tensorrt.profiles import PROFILES

DOCS = Path(__file__).resolve().parents[1] / "docs"


def methods() -> str:
    """Return the table of calibration methods."""
    head = ("method", "what it is", "needs", "images", "cost", "source")
    rows = (
        (f"`{one.name}`", one.summary, one.needs, one.num_images, one.cost, one.source)
        for one in METHODS.values()
    )
    return _table(head, rows)


def targets() -> str:
    """Return the table of targets."""
    head = ("target", "what it is", "engine", "bits", "grids", "what has run")
    rows = (
        (
            f"`{one['name']}`",
            one["description"],
            one["engine"],
            f"{min(one['widths'])}-{max(one['widths'])}",
            ", ".join(one["grids"]),
            one["seen_to_run"],
        )
        for one in list_targets()
    )
    return _table(head, rows)


def devices() -> str:
    """Return the table of TensorRT devices."""
    head = ("target", "compute capability", "its GPU computes in", "TensorRT", "JetPack", "memory")
    rows = (
        (
            f"`{one.name}`",
            one.compute_capability,
            ", ".join(one.precisions),
            "for RTX, 1.7" if one.engine == "tensorrt_rtx" else " to ".join(one.tensorrt),
            ", ".join(one.jetpack),
            ", ".join(map(str, one.memory_gb)) + " GB" * bool(one.memory_gb),
        )
        for one in PROFILES.values()
    )
    return _table(head, rows)


def fallbacks() -> str:
    """Return the table of known reasons for which a product gets no 8-bit kernel."""
    rows = (
        (one.name, one.why.format(asked="int8", chosen="fp16"), one.mend)
        for one in PATTERNS
        if one.mend
    )
    return _table(("reason", "what is told", "what to do"), rows)


def families() -> str:
    """Return the table of families of models, from the rows of the coverage run."""
    return _table(families_table.HEAD, families_table.table())


def real() -> str:
    """Return the table of methods on a real DeiT-Tiny."""
    return _table(real_table.HEAD, real_table.table())


TABLES = {
    "accuracy.md": real,
    "methods.md": methods,
    "command-line.md": targets,
    "tensorrt.md": devices,
    "compiled.md": fallbacks,
    "families.md": families,
}
"""Page -> the table that is written into it."""


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def written(page: str, text: str) -> str:
    """Return the text of a page with its table in it."""
    table = TABLES[page]
    comment = f"<!-- {table.__name__}: written by tests/doc_tables.py -->\n"
    found, count = re.subn(f"{comment}(\\|.*\n)*", lambda _: comment + table(), text)
    if count != 1:
        raise ValueError(f"{page} has the line {comment!r} {count} times")
    return found


def main() -> None:
    """Write all tables, and the packaged list of models that were seen to work."""
    families_table.PROVEN.write_text(families_table.proven(), encoding="utf-8")
    for page in TABLES:
        path = DOCS / page
        path.write_text(written(page, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
