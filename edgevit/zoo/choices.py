"""The caller's choices for a model beside its name: weights, arguments, preprocessing."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgevit.errors import UsageError

Argument = int | float | bool | str | tuple[int | float, ...]
PREPROCESSING_KEYS = ("input_size", "mean", "std", "crop_pct", "interpolation")
_LARGEST = 1 << 16


@dataclass(frozen=True, kw_only=True)
class LoadingChoices:
    """The caller's choices for a model beside its name.

    Args:
        pretrained: Published weights, if `weights` is None; False draws random ones.
        weights: Checkpoint file, None without one.
        weights_key: Which of the state dicts in that file; empty for the usual choice.
        arguments: Arguments of the model's constructor by name, plain values only.
        preprocessing: Values of `PREPROCESSING_KEYS` (or ``resize_size``) that win over the
            model's own.
        task: One of `edgevit.data.tasks.TASKS`; None where the model says it.
    """

    pretrained: bool = True
    weights: Path | None = None
    weights_key: str = ""
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = None


def model_choices(typed: Mapping[str, Any]) -> dict[str, Any]:
    """Replace what was typed as options by what the Python interface takes.

    Args:
        typed: Options by name; ``model_arg`` is a sequence of NAME=VALUE, those of
            `PREPROCESSING_KEYS` are text or None.

    Raises:
        UsageError: A text can't be read (EV166, EV172).
    """
    rest = {k: v for k, v in typed.items() if k not in {*PREPROCESSING_KEYS, "model_arg"}}
    said = {k: typed[k] for k in PREPROCESSING_KEYS if typed.get(k) is not None}
    if said:
        rest["preprocessing"] = {key: _value(key, text) for key, text in said.items()}
    if typed.get("model_arg"):
        rest["model_args"] = dict(map(_argument, typed["model_arg"]))
    return rest


def check_arguments(arguments: Mapping[str, Any]) -> dict[str, Argument]:
    """Return the arguments if their names and values are plain.

    Raises:
        UsageError: A name is no Python name, or a value is not a number, a truth value, text or
            a sequence of numbers (EV166).
    """
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    for name, value in plain.items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise _no_argument(repr(name), "A name is that of a constructor's argument.")
        if not _is_plain(value):
            raise _no_argument(f"{name}={value!r}", f"A {type(value).__name__} is no plain value.")
        numbers = value if isinstance(value, tuple) else (value,)
        if any(type(number) is int and abs(number) > _LARGEST for number in numbers):
            raise _no_argument(f"{name}={value!r}", f"No number goes beyond {_LARGEST}.")
    return plain


def _argument(text: str) -> tuple[str, Argument]:
    name, equals, value = text.partition("=")
    if not equals:
        raise _no_argument(text, "There is no '=' in it.")
    try:
        read = ast.literal_eval(value)  # literals only; it runs nothing
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        read = value
    name = name.strip()
    return name, check_arguments({name: read})[name]


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(type(item) in (int, float) for item in value)
    return type(value) in (int, float, bool, str)


def _no_argument(where: str, why: str) -> UsageError:
    return UsageError(
        "EV166",
        "This is no argument of a model.",
        where=f"--model-arg {where}",
        why=why,
        try_next="--model-arg NAME=VALUE with a number, True, False, text, or numbers in "
        "brackets: --model-arg img_size=288 --model-arg 'window_size=(7, 7)'.",
    )


def _value(key: str, text: str) -> Any:
    """Read one preprocessing option."""
    try:
        if key == "interpolation":
            return str(text)
        if key == "crop_pct":
            return float(text)
        if key == "input_size":
            return _input_size([int(part) for part in text.replace("x", ",").split(",")])
        return tuple(float(part) for part in text.split(","))
    except (ValueError, TypeError) as error:
        raise wrong_option(key, f"{text!r} can't be read.") from error


def _input_size(sides: list[int]) -> tuple[int, ...]:
    """Return (C, H, W), or (H, W) where the model says the channels."""
    return (sides[0], sides[0]) if len(sides) == 1 else tuple(sides)


_FORMS = {
    "input_size": "--input-size 288, 192x256 or 3x288x288 (height before width)",
    "mean": "--mean 0.485,0.456,0.406 (one number for all channels, or one per channel)",
    "std": "--std 0.229,0.224,0.225 (above 0; one number, or one per channel)",
    "crop_pct": "--crop-pct 0.9 (above 0)",
    "interpolation": "--interpolation bicubic (or bilinear, nearest, lanczos)",
}


def wrong_option(key: str, why: str) -> UsageError:
    """Return the error for a preprocessing option that can't be right (EV172)."""
    return UsageError(
        "EV172",
        "The preprocessing can't be so.",
        where=f"--{key.replace('_', '-')}",
        why=why,
        try_next=_FORMS.get(key, ""),
    )
