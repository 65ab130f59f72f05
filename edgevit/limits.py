"""What `validate` is asked for, refused before anything is measured when it can't be meant."""

from __future__ import annotations

import math

from edgevit.errors import UsageError


def check_limits(*, max_drop: float | None, max_latency_ms: float | None) -> None:
    """Refuse limits that can't be compared with, before anything is measured.

    Raises:
        UsageError: A limit is not a finite number, or no engine can keep it (EV218).
    """
    for name, limit in (("--max-drop", max_drop), ("--max-latency-ms", max_latency_ms)):
        if limit is not None and not math.isfinite(limit):
            raise _no_limit(name, limit, "A limit is a finite number.")
    if max_drop is not None and max_drop < 0:
        raise _no_limit("--max-drop", max_drop, "It allows a loss in points, so it is 0 or more.")
    if max_latency_ms is not None and max_latency_ms <= 0:
        raise _no_limit("--max-latency-ms", max_latency_ms, "Every engine takes longer than that.")


def check_runs(*, threads: int | None, batch: int, rounds: int) -> None:
    """Refuse numbers of threads, images and rounds with which nothing can be run.

    Raises:
        UsageError: Threads (EV707) or batch (EV207) below one, rounds (EV708) below two.
    """
    if threads is not None and threads < 1:
        raise _too_few("EV707", f"{threads} threads can't run anything.", "--threads", 1)
    if batch < 1:
        raise _too_few("EV207", f"A batch of {batch} images can't be run.", "--batch", 1)
    if rounds < 2:
        raise _too_few("EV708", f"{rounds} rounds can't be measured.", "--rounds", 2)


def _no_limit(name: str, limit: float, why: str) -> UsageError:
    example = f"{name} 1" if name == "--max-drop" else f"{name} 10"
    return UsageError("EV218", f"{limit:g} is not a limit.", where=name, why=why, try_next=example)


def _too_few(code: str, what: str, where: str, least: int) -> UsageError:
    return UsageError(
        code,
        what,
        where=where,
        why=f"It has to be a whole number of at least {least}.",
        try_next=f"{where} {least} or more, or leave it out.",
    )
