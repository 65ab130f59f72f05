"""Turns what nobody foresaw into one sentence with a code: no traceback unless it is asked for.

What the system refuses, a package that can't be imported and memory that is not there are this
machine's; everything else is a fault of EdgeViT, and says where in its code it came up.
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from edgevit.errors import EdgeViTError, EnvironmentError_

_HOME = Path(__file__).resolve().parents[1]
_MOST_CHARACTERS = 500
_MORE = "The same command after `edgevit --debug` shows where it came up"
_OWN_WORDS = {
    errno.EMFILE: "Raise the limit of open files (ulimit -n 1024).",
    errno.ENOSPC: "Free space there, or set TMPDIR to a folder with room.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


def error_from_exception(error: Exception) -> EdgeViTError:
    """Return the error itself if it is one of EdgeViT's own, else one that stands for it.

    Returns:
        EnvironmentError_: Memory (EV246), the system (EV247) or a package (EV248: it is missing;
            EV244: it can't be imported) is to blame.
        EdgeViTError: Something is nested too deep (EV245), or nobody knows (EV249).
    """
    if isinstance(error, EdgeViTError):
        return error
    if isinstance(error, MemoryError):
        return EnvironmentError_(
            "EV246",
            "This machine's memory is not enough.",
            where=_where(error),
            why=_text_of(error) or "The system gave no more.",
            try_next="Close other programs, take fewer images or a smaller model.",
        )
    if isinstance(error, ImportError) and not (error.name or "").startswith("edgevit"):
        return _package(error)
    if isinstance(error, OSError):
        return _system(error)
    if isinstance(error, RecursionError):
        return EdgeViTError(
            "EV245",
            "A file or a model is nested deeper than EdgeViT follows it.",
            where=_where(error),
            why="A file that was read, or the model, nests its parts without end.",
            try_next=f"{_MORE}. Take another file or model.",
        )
    return EdgeViTError(
        "EV249",
        f"EdgeViT met an unexpected error: {type(error).__name__}.",
        where=_where(error),
        why=_text_of(error) or "It came without a message.",
        try_next=f"{_MORE}; please report both, with `edgevit doctor --json -`.",
    )


def _package(error: ImportError) -> EdgeViTError:
    name = (error.name or "a package").partition(".")[0]
    more = "`edgevit doctor` says what else is missing."
    if isinstance(error, ModuleNotFoundError):
        return EnvironmentError_(
            "EV248",
            f"The package {name} is not installed.",
            where=_where(error),
            why=_text_of(error),
            try_next=f"pip install {name}; {more}",
        )
    return EnvironmentError_(
        "EV244",
        f"{name} can't be imported.",
        where=_where(error),
        why=_text_of(error),
        try_next=f"pip install --force-reinstall {name}; {more}",
    )


def _system(error: OSError) -> EdgeViTError:
    return EnvironmentError_(
        "EV247",
        "The system refused a request.",
        where=str(error.filename or _where(error)),
        why=error.strerror or _text_of(error) or type(error).__name__,
        try_next=_OWN_WORDS.get(error.errno or 0, f"{_MORE}. Mend it and run it again."),
    )


def _text_of(error: BaseException) -> str:
    return str(error).strip()[:_MOST_CHARACTERS]


def _where(error: BaseException) -> str:
    """Return the last place of ours that the error passed, as ``edgevit/data/opening.py:85``."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_HOME)]
    if not own:
        return "outside EdgeViT's code"
    return f"edgevit/{Path(own[-1].filename).relative_to(_HOME).as_posix()}:{own[-1].lineno}"
