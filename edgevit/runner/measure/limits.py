"""Refuses wishes of `validate` that can't be meant, before anything is measured."""

from __future__ import annotations

import math

from edgevit.errors import UsageError
from edgevit.runner.engines.threads import check_threads

MOST_IMAGES = 1024
"""Images of one run of an engine: at 224 pixels 0.6 GB before the first activation."""
MOST_ROUNDS = 100_000


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
        UsageError: Threads (EV707) or batch (EV207) below one, rounds (EV708) below two, or more
            threads (EV227), a larger batch (EV228) or more rounds (EV229) than can be meant.
    """
    check_threads(threads, "--threads")
    if batch < 1:
        raise _too_few("EV207", f"A batch of {batch} images can't be run.", "--batch", 1)
    if rounds < 2:
        raise _too_few("EV708", f"{rounds} rounds can't be measured.", "--rounds", 2)
    if batch > MOST_IMAGES:
        raise _too_many("EV228", f"A batch of {batch} images is too large.", "--batch", MOST_IMAGES)
    if rounds > MOST_ROUNDS:
        raise _too_many("EV229", f"{rounds} rounds take too long.", "--rounds", MOST_ROUNDS)


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


def _too_many(code: str, what: str, where: str, most: int) -> UsageError:
    why = f"At most {most} are taken; more tell nothing new."
    return UsageError(code, what, where=where, why=why, try_next=f"{where} {most} or fewer.")
