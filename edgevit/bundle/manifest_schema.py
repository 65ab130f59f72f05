"""Checks a manifest's values wherever anything reads them; a wrong one is a damaged bundle.

A manifest comes from outside. Its nesting, its numbers and its texts are bounded before any of it
is used; keys that nobody reads may hold anything within these bounds.
"""

from __future__ import annotations

import json
import math
from typing import Any, Callable, NoReturn

from edgevit.errors import BundleError

MANIFEST = "manifest.json"
MAX_NUMBER_CHARACTERS = 40
_MAX_DEPTH, _MAX_TEXT, _MAX_VALUES = 16, 4096, 1 << 20
_MAX_ROWS, _MAX_WARNINGS, _MAX_ROW_TEXT = 4096, 256, 512
_MAX_SIDE, _MAX_CLASSES, _MAX_COUNT = 1 << 14, 1 << 20, 1 << 53
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
Check = Callable[[Any], bool]


def bad_manifest(why: str, detail: str = "") -> BundleError:
    """Return the error for a manifest that can't be used."""
    return BundleError(
        "EV402",
        "The bundle's manifest is damaged.",
        where=MANIFEST,
        why=f"{why}: {detail}" if detail else why,
        try_next="Copy the bundle again or write it again; don't edit manifest.json.",
    )


def plain_from_json(text: bytes) -> Any:
    """Return the content of JSON that names no key twice and has numbers of few digits.

    Raises:
        ValueError, RecursionError: It is none.
    """
    return json.loads(
        text.decode(),
        object_pairs_hook=_without_duplicates,
        parse_constant=_refuse_constant,
        parse_int=lambda number: int(_short(number)),  # thousands of digits would take hours
        parse_float=lambda number: float(_short(number)),
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _short(text: str) -> str:
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise ValueError("a number of too many digits")
    return text


def check_plain(content: Any, error: Callable[[str], BundleError] = bad_manifest) -> None:
    """Refuse what is nested too deep, is too much, or has texts that can't be shown.

    Args:
        content: Of a JSON file.
        error: Makes the error of a reason; that of a damaged manifest if left out.

    Raises:
        BundleError: What `error` makes.
    """
    level, values = [content], 0
    for _ in range(_MAX_DEPTH):
        values += len(level)
        if values > _MAX_VALUES:
            raise error(f"it has more than {_MAX_VALUES} values")
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value, error)
            elif isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return
        level = below
    raise error(f"it is nested more than {_MAX_DEPTH} levels deep")


def _check_text(text: str, error: Callable[[str], BundleError]) -> None:
    if len(text) > _MAX_TEXT:
        raise error(f"a text has more than {_MAX_TEXT} characters")
    try:
        text.encode()
    except UnicodeEncodeError as fault:  # half of a pair of surrogates
        raise error("a text is not Unicode") from fault


def check_values(manifest: dict[str, Any]) -> None:
    """Refuse a manifest in which something that is read has another type or range.

    Raises:
        BundleError: EV402.
    """
    for key, check in _TOP.items():
        if not check(manifest.get(key)):
            raise bad_manifest(f"{key!r} is missing or has the wrong type")
    for table, checks in _TABLES.items():
        for key, check in checks.items():
            if not check(manifest[table].get(key)):
                raise bad_manifest(f"{table}.{key} is missing or has the wrong type")
    check_layers(manifest["layers"], "layers")
    warnings = manifest["warnings"]
    if len(warnings) > _MAX_WARNINGS or not all(isinstance(row, str) for row in warnings):
        raise bad_manifest("warnings is not a short list of texts")
    _check_names(manifest["model"])
    if manifest["preprocessing"].get("input_size") != manifest["model"]["input_size"]:
        raise bad_manifest("preprocessing.input_size is not that of the model")
    values = manifest["preprocessing"]
    if not len(values["mean"]) == len(values["std"]) == values["input_size"][0]:
        raise bad_manifest("preprocessing.mean and std are not one number for each channel")
    if set(values) - set(_CHOICES) != set(_PREPROCESSING):
        raise bad_manifest(f"preprocessing has other keys than {', '.join(_PREPROCESSING)}")
    if any(values.get(key, one) not in (one, other) for key, (one, other) in _CHOICES.items()):
        raise bad_manifest("preprocessing.channel_order or crop_rounding has no such value")


def check_layers(layers: Any, where: str) -> None:
    """Refuse rows of layers that are not tables of a name and plain values.

    Raises:
        BundleError: EV402.
    """
    if not isinstance(layers, list) or len(layers) > _MAX_ROWS:
        raise bad_manifest(f"{where} is not a list of at most {_MAX_ROWS}")
    for row in layers:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise bad_manifest(f"{where} has a row that is no table with a name")
        if any(isinstance(value, (dict, list)) for value in row.values()):
            raise bad_manifest(f"{where} has a value that is no text or number")
        if not _is_or_none(_is_whole(0, _MAX_COUNT))(row.get("multiply_adds")):
            raise bad_manifest(f"{where} has multiply_adds that are no whole number")
        if any(isinstance(value, str) and len(value) > _MAX_ROW_TEXT for value in row.values()):
            raise bad_manifest(f"{where} has a text of more than {_MAX_ROW_TEXT} characters")


def _check_names(model: dict[str, Any]) -> None:
    names = model.get("classes")
    if names is None:
        return
    count = max(model["num_classes"] or 0, 2)  # a single logit tells two classes apart
    if not isinstance(names, list) or len(names) != count:
        _refuse_names(f"is not a list of {count} names")
    if not all(isinstance(name, str) for name in names):
        _refuse_names("has a name that is no text")


def _refuse_names(why: str) -> NoReturn:
    raise bad_manifest(f"model.classes {why}")


def _is_whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _is_real(low: float, high: float) -> Check:
    """Return whether a number lies in a range, the lower end of which is left out."""
    return lambda value: (
        type(value) in (int, float) and math.isfinite(value) and low < value <= high
    )


def _is_list(count: int, each: Check) -> Check:
    return lambda value: isinstance(value, list) and len(value) == count and all(map(each, value))


def _is_per_channel(each: Check) -> Check:
    return lambda value: _is_list(3, each)(value) or _is_list(1, each)(value)


def _is_or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is(kind: type) -> Check:
    return lambda value: isinstance(value, kind)


def _is_size(value: Any) -> bool:
    side = _is_whole(1, _MAX_SIDE)
    return _is_list(3, side)(value) and value[0] in (1, 3)


def _is_resize(value: Any) -> bool:
    side = _is_whole(1, 1 << 20)
    return side(value) or _is_list(2, side)(value)


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, (dict, list))


_width = _is_real(0.99, 32)
_TOP: dict[str, Check] = {
    "edgevit_version": _is(str),
    "created": _is(str),
    "model": _is(dict),
    "recipe": _is(dict),
    "preprocessing": _is(dict),
    "calibration": _is(dict),
    "versions": _is(dict),
    "layers": _is(list),
    "tensors": _is(list),
    "reference_tensors": _is(list),
    "files": _is(dict),
    "bits": _is(dict),
    "warnings": _is(list),
}
_PREPROCESSING: dict[str, Check] = {
    "input_size": _is_size,
    "resize_size": _is_resize,
    "interpolation": lambda value: isinstance(value, str) and value in _INTERPOLATIONS,
    "crop_pct": _is_real(0, 16),
    "mean": _is_per_channel(_is_real(-1e6, 1e6)),
    "std": _is_per_channel(_is_real(0, 1e6)),
}
_CHOICES = {"channel_order": ("RGB", "BGR"), "crop_rounding": ("half_even", "down")}
_TABLES: dict[str, dict[str, Check]] = {
    "model": {
        "name": _is(str),
        "input_size": _is_size,
        "num_classes": _is_or_none(_is_whole(1, _MAX_CLASSES)),  # see bundle/outputs.py
        "parameters": _is_or_none(_is_whole(0, _MAX_COUNT)),
        "flops": _is_or_none(_is_whole(0, _MAX_COUNT)),
        "class_order": lambda value: value in (None, "torchvision", "timm"),
        "classes_from": _is_or_none(_is(str)),
    },
    "preprocessing": _PREPROCESSING,
    "calibration": {"num_images": _is_scalar, "method": _is_scalar},
    "bits": {
        "weights": _is_scalar,
        "activations": _is_scalar,
        "weight_mean": _width,
        "act_mean": _width,
        "weight_mean_quantized": _is_or_none(_width),
    },
}
