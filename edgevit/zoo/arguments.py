"""Hands arguments to a model's constructor, and says so where it does not take them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edgevit.errors import UsageError


def refuse_arguments(arguments: Mapping[str, Any], reserved: Collection[str]) -> None:
    """Refuse arguments that would say where files lie instead of how the model is built.

    Raises:
        UsageError: There is one (EV167).
    """
    for name in arguments:
        if name in reserved:
            raise not_taken(arguments, "a model", f"{name} is no argument of a model.")


@contextmanager
def blame_arguments(arguments: Mapping[str, Any], name: str) -> Iterator[None]:
    """Turn a failure of a constructor that was given arguments into an error of ours.

    Raises:
        UsageError: The model can't be built with the arguments (EV167).
    """
    try:
        yield
    except (TypeError, ValueError, AssertionError, KeyError, AttributeError, RuntimeError) as error:
        if not arguments:
            raise
        said = (str(error).strip() or repr(error)).splitlines()[0][:300]
        raise not_taken(arguments, name, f"{type(error).__name__}: {said}") from error


def not_taken(arguments: Mapping[str, Any], name: str, why: str) -> UsageError:
    """Return the error for arguments that a model does not take (EV167)."""
    shown = [f"{key}={value!r}" for key, value in arguments.items() if key != "pretrained"]
    return UsageError(
        "EV167",
        "The model can't be built with these arguments.",
        where=f"{name}: --model-arg {', '.join(shown)}",
        why=why,
        try_next="Give arguments that the model's constructor takes, such as img_size=288 (timm).",
    )
