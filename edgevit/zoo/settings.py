"""Decides each value of a model's preprocessing, and says where it came from.

What the caller gives wins; then a file beside the checkpoint (transformers'
preprocessor_config.json, timm's config.json); then the size and channels that the model was built
with; then the model's own configuration.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.data import Preprocessing
from edgevit.data.preprocessing import DEFAULTED
from edgevit.errors import DataError, EdgeViTError, UsageError
from edgevit.zoo.choices import PREPROCESSING_KEYS, LoadingChoices, wrong_option
from edgevit.zoo.preprocessing import preprocessing_from_timm
from edgevit.zoo.processors import preprocessing_from_transformers

GIVEN = "given"
_SIZES = ("img_size", "image_size")
_CHANNELS = ("in_chans", "num_channels")
_MAX_FILE_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A preprocessing and where its values came from.

    Args:
        preprocessing: The values.
        source: In words, such as ``"mean, std: given; input_size, ...: timm:deit_..."``.
        is_own: Whether all are the model's own.
    """

    preprocessing: Preprocessing
    source: str
    is_own: bool


def choose_preprocessing(
    own: Callable[[], Preprocessing],
    source: str,
    choices: LoadingChoices,
    arguments: Mapping[str, Any],
) -> Chosen:
    """Put the values together.

    Args:
        own: Reads the model's own; called where something is left open.
        source: What that is called.
        choices: What the caller gives, and the checkpoint beside which files are looked for.
        arguments: What the model was built with; image size and channels are read.

    Raises:
        UsageError: A value can't be right (EV172), or nobody says mean and std of one channel
            (EV175).
        DataError: A file beside the checkpoint can't be read (EV173).
        UnsupportedError: The model's own can't be reproduced (EV158).
    """
    layers = [(GIVEN, _spread(choices.preprocessing)), *_beside(choices, source)]
    layers.append(("the model's arguments", _build(arguments)))
    missing = {*PREPROCESSING_KEYS} - {key for _, layer in layers for key in layer}
    layers.append((source, _from(own()) if missing or not layers[0][1] else {}))
    values, sources = _merge(layers)
    _fit_channels(values, sources)
    preprocessing = _make(values, sources)
    return Chosen(
        preprocessing=preprocessing,
        source=_in_words(sources),
        is_own=set(sources.values()) == {source},
    )


def _spread(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the caller's values with channels apart from the size."""
    known = (*PREPROCESSING_KEYS, "resize_size", *DEFAULTED)
    unknown = given.keys() - set(known)
    if unknown:
        first = sorted(map(str, unknown))[0]
        raise wrong_option(first, f"There are only {', '.join(known)}.")
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    for key in ("mean", "std"):
        if isinstance(values.get(key), int | float):
            values[key] = (values[key],)
    size = values.pop("input_size", None)
    if size is not None:
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) not in (2, 3) or not all(type(side) is int for side in sides):
            raise wrong_option("input_size", f"{size!r} is no size.")
        values["input_size"] = sides[-2:]
        if len(sides) == 3:
            values["channels"] = sides[0]
    return values


def asked_size(choices: LoadingChoices) -> tuple[int, int] | None:
    """Return the height and width that the caller gives, None without."""
    size = _spread(choices.preprocessing).get("input_size")
    return None if size is None else (int(size[0]), int(size[1]))


def _from(preprocessing: Preprocessing) -> dict[str, Any]:
    return _spread(preprocessing.to_dict())


def _build(arguments: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _SIZES:
        size = arguments.get(name)
        if size is not None:
            values["input_size"] = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    for name in _CHANNELS:
        if name in arguments:
            values["channels"] = arguments[name]
    return values


def _merge(layers: list[tuple[str, dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the value of each key from the first layer that has it, and that layer's name."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, layer in layers:
        cropped = {"input_size", "crop_pct"} & values.keys()
        for key, value in layer.items():
            if key == "resize_size" and cropped:  # it is that of another size or share
                values.setdefault("squash", isinstance(value, tuple))
            elif key not in values:
                values[key], sources[key] = value, source
    return values, sources


def _fit_channels(values: dict[str, Any], sources: dict[str, str]) -> None:
    channels = values.setdefault("channels", 3)
    if channels not in (1, 3):
        raise UsageError(
            "EV174",
            "The model does not take such images.",
            why=f"It takes {channels} channels; a picture has 3 (RGB), or 1 as a grey one.",
            try_next="Give a model with 1 or 3 input channels.",
        )
    for key in ("mean", "std"):
        value = values[key]
        if isinstance(value, tuple) and len(value) != channels and len(set(value)) == 1:
            values[key] = value[:1] * channels
        elif isinstance(value, tuple) and channels == 1 and sources[key] != GIVEN:
            raise UsageError(
                "EV175",
                "Nothing says how grey pictures are normalised.",
                where=f"--{key}",
                why=f"The model takes one channel; {sources[key]} says {key} {value} of RGB.",
                try_next="--mean 0.5 --std 0.5, or what the model was trained with.",
            )


def _make(values: dict[str, Any], sources: dict[str, str]) -> Preprocessing:
    size = (values.pop("channels"), *values.pop("input_size"))
    squash = values.pop("squash", False)
    sources.pop("channels", None)
    try:
        if "resize_size" not in values:
            return Preprocessing.from_crop_pct(input_size=size, squash=squash, **values)
        return Preprocessing.from_dict({"input_size": size, **values})
    except (DataError, TypeError, ZeroDivisionError, OverflowError) as error:
        where = getattr(error, "where", "")
        wrong = [k for k in PREPROCESSING_KEYS if f"{k}=" in where and sources.get(k) == GIVEN]
        if not wrong and isinstance(error, DataError):
            raise
        raise wrong_option(wrong[0] if wrong else "crop_pct", where or str(error)) from error


def _in_words(sources: Mapping[str, str]) -> str:
    keys = [key for key in (*PREPROCESSING_KEYS, "resize_size") if key in sources]
    if len(set(sources.values())) == 1:
        return sources[keys[0]]
    named: dict[str, list[str]] = {}
    for key in keys:
        named.setdefault(sources[key], []).append(key)
    return "; ".join(f"{', '.join(group)}: {source}" for source, group in named.items())


def _beside(choices: LoadingChoices, source: str) -> list[tuple[str, dict[str, Any]]]:
    """Return what a file beside the checkpoint says, in a list of one or none."""
    if choices.weights is None or {*PREPROCESSING_KEYS} <= choices.preprocessing.keys():
        return []
    folder = choices.weights.parent
    processor, config = folder / "preprocessor_config.json", folder / "config.json"
    if processor.is_file():
        return [
            (
                f"{processor.name} beside the weights",
                _from(_processor(processor, asked_size(choices))),
            )
        ]
    values = _read(config) if config.is_file() else {}
    stated = values.get("pretrained_cfg", values if "mean" in values and "std" in values else None)
    named = str(values.get("architecture", "")).partition(".")[0]
    if not isinstance(stated, dict) or (named and named not in source):
        return []  # transformers' own config, or of another architecture
    try:
        return [(f"{config.name} beside the weights", _from(preprocessing_from_timm(stated)))]
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        raise _unreadable(config, f"{type(error).__name__}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError(f"It is larger than {_MAX_FILE_BYTES:,} bytes.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(values, dict):
        raise _unreadable(path, f"It holds a {type(values).__name__}, not a table.")
    return values


def _processor(path: Path, asked: tuple[int, int] | None) -> Preprocessing:
    """Read transformers' preprocessor_config.json with transformers itself."""
    _read(path)
    try:
        from transformers import AutoImageProcessor

        read = AutoImageProcessor.from_pretrained
        processor = read(str(path.parent), trust_remote_code=False, local_files_only=True)
        return preprocessing_from_transformers(processor, asked)
    except EdgeViTError:
        raise
    except Exception as error:  # transformers fails in many ways over a file it can't use
        raise _unreadable(path, (str(error).strip() or repr(error)).splitlines()[0]) from error


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        "EV173",
        "The preprocessing beside the weights can't be read.",
        where=str(path),
        why=why[:300],
        try_next="Mend the file, move the weights to a folder of their own, or give --input-size, "
        "--mean, --std, --crop-pct and --interpolation, which win over it.",
    )
