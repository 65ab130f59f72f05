"""Puts a checkpoint's tensors into a model by name: all that the model has, or nothing.

Names of other libraries are converted first (timm's own converters) and checked afterwards; what
a checkpoint has besides is left out only where it can't belong to the model, and is named.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgevit.errors import DataError
from edgevit.zoo.choices import LoadingChoices
from edgevit.zoo.containers import CheckpointContents, find_checkpoint
from edgevit.zoo.hints import hint
from edgevit.zoo.weights import StateDict

_SHOWN = 8
# Computed by constructors, or of use in training only, wherever they stand in a model.
_COMPUTED = re.compile(
    r"(^|\.)(relative_position_index|relative_coords_table|attn_mask|num_batches_tracked|"
    r"position_ids|n_averaged|mask_token)$"
)
# Beside a model's own names, what belongs to the training.
_TRAINING = re.compile(
    r"(mean|std|pixel_mean|pixel_std|criterion|loss\w*|\w*_loss|metric\w*|\w*_metrics|queue\w*|"
    r"teacher\w*|student\w*|\w*_ema|ema|momentum\w*|decoder\w*|projector\w*|predictor|optimizer|"
    r"train_\w+|val_\w+|test_\w+|normalizer)(\.|$)"
)

Build = Callable[[Mapping[str, Any]], nn.Module]
"""Makes the model with these arguments beside its own."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A model with the weights of a file.

    Args:
        model: The model.
        arguments: Its constructor's arguments, those given and those read from the file.
        notes: What was taken, converted and left out, in sentences.
    """

    model: nn.Module
    arguments: Mapping[str, Any]
    notes: tuple[str, ...]


def fit_model(
    build: Build,
    choices: LoadingChoices,
    read: Callable[[nn.Module, StateDict], Mapping[str, Any]] = lambda model, state: {},
) -> Fitted:
    """Build a model and load the checkpoint file of `choices` into it.

    Args:
        build: Makes the model.
        choices: ``weights`` is not None.
        read: Returns the arguments that a checkpoint's shapes show, given the model without them.

    Raises:
        DataError: The file can't be read (EV154) or does not fit (EV155).
        UsageError: There is no such key in it (EV176).
    """
    assert choices.weights is not None
    model = build(choices.arguments)
    found = find_checkpoint(choices.weights, model.state_dict(), choices.weights_key)
    shown = {k: v for k, v in read(model, found.state).items() if k not in choices.arguments}
    if shown:
        model = build({**choices.arguments, **shown})
    notes = [*found.notes(), *load_checkpoint(model, found)]
    if shown:
        said = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        notes.append(f"read from the shapes in {choices.weights.name}: {said}")
    arguments = {**choices.arguments, **shown}
    return Fitted(model=model, arguments=arguments, notes=tuple(notes))


def load_weights(model: nn.Module, path: Path) -> list[str]:
    """Load a checkpoint file into the model, all of it or nothing; return notes.

    Raises:
        DataError: The file can't be read (EV154), or names or shapes don't fit (EV155).
    """
    return load_checkpoint(model, find_checkpoint(path, model.state_dict()))


def load_checkpoint(model: nn.Module, found: CheckpointContents) -> list[str]:
    """Load tensors into the model, all that it has or none.

    Returns:
        Notes on what was left out and converted.

    Raises:
        DataError: Names, shapes or kinds of numbers don't fit (EV155).
    """
    own, state = model.state_dict(), found.state
    converted = _convert(model, state) if set(own) != set(state) else None
    if converted is not None and _misfits(own, converted) <= _misfits(own, state):
        state = converted
    foreign = [name for name in state if name not in own and not _COMPUTED.search(name)]
    left_out = [name for name in foreign if _TRAINING.match(name)]
    _check(own, state, [name for name in foreign if name not in left_out], found.where)
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
    return _notes(own, state, [*left_out, *found.outside])


def _convert(model: nn.Module, state: StateDict) -> StateDict | None:
    """Return the state by the names of the model's timm module; None if nothing is converted.

    A converter also resizes position embeddings and bias tables to the model's; a checkpoint of
    another image or window size is not the model that was trained, so such a result is dropped.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        made = {name: t for name, t in convert(dict(state), model).items() if _is_tensor(t)}
    except Exception:  # a layout that the converter does not know; each fails in its own way
        return None
    kept = {id(tensor) for tensor in state.values()}
    resized = [
        name
        for name, tensor in made.items()
        if name in state and id(tensor) not in kept and tensor.numel() != state[name].numel()
    ]
    made |= {name: state[name] for name in resized}
    if all(id(tensor) in kept for tensor in made.values()):  # only renamed: what is gone shows
        there = {id(tensor) for tensor in made.values()}
        made |= {name: t for name, t in state.items() if id(t) not in there and name not in made}
    return made


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _misfits(own: Mapping[str, Tensor], state: StateDict) -> int:
    """Return how many of the model's tensors a state lacks or has in another shape."""
    return sum(name not in state or state[name].shape != t.shape for name, t in own.items())


def _check(own: Mapping[str, Tensor], state: StateDict, foreign: list[str], where: str) -> None:
    """Raise an error unless the model's tensors are all there and nothing else is (EV155)."""
    both = sorted(own.keys() & state.keys())
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in both
        if own[name].shape != state[name].shape
    ]
    whole = [
        f"{name} {_dtype(state[name])}"
        for name in both
        if own[name].is_floating_point() and not _can_be_float(state[name])
    ]
    found = {
        "missing": sorted(n for n in own.keys() - state.keys() if not _is_computed(n, own[n])),
        "unexpected": sorted(foreign),
        "other shapes": shapes,
        "not of floating point": whole,
    }
    if any(found.values()):
        raise misfit(where, "; ".join(_list_text(k, n) for k, n in found.items() if n), state)


def misfit(where: str, why: str, state: StateDict) -> DataError:
    """Return the error for a checkpoint of another model (EV155)."""
    nearest = hint(state)
    return DataError(
        "EV155",
        "The checkpoint does not fit the model.",
        where=where,
        why=why,
        try_next=(f"Its shapes are those of {nearest}: --model {nearest}. " if nearest else "")
        + "Give the checkpoint of this very model, name the model it belongs to, or say how it "
        "differs with --model-arg NAME=VALUE.",
    )


def _is_computed(name: str, tensor: Tensor) -> bool:
    """Return whether a constructor fills the tensor in: indices and counters."""
    return bool(_COMPUTED.search(name)) and not tensor.is_floating_point()


def _can_be_float(tensor: Tensor) -> bool:
    """Return whether the values are numbers as they stand, not codes that need a scale."""
    return tensor.is_floating_point() and not tensor.is_quantized and not tensor.is_sparse


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _notes(own: Mapping[str, Tensor], state: StateDict, left_out: list[str]) -> list[str]:
    notes = []
    named = [name for name in left_out if not _COMPUTED.search(name)]
    if named:
        notes.append(f"left out of the checkpoint, as no part of the model: {_few(sorted(named))}")
    kinds = Counter(
        _dtype(tensor)
        for name, tensor in state.items()
        if name in own and tensor.dtype != own[name].dtype and own[name].dtype == torch.float32
    )
    notes += [f"{count} {kind} tensors became float32" for kind, count in sorted(kinds.items())]
    return notes


def _list_text(kind: str, names: Iterable[str]) -> str:
    shown = list(names)
    return f"{len(shown)} {kind}: {_few(shown)}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
