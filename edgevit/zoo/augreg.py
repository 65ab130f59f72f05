"""Google's own ViT checkpoints (.npz), which timm's `load_pretrained` of a model reads.

timm resizes position embeddings and leaves out a classifier of other classes without a word, so
sizes are read from the file first, and every parameter is seen to have been filled.

Source: Steiner et al., "How to train your ViT?", arXiv:2106.10270; the files named AugReg.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgevit.errors import DataError
from edgevit.zoo.choices import LoadingChoices
from edgevit.zoo.fitting import Build, Fitted, misfit
from edgevit.zoo.weights import unreadable

_UNPACKED_BYTES = 8 << 30
_CONVERT = "Give the file as Google published it, or convert it to .safetensors."


def fit_from_npz(build: Build, choices: LoadingChoices) -> Fitted:
    """Build a timm ViT and fill it from a file.

    Raises:
        DataError: The file can't be read (EV154), or lacks parameters of the model (EV155).
    """
    assert choices.weights is not None
    path = choices.weights
    shapes = _shapes(path)
    found = {k: v for k, v in _arguments(shapes, build).items() if k not in choices.arguments}
    model: Any = build({**choices.arguments, **found})
    if not callable(getattr(model, "load_pretrained", None)):
        raise unreadable(path, "timm reads no .npz file into this model.", _CONVERT)
    _fill(model, path)
    said = ", ".join(f"{name}={value!r}" for name, value in found.items())
    notes = (f"read from the shapes in {path.name}: {said}",) if found else ()
    return Fitted(model=model, arguments={**choices.arguments, **found}, notes=notes)


def _fill(model: Any, path: Path) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    try:
        model.load_pretrained(str(path))
    except Exception as error:  # timm walks through the file and fails wherever it ends
        raise unreadable(path, f"timm can't read it: {type(error).__name__}: {error}") from error
    empty = [name for name, p in model.named_parameters() if bool(p.isnan().any())]
    if empty:
        raise misfit(str(path), f"{len(empty)} missing: {', '.join(empty[:8])}", {})


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays, by the last two parts of their names."""
    if not path.is_file():
        raise unreadable(path, "There is no such file.", "Give the path of the file.")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _UNPACKED_BYTES:
                raise unreadable(path, f"It unpacks to more than {_UNPACKED_BYTES:,} bytes.")
        with np.load(path, allow_pickle=False) as arrays:
            return {"/".join(name.split("/")[-2:]): arrays[name].shape for name in arrays.files}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        raise unreadable(path, f"It is damaged or no .npz file ({error}).", _CONVERT) from error


def _arguments(shapes: Mapping[str, tuple[int, ...]], build: Build) -> dict[str, Any]:
    model: nn.Module = build({})
    found: dict[str, Any] = {}
    classes = shapes.get("head/bias", (0,))[-1]
    if classes and classes != getattr(model, "num_classes", classes):
        found["num_classes"] = int(classes)
    position = shapes.get("posembed_input/pos_embedding", ())
    patch: Any = getattr(model, "patch_embed", None)
    if len(position) == 3 and patch is not None:
        side = isqrt(max(position[1] - 1, 0))
        if side and side * side == position[1] - 1 and (side, side) != patch.grid_size:
            found["img_size"] = side * int(patch.patch_size[0])
    return found
