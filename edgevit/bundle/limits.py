"""Bounds the memory and work that a bundle may cost before it is opened at all.

The limits are on by default, so that a bundle from a stranger can't fill the memory or run for
ever; the environment raises them for a model that really is that large.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from edgevit.bundle.cost import Cost
from edgevit.errors import BundleError, UsageError

MEMORY_VARIABLE, WORK_VARIABLE = "EDGEVIT_MAX_MEMORY_MB", "EDGEVIT_MAX_GMACS"
DEFAULT_MEMORY_MB, DEFAULT_GMACS = 1000, 500
IMAGES_AT_ONCE = 16
"""Images that are run at once where nobody asks for another number."""
MAX_EXPANSION = 8  # a code of one bit becomes a byte
EXPANSION_SLACK_BYTES = 32 << 20  # for what zlib makes small: zeros, masks, indices
_MOST = 1 << 40


@dataclass(frozen=True)
class CostLimits:
    """The most memory and work that running a bundle may take.

    Args:
        memory_bytes: Of the activations of its engine and its reference together.
        multiply_adds: Work per image of one of them.
    """

    memory_bytes: int
    multiply_adds: int


def limits_from(environment: Mapping[str, str] = os.environ) -> CostLimits:
    """Return the limits: the default ones, or those of the environment.

    Raises:
        UsageError: A variable is no whole number above 0 (EV423).
    """
    memory = _number(environment, MEMORY_VARIABLE, DEFAULT_MEMORY_MB)
    gmacs = _number(environment, WORK_VARIABLE, DEFAULT_GMACS)
    return CostLimits(memory_bytes=memory * 10**6, multiply_adds=gmacs * 10**9)


def limit_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that are set, for a process elsewhere that has to keep them too."""
    names = (MEMORY_VARIABLE, WORK_VARIABLE)
    return {name: environment[name] for name in names if environment.get(name)}


def check_cost(costs: Mapping[str, Cost], reference: str, limits: CostLimits, images: int) -> None:
    """Refuse a bundle whose graphs cost more than is allowed.

    Args:
        costs: Of each graph, by file name.
        reference: The file name of the fp32 graph, which runs beside one of the others.
        limits: What is allowed.
        images: How many images are run at once.

    Raises:
        BundleError: It needs more memory (EV421) or work (EV422).
    """
    needed = {name: cost.activation_bytes.at(images) for name, cost in costs.items()}
    beside = needed.pop(reference, 0)
    largest = max(needed, key=lambda name: needed[name])
    total_bytes = needed[largest] + beside
    if total_bytes > limits.memory_bytes:
        raise _too_much(
            "EV421",
            "The bundle needs more memory than is allowed.",
            largest,
            f"Its activations take {_round(total_bytes, 10**6)} MB for {images} images at once, "
            f"and {limits.memory_bytes // 10**6} MB are allowed.",
            f"{MEMORY_VARIABLE}={_round(total_bytes, 10**6)}",
        )
    for name, cost in costs.items():
        work = cost.multiply_adds.at(1)
        if work > limits.multiply_adds:
            raise _too_much(
                "EV422",
                "The bundle needs more work than is allowed.",
                name,
                f"An image takes {_round(work, 10**9)} billion multiply-adds, and "
                f"{limits.multiply_adds // 10**9} are allowed.",
                f"{WORK_VARIABLE}={_round(work, 10**9)}",
            )


def check_expansion(decoded_bytes: int, stored_bytes: int, where: str) -> None:
    """Refuse tensors that are far larger than the files that hold them.

    Raises:
        BundleError: EV420.
    """
    allowed = MAX_EXPANSION * stored_bytes + EXPANSION_SLACK_BYTES
    if decoded_bytes > allowed:
        raise BundleError(
            "EV420",
            "A bundle's tensors are far larger than its files.",
            where=where,
            why=f"{stored_bytes} bytes would become {decoded_bytes}; at most {allowed} may be.",
            try_next="Don't use this bundle; get it again from a source you trust.",
        )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "").strip() or str(default)
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and 0 < int(text) <= _MOST):
        raise UsageError(
            "EV423",
            f"{name} is not a limit.",
            where=f"the environment variable {name}",
            why=f"{ascii(text)[:80]} is not a whole number above 0.",
            try_next=f"{name}={default}, which is the default.",
        )
    return int(text)


def _round(amount: int, unit: int) -> int:
    return -(-amount // unit)


def _too_much(code: str, what: str, where: str, why: str, setting: str) -> BundleError:
    return BundleError(
        code,
        what,
        where=where,
        why=why,
        try_next=f"If you trust this bundle, set {setting} in the environment; fewer images at "
        "once (--batch) need less memory.",
    )
