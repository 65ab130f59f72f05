"""The name of a bundle that nobody named: model, widths, target and, unless it is usual, method.

Names of models may be paths, hub names or functions; what comes out is a plain file name.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

MOST_CHARACTERS = 100
_USUAL_METHOD = "edgevit"
_FOREIGN = re.compile(r"[^A-Za-z0-9.-]+")


def bundle_name(model: str, widths: str, target: str, method: str = _USUAL_METHOD) -> str:
    """Return a name such as ``swin_b_w6a6_cpu``, of letters, digits and ``._-`` alone.

    Args:
        model: As the user gave it; of ``hf-hub:x/y``, a path or ``pkg.mod:fn`` the last part stays.
        widths: As `widths_named` gives them.
        target: Its name.
        method: Its name; the usual one is left out.
    """
    last = re.split(r"[/\\:]", model.rstrip("/\\:"))[-1]
    parts = [_plain(last)[:MOST_CHARACTERS] or "model", _plain(widths), _plain(target)]
    if method != _USUAL_METHOD:
        parts.append(_plain(method))
    return "_".join(parts)


def widths_named(
    weight_bits: int,
    act_bits: int,
    *,
    avg_bits: float | None = None,
    max_size_mb: float | None = None,
    mixed: bool = False,
) -> str:
    """Return widths for a name: ``w6a8``, ``avg5.5``, ``max20mb`` or ``mixed``."""
    if avg_bits is not None:
        return f"avg{avg_bits:g}"
    if max_size_mb is not None:
        return f"max{max_size_mb:g}mb"
    return "mixed" if mixed else f"w{weight_bits}a{act_bits}"


def free_name(folder: Path, name: str) -> str:
    """Return `name`, or with the first of ``_2``, ``_3``, ... that is not in `folder` yet."""
    number, free = 1, name
    while os.path.lexists(str(folder / free)):
        number += 1
        free = f"{name}_{number}"
    return free


def _plain(text: str) -> str:
    """Replace runs of other characters by ``_``; none stands at an end, and no ``.`` or ``-``."""
    return _FOREIGN.sub("_", text).strip("._-")
