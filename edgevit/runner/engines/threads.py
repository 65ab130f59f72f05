"""Bounds the threads an engine is asked for; the engines trust the number and crash on others."""

from __future__ import annotations

import os

from edgevit.errors import UsageError

_ALWAYS_ALLOWED = 64
_PER_CORE = 4


def most_threads() -> int:
    """Return the largest number of threads that is taken: four per core, and always 64.

    ONNX Runtime starts as many as it is told and ends without a word when the system gives no more.
    """
    return max(_ALWAYS_ALLOWED, _PER_CORE * (os.cpu_count() or 1))


def check_threads(threads: int | None, where: str = "threads") -> None:
    """Refuse numbers of threads with which nothing can be run.

    Raises:
        UsageError: It is below one (EV707), or above `most_threads` (EV227).
    """
    if threads is None:
        return
    if threads < 1:
        raise UsageError(
            "EV707",
            f"{threads} threads can't run anything.",
            where=where,
            why="It has to be a whole number of at least 1.",
            try_next=f"{where} 1 or more, or leave it out.",
        )
    if threads > most_threads():
        raise UsageError(
            "EV227",
            f"{threads} threads are more than this machine can use.",
            where=where,
            why=f"It has {os.cpu_count()} cores; {most_threads()} threads are the most taken.",
            try_next=f"{where} {os.cpu_count()}, or leave it out.",
        )
