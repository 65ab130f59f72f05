"""Models of the user's own: ``package.module:function`` returns a module."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from edgevit.errors import UsageError
from edgevit.zoo.listing import unknown_model
from edgevit.zoo.loaded import LoadedModel, loaded_from_module, preprocessing_of
from edgevit.zoo.weights import load_weights


def load(name: str, pretrained: bool, weights: Path | None) -> LoadedModel:
    """Call the function and describe what it returns.

    A parameter called ``pretrained`` is passed if the function has one. ``edgevit_preprocessing``
    and ``edgevit_classes`` may be attributes of the function or of the model.

    Raises:
        UsageError: There is no such function (EV151), it returns no module (EV156), or nothing
            says the preprocessing (EV157).
    """
    function = _function(name)
    takes = "pretrained" in _parameters(function)
    model = function(pretrained=pretrained) if takes else function()
    if not isinstance(model, nn.Module):
        raise UsageError(
            "EV156",
            "The function does not return a torch.nn.Module.",
            where=name,
            why=f"It returned {type(model).__name__}.",
        )
    if weights is not None:
        load_weights(model, weights)
    carrier = function if hasattr(function, "edgevit_preprocessing") else model
    return loaded_from_module(
        model,
        preprocessing_of(carrier, name),
        name=name,
        source=f"python:{name}",
        classes=getattr(function, "edgevit_classes", None),
        pretrained=pretrained,
    )


def _function(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise unknown_model(name)
    try:
        with _working_directory_importable():
            module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # something that the user's own module imports is missing
        raise UsageError(
            "EV151",
            f"There is no Python module {error.name!r}.",
            where=name,
            try_next="Write package.module:function; the module is looked for on Python's path "
            "and in the working directory.",
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UsageError("EV151", f"{module_name} has no function {attribute!r}.", where=name)
    return function  # type: ignore[no-any-return]


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except ValueError:  # builtins have no signature
        return ()


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Let modules of the working directory be found last, inside the block."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.reverse()
        sys.path.remove(here)
        sys.path.reverse()
