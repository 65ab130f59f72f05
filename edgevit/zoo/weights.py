"""Reads a checkpoint file without running code from it, and loads it into a model by name.

`.safetensors` holds nothing but tensors; `.pth`, `.pt` and `.bin` are read by torch's restricted
unpickler (`weights_only=True`). Nothing is loaded unless every name and shape fits.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgevit.data.paths import found_at
from edgevit.errors import DataError

StateDict = dict[str, Tensor]
# In this order, as timm: averaged weights are the ones that are evaluated.
CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "module")
PREFIXES = ("module.", "_orig_mod.")
PICKLED = (".pth", ".pt", ".bin", ".tar", ".ckpt")
_SHOWN = 8


def read_state_dict(path: Path) -> StateDict:
    """Read the tensors of a checkpoint by name.

    Containers (``{"model": {...}}``) are opened and prefixes (``module.``) removed.

    Raises:
        DataError: The file is missing, damaged, of an unknown kind, or holds more than tensors
            and plain values (EV154).
    """
    suffix = path.suffix.lower()
    found = found_at(path)
    if found.kind != "file":
        raise _unreadable(path, found.why, "Give the path of a .safetensors or .pth file.")
    if suffix == ".safetensors":
        return _without_prefixes(_read_safetensors(path))
    if suffix not in PICKLED:
        raise _unreadable(path, f"{suffix or 'No suffix'} is neither .safetensors nor .pth.")
    return _without_prefixes(_tensors(_read_pickled(path), path))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a checkpoint file into the model, all of it or nothing.

    Names that differ are first given to the model's own timm converter (for checkpoints published
    before timm), if it has one.

    Raises:
        DataError: As `read_state_dict`, or names or shapes don't fit (EV155).
    """
    load_state(model, read_state_dict(path), str(path))


def load_state(model: nn.Module, state: StateDict, where: str) -> None:
    """Load tensors into the model, all of them or none; see `load_weights`."""
    differences = _differences(model, state)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None and differences and not differences["other shapes"]:
        state = dict(convert(state, model))
        differences = _differences(model, state)
    if any(differences.values()):
        raise DataError(
            "EV155",
            "The checkpoint does not fit the model.",
            where=where,
            why="; ".join(_listed(kind, names) for kind, names in differences.items() if names),
            try_next="Give the checkpoint of this very model, or name the model it belongs to.",
        )
    model.load_state_dict(state, strict=True)


def _differences(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return missing and unexpected names and other shapes; an empty dict when all fits."""
    own = model.state_dict()
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    found = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "other shapes": sorted(shapes),
    }
    return found if any(found.values()) else {}


def _listed(kind: str, names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}"


def _read_safetensors(path: Path) -> StateDict:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, str(error) or type(error).__name__) from error


def _read_pickled(path: Path) -> Any:
    """Read with the restricted unpickler; `argparse.Namespace`, a plain record, is let through."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = "It holds objects that would run code when read; only tensors and plain values are."
        raise _unreadable(path, f"{why} ({str(error).strip().splitlines()[-1][:200]})") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise _unreadable(path, f"It is damaged or no torch file ({said}).") from error


def _tensors(loaded: Any, path: Path) -> StateDict:
    """Open containers until the values are tensors; one that holds itself has no end."""
    for _ in CONTAINERS:
        if not isinstance(loaded, Mapping):
            break
        if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
            return {str(name): tensor for name, tensor in loaded.items()}
        inner = [key for key in CONTAINERS if isinstance(loaded.get(key), Mapping)]
        if not inner:
            keys = ", ".join(sorted(map(str, loaded))[:_SHOWN])
            raise _unreadable(path, f"No state dict is in it; its keys are {keys or 'none'}.")
        loaded = loaded[inner[0]]
    raise _unreadable(path, f"It holds a {type(loaded).__name__}, not a dict of tensors.")


def _without_prefixes(state: StateDict) -> StateDict:
    for prefix in PREFIXES * 2:  # torch.compile and DataParallel wrap in either order
        if state and all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return state


_SAVE_AGAIN = (
    "Save the state dict as .safetensors (safetensors.torch.save_file), or with "
    "torch.save(model.state_dict(), FILE)."
)


def _unreadable(path: Path, why: str, try_next: str = _SAVE_AGAIN) -> DataError:
    return DataError(
        "EV154", "The weights can't be read.", where=str(path), why=why, try_next=try_next
    )
