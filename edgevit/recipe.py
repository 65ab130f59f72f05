"""What the user asked for, as one frozen value that reads and writes TOML.

The resolved recipe is saved in the bundle, so that the same artefact can be made again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from edgevit.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_METHOD = "edgevit"


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
    """

    model: str
    weight_bits: int
    act_bits: int
    method: str = DEFAULT_METHOD
    target: str = "cpu"
    num_calib: int = 32
    seed: int = 0
    float_layers: tuple[str, ...] = ()
    layer_bits: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        pairs = {name: list(pair) for name, pair in self.layer_bits.items()}
        return {**asdict(self), "float_layers": list(self.float_layers), "layer_bits": pairs}

    def to_toml(self) -> str:
        """Return the recipe as a TOML document."""
        values = self.to_dict()
        layer_bits = values.pop("layer_bits")
        lines = [f"{key} = {_toml_value(value)}" for key, value in values.items()]
        if layer_bits:
            lines += ["", "[layer_bits]  # weights, activations"]
            lines += [f"{_toml_value(k)} = {_toml_value(v)}" for k, v in layer_bits.items()]
        return "\n".join(lines) + "\n"

    @staticmethod
    def from_toml(path: Path) -> Recipe:
        """Read a recipe file.

        Raises:
            UsageError: The file is no TOML, or has unknown or missing keys (EV210).
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
            return Recipe(**_checked(values))
        except (OSError, ValueError, TypeError) as error:  # TOMLDecodeError is a ValueError
            known = ", ".join(f.name for f in fields(Recipe))
            raise UsageError(
                "EV210",
                "The recipe can't be read.",
                where=str(path),
                why=str(error),
                try_next=f"A recipe is TOML with these keys: {known}.",
            ) from error


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        escaped = "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped)
        return f'"{escaped}"'
    return str(value)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with the types `Recipe` declares, or raise TypeError."""
    layers = values.get("float_layers", [])
    if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
        raise TypeError("float_layers must be a list of names")
    for known in fields(Recipe):
        wanted = {"int": int, "str": str}.get(str(known.type))
        value = values.get(known.name)
        if wanted and value is not None and (type(value) is not wanted):
            raise TypeError(f"{known.name} must be {known.type}, not {type(value).__name__}")
    return {**values, "float_layers": tuple(layers), "layer_bits": _pairs(values)}


def _pairs(values: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return layer_bits with pairs of whole numbers, or raise TypeError."""
    layer_bits = values.get("layer_bits", {})
    if not isinstance(layer_bits, dict):
        raise TypeError("layer_bits must be a table of layers")
    for name, pair in layer_bits.items():
        if not isinstance(pair, list) or [type(bits) for bits in pair] != [int, int]:
            raise TypeError(f"layer_bits of {name} must be [weight bits, activation bits]")
    return {name: (pair[0], pair[1]) for name, pair in layer_bits.items()}
