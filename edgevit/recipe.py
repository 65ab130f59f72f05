"""The recipe of a bundle: the user's wishes as one frozen value that reads and writes TOML.

The resolved recipe is saved in the bundle, so that the same artefact can be made again. Weights and
images are not in it: it knows them by hash, so that others are noticed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from edgevit.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_METHOD, DEFAULT_TARGET = "edgevit", "cpu"
_MOST_CHARACTERS = 16 << 20
_TABLES = ("model_args", "preprocessing")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All choices of one quantization run.

    Args:
        model: Name as given to `edgevit.zoo.load_model`.
        weight_bits, act_bits: Grid widths, 2 to 8.
        method: Calibration method, see `edgevit.calibration.methods`.
        target: Device the bundle is for.
        num_calib: Number of calibration images.
        seed: Seed of everything drawn at random.
        float_layers: Modules or blocks ("blocks.2", shell patterns) that stay in float.
        layer_bits: Module path -> (weight bits, activation bits) of layers with widths of their
            own; see `edgevit.targets.widths`.
        pretrained: False for random weights.
        model_args: Constructor's arguments that differ from what the name means.
        preprocessing: Values by name where they are not the model's own.
        task: What the model is for, where it is asked for or is no classifier's.
        classes: Class names in label order, where the user stated them.
        class_order: How class folders were numbered in training, where the user stated it.
        weights: Name of the checkpoint file, without its folder; empty without one.
        weights_key: Which state dict of the checkpoint file; empty for the usual one.
        weights_sha256: Of the model's state dict, see `edgevit.zoo.LoadedModel`.
        images_sha256: Of the calibration images in order, see `digest_of`.
    """

    model: str
    weight_bits: int
    act_bits: int
    method: str = DEFAULT_METHOD
    target: str = DEFAULT_TARGET
    num_calib: int = 32
    seed: int = 0
    float_layers: tuple[str, ...] = ()
    layer_bits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    pretrained: bool = True
    model_args: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""
    classes: tuple[str, ...] = ()
    class_order: str = ""
    weights: str = ""
    weights_key: str = ""
    weights_sha256: str = ""
    images_sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        pairs = {name: list(pair) for name, pair in self.layer_bits.items()}
        tables = {name: _list_text(getattr(self, name)) for name in _TABLES}
        values = {**asdict(self), "float_layers": list(self.float_layers), "layer_bits": pairs}
        values["classes"] = list(self.classes)
        if not self.task:
            del values["task"]  # a classifier's goes without saying
        return {**values, **tables}

    def to_toml(self) -> str:
        """Return the recipe as a TOML document."""
        values = self.to_dict()
        layer_bits = values.pop("layer_bits")
        tables = {name: values.pop(name) for name in _TABLES}
        if not values["classes"]:
            del values["classes"]
        lines = [f"{key} = {_toml_value(value)}" for key, value in values.items() if value != ""]
        if layer_bits:
            lines += ["", "[layer_bits]  # weights, activations"]
            lines += [f"{_toml_value(k)} = {_toml_value(v)}" for k, v in layer_bits.items()]
        for name, table in tables.items():
            lines += ["", f"[{name}]"] if table else []
            lines += [f"{_toml_value(k)} = {_toml_value(v)}" for k, v in table.items()]
        return "\n".join(lines) + "\n"

    @staticmethod
    def from_toml(path: Path) -> Recipe:
        """Read a complete recipe.

        Raises:
            UsageError: The file is no TOML, or has unknown or missing keys (EV210).
        """
        values = read_recipe(path)
        try:
            return Recipe(**values)
        except TypeError as error:
            raise _unreadable(path, error) from error


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the keys that a recipe file has, with the types `Recipe` declares; any may be missing.

    Raises:
        UsageError: The file can't be read or is no TOML, a key is unknown, or a value has a wrong
            type (EV210).
    """
    try:
        return _check(tomllib.loads(_text(path)))
    except (OSError, ValueError, TypeError, RecursionError) as error:  # no TOML is a ValueError
        raise _unreadable(path, error) from error


def _text(path: Path) -> str:
    """Return the text of a file, or raise OSError: no pipe is waited for, no device read on."""
    waits_not = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(waits_not, encoding="utf-8") as file:
        if not stat.S_ISREG(os.fstat(waits_not).st_mode):
            raise OSError("It is a folder, a device, a pipe or a socket.")
        return file.read(_MOST_CHARACTERS)


def digest_of(sha256s: Iterable[str]) -> str:
    """Return the SHA-256 of hexadecimal digests, one per line and in order."""
    return hashlib.sha256("\n".join(sha256s).encode()).hexdigest()


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(
        "EV210",
        "The recipe can't be read.",
        where=str(path),
        why=str(error),
        try_next=f"A recipe is TOML with these keys: {', '.join(f.name for f in fields(Recipe))}.",
    )


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        escaped = "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped)
        return f'"{escaped}"'
    return str(value)


def _check(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the types `Recipe` declares, or raise TypeError."""
    types = {known.name: str(known.type) for known in fields(Recipe)}
    for name, value in values.items():
        if name not in types:
            raise TypeError(f"there is no key {name!r}")
        wanted = {"int": int, "str": str, "bool": bool}.get(types[name])
        if wanted and type(value) is not wanted:
            raise TypeError(f"{name} must be {types[name]}, not {type(value).__name__}")
    read: dict[str, Callable[[Any], Any]] = {"layer_bits": _pairs}
    read |= dict.fromkeys(("float_layers", "classes"), _names)
    read |= dict.fromkeys(_TABLES, _plain_table)
    return {name: read[name](value) if name in read else value for name, value in values.items()}


def _list_text(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in table.items()}


def _plain_table(table: Any) -> dict[str, Any]:
    """Return a table of plain values and lists of numbers, or raise TypeError."""
    if not isinstance(table, dict):
        raise TypeError("model_args and preprocessing must be tables")
    for name, value in table.items():
        items = value if isinstance(value, list) else [value]
        kinds = (int, float) if isinstance(value, list) else (int, float, bool, str)
        if not items or any(type(item) not in kinds for item in items):
            raise TypeError(f"{name} must be a number, text, true, false or a list of numbers")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in table.items()}


def _names(layers: Any) -> tuple[str, ...]:
    """Return float_layers, or raise TypeError."""
    if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
        raise TypeError("float_layers must be a list of names")
    return tuple(layers)


def _pairs(layer_bits: Any) -> dict[str, tuple[int, int]]:
    """Return layer_bits with pairs of whole numbers, or raise TypeError."""
    if not isinstance(layer_bits, dict):
        raise TypeError("layer_bits must be a table of layers")
    for name, pair in layer_bits.items():
        if isinstance(pair, dict):  # what TOML makes of a bare name with dots
            raise TypeError(f"layer_bits of {name}: a name with dots needs quotation marks")
        if not isinstance(pair, list) or [type(bits) for bits in pair] != [int, int]:
            raise TypeError(f"layer_bits of {name} must be [weight bits, activation bits]")
    return {name: (pair[0], pair[1]) for name, pair in layer_bits.items()}
