"""Models of the user's own: ``package.module:function`` returns a module."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from edgevit.errors import UsageError
from edgevit.zoo.arguments import not_taken
from edgevit.zoo.choices import LoadingChoices
from edgevit.zoo.fitting import fit_model
from edgevit.zoo.listing import unknown_model
from edgevit.zoo.loaded import LoadedModel, loaded_from_module, plain_module


def load(name: str, choices: LoadingChoices) -> LoadedModel:
    """Call the function and describe what it returns.

    A parameter called ``pretrained`` is passed if the function has one, and so are the arguments
    of `choices`. ``edgevit_preprocessing`` and ``edgevit_classes`` may be attributes of the
    function or of the model.

    Raises:
        UsageError: There is no such module (EV179) or function (EV180), it fails (EV170), it
            returns no module (EV156), or nothing says the preprocessing (EV157).
    """
    function = _function(name)
    takes = "pretrained" in _parameters(function)
    given = {**({"pretrained": choices.pretrained} if takes else {}), **choices.arguments}
    _check_takes(function, given, name)
    with _users_code(name):
        model = function(**given)
    if not isinstance(model, nn.Module):
        raise UsageError(
            "EV156",
            "The function does not return a torch.nn.Module.",
            where=name,
            why=f"It returned {type(model).__name__}.",
            try_next="Return the model from it.",
        )
    model, notes = plain_module(model)
    if choices.weights is not None:
        built = model
        fitted = fit_model(lambda _: built, choices)
        model, notes = fitted.model, (*notes, *fitted.notes)
    loaded = loaded_from_module(
        model,
        name=name,
        source=f"python:{name}",
        classes=getattr(function, "edgevit_classes", None),
        choices=choices,
        carrier=function if hasattr(function, "edgevit_preprocessing") else model,
        notes=tuple(notes),
    )
    return replace(loaded, arguments=dict(choices.arguments))


def _check_takes(function: Callable[..., Any], given: dict[str, Any], name: str) -> None:
    """Refuse a function that wants arguments which are not given, or does not want those given."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # builtins have no signature
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        raise not_taken(given, name, f"{name.partition(':')[2]}{signature}: {error}.") from error


@contextmanager
def _users_code(name: str) -> Iterator[None]:
    """Let the user's code run: what it prints goes to standard error, what it raises is shown.

    Raises:
        UsageError: It raises an exception or ends the program (EV170).
    """
    try:
        with redirect_stdout(sys.stderr):  # standard output may be read by a program
            yield
    except (Exception, SystemExit, GeneratorExit) as error:
        raise _failure(name, error) from error


def _failure(name: str, error: BaseException) -> UsageError:
    said = " ".join(str(error).split())[:300]
    what = "ended the program" if isinstance(error, SystemExit) else "failed"
    return UsageError(
        "EV170",
        f"The model's own code {what}.",
        where=f"{name}{_line_of(error)}",
        why=f"{type(error).__name__}: {said}" if said else type(error).__name__,
        try_next="Mend it there; `python -c 'import MODULE; MODULE.FUNCTION()'` shows it alone.",
    )


def _line_of(error: BaseException) -> str:
    """Return the innermost line that is neither of EdgeViT nor of an installed package."""
    if isinstance(error, SyntaxError) and error.filename:
        return f", {error.filename}, line {error.lineno}"
    mine = str(Path(__file__).parent.parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((mine, "<"))
        and "site-packages" not in frame.filename
        and f"{os.sep}importlib{os.sep}" not in frame.filename
    ]
    return f", {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def _function(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise unknown_model(name)
    try:
        with _import_from_working_directory(), _users_code(name):
            module = import_module(module_name)
    except UsageError as failed:
        error = failed.__cause__
        if not isinstance(error, ModuleNotFoundError) or not _is_part(error.name, module_name):
            raise
        raise UsageError(
            "EV179",
            f"There is no Python module {error.name!r}.",
            where=name,
            try_next="Write package.module:function; the module is looked for on Python's path "
            "and in the working directory.",
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UsageError(
            "EV180",
            f"{module_name} has no function {attribute!r}.",
            where=name,
            why=f"It has no such name, or that is a {type(function).__name__}.",
            try_next="Write package.module:function; the function returns the model.",
        )
    return function  # type: ignore[no-any-return]


def _is_part(missing: str | None, module_name: str) -> bool:
    """Return whether the module asked for is missing, rather than one that it imports."""
    return missing is not None and f"{module_name}.".startswith(f"{missing}.")


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except ValueError:  # builtins have no signature
        return ()


@contextmanager
def _import_from_working_directory() -> Iterator[None]:
    """Let modules of the working directory be found last, inside the block."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.reverse()
        sys.path.remove(here)
        sys.path.reverse()
