"""Vision models of Hugging Face transformers, from a folder or by their hub name.

Attention is asked for in its eager form, the model's output is reduced to what its task is about,
and a checkpoint in which a tensor is missing is refused instead of being filled up at random.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgevit.data import Preprocessing
from edgevit.data.tasks import CLASSIFY, DETECT, EMBED, SEGMENT
from edgevit.errors import DataError, EdgeViTError, EnvironmentError_, UsageError
from edgevit.zoo.arguments import not_taken
from edgevit.zoo.choices import LoadingChoices
from edgevit.zoo.containers import find_checkpoint
from edgevit.zoo.fitting import Fitted, load_checkpoint
from edgevit.zoo.imagenet import wordnet_ids_if_imagenet
from edgevit.zoo.loaded import LoadedModel, describe_model
from edgevit.zoo.names import check_hub_or_folder
from edgevit.zoo.network import downloads, hub_failure
from edgevit.zoo.preprocessing import unsupported_preprocessing_error
from edgevit.zoo.processors import preprocessing_from_transformers
from edgevit.zoo.settings import asked_size
from edgevit.zoo.shapes import classifier_rows
from edgevit.zoo.tasks import TaskOutputs, choose_task
from edgevit.zoo.transformers_heads import (
    fitting_tasks,
    model_class,
    possible_tasks,
    tower_config,
)

_OFFLINE = (
    "Give a folder written by save_pretrained (transformers:FOLDER); even --no-pretrained needs "
    "its config.json and preprocessor_config.json."
)
_LOADING = {"attn_implementation": "eager", "output_loading_info": True}


class Logits(nn.Module):
    """A transformers classifier whose output is its logits [B, classes]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, classes] of images float32 [B, 3, H, W]."""
        logits: Tensor = self.model(pixel_values=image).logits  # [B, classes]
        return logits


class CutIntoPatches(nn.Module):
    """A tower that takes patches in place of an image (SigLIP2), fed with images of one size."""

    def __init__(self, model: nn.Module, side: int) -> None:
        super().__init__()
        self.model = model
        self.side = side

    def forward(self, image: Tensor) -> Any:
        """Return what the tower does of images float32 [B, 3, H, W]."""
        side = self.side
        batch, channels, height, width = image.shape
        rows, columns = height // side, width // side
        cut = image.reshape(batch, channels, rows, side, columns, side)  # [B, C, R, p, K, p]
        flat = cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, side * side * channels)
        shapes = torch.tensor([[rows, columns]])  # of every image
        return self.model(pixel_values=flat, pixel_attention_mask=None, spatial_shapes=shapes)


def load(name: str, choices: LoadingChoices) -> LoadedModel:
    """Load a transformers classifier; see `edgevit.zoo.loading.load_model`."""
    if find_spec("transformers") is None:
        raise EnvironmentError_(
            "EV153",
            "The package transformers is not installed.",
            where=f"transformers:{name}",
            try_next="pip install 'edgevit[transformers]'",
        )
    check_hub_or_folder(name)
    where: dict[str, Any] = {"trust_remote_code": False}
    where["local_files_only"] = Path(name).is_dir() or hub_failure() is not None
    config = _config(name, where)
    task = _task(config, choices, name)
    if choices.weights is not None:
        fitted = _from_file(name, config, choices, task)
    elif choices.pretrained:
        if choices.arguments:
            raise not_taken(choices.arguments, name, "Published weights fit one configuration.")
        model = _load_pretrained(name, config, where, task)
        fitted = Fitted(model=model, arguments={}, notes=())
    else:
        arguments = choices.arguments
        fitted = Fitted(model=_random(name, config, arguments, task), arguments=arguments, notes=())
    config = fitted.model.config
    labelled = task in (CLASSIFY, SEGMENT, DETECT)
    return describe_model(
        name=name,
        source=f"transformers:{name}",
        model=_wrapped(fitted.model.float(), task),
        preprocessing=lambda: _own_preprocessing(name, config, where, choices),
        classes=_classes(config) if labelled else None,
        num_classes=int(config.num_labels) if labelled else None,  # type: ignore[arg-type, union-attr]
        choices=choices,
        arguments=fitted.arguments,
        notes=fitted.notes,
        task=task,
    )


def _task(config: Any, choices: LoadingChoices, name: str) -> str:
    """Return the task that is asked for, or that of the checkpoint's head."""
    if choices.task is not None:
        return choose_task(choices.task, possible_tasks(config), name)
    is_checkpoint = choices.pretrained and choices.weights is None
    return choose_task(None, fitting_tasks(config, by_head=is_checkpoint), name)


def _wrapped(model: nn.Module, task: str) -> nn.Module:
    if task == CLASSIFY:
        return Logits(model)
    has_no_pooler = getattr(model, "pooler", model) is None
    takes_patches = "spatial_shapes" in signature(model.forward).parameters
    config: Any = model.config
    whole = CutIntoPatches(model, int(config.patch_size)) if takes_patches else model
    return TaskOutputs(whole, task, class_token=has_no_pooler and task == EMBED)


def _config(name: str, where: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return _read(AutoConfig.from_pretrained, name, where)


def _load_pretrained(name: str, config: Any, where: dict[str, Any], task: str) -> nn.Module:
    """Load the published weights.

    Raises:
        DataError: The checkpoint lacks tensors or some have other shapes (EV155).
    """
    choices = {**where, **_LOADING, "config": tower_config(config)}
    kind = model_class(config, task)
    model, info = _read(kind.from_pretrained, name, choices)
    if info["missing_keys"] and all(str(key).startswith("pooler.") for key in info["missing_keys"]):
        # many checkpoints have no pooler; the first token is what it would have read
        model, info = _read(kind.from_pretrained, name, {**choices, "add_pooling_layer": False})
    _require_all(info, name)  # what a checkpoint has besides (other heads) is not needed
    module: nn.Module = model
    return module


def _from_file(name: str, config: Any, choices: LoadingChoices, task: str) -> Fitted:
    """Load a file into the model; transformers itself renames tensors of its older versions."""
    assert choices.weights is not None
    model = _random(name, config, choices.arguments, task)
    found = find_checkpoint(choices.weights, model.state_dict(), choices.weights_key)
    labels = classifier_rows(model.state_dict(), found.state)
    shown = {} if labels is None or "num_labels" in choices.arguments else {"num_labels": labels}
    if shown:
        model = _random(name, config, {**choices.arguments, **shown}, task)
    notes = found.notes()
    if model.state_dict().keys() <= found.state.keys():
        notes += load_checkpoint(model, found)
    else:
        kind: Any = type(model)
        model, info = kind.from_pretrained(
            None, config=model.config, state_dict=found.state, **_LOADING
        )
        _require_all(info, str(choices.weights), "unexpected_keys")
    notes += [f"read from the shapes in the file: num_labels={labels}"] if shown else []
    return Fitted(model=model, arguments={**choices.arguments, **shown}, notes=tuple(notes))


def _require_all(info: dict[str, Any], where: str, *more: str) -> None:
    kinds = ("missing_keys", "mismatched_keys", *more)
    found = {kind: sorted(map(str, info[kind])) for kind in kinds if info[kind]}
    if found:
        raise DataError(
            "EV155",
            "The checkpoint does not fit the model.",
            where=where,
            why="; ".join(f"{len(v)} {k}: {', '.join(v[:8])}" for k, v in found.items()),
            try_next="Give a checkpoint that was trained for this, or the --task that fits it.",
        )


def _random(name: str, config: Any, arguments: Mapping[str, Any], task: str) -> nn.Module:
    changed = _configure(tower_config(config), arguments, name)
    kind = model_class(config, task)
    make = getattr(kind, "from_config", None) or kind._from_config

    def build(_: str) -> nn.Module:
        model: nn.Module = make(changed, attn_implementation="eager")
        return model

    model: nn.Module = _read(build, name, {})
    return model


def _configure(config: Any, arguments: Mapping[str, Any], name: str) -> Any:
    """Return a copy of the configuration with these numbers in it.

    Text is refused: it may name code or another repository.
    """
    changed, known = copy.deepcopy(config), {*config.to_dict(), "num_labels"}
    for key, value in arguments.items():
        if key not in known or key.startswith("_") or isinstance(value, str):
            why = f"{key} is no number or truth value of {type(config).__name__}."
            raise not_taken(arguments, f"transformers:{name}", why)
        setattr(changed, key, list(value) if isinstance(value, tuple) else value)
    return changed


def _own_preprocessing(
    name: str, config: Any, where: dict[str, Any], choices: LoadingChoices
) -> Preprocessing:
    from transformers import AutoImageProcessor

    asked = asked_size(choices)
    processor = _read(AutoImageProcessor.from_pretrained, name, where)
    found = preprocessing_from_transformers(processor, asked)
    return found if asked is not None else _check_size(config, found)


def _read(reader: Any, name: str, choices: dict[str, Any]) -> Any:
    """Call transformers; what it can't read is the user's to change (EV164)."""
    try:
        with downloads(f"transformers:{name}", _OFFLINE), _without_reports():
            return reader(name, **choices)
    except EdgeViTError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise UsageError(
            "EV164",
            "transformers can't load the model.",
            where=name,
            why=str(error).strip().split("\n")[0][:300],
            try_next="Give a folder or hub name of a vision model with config.json, "
            "preprocessor_config.json and weights.",
        ) from error


@contextmanager
def _without_reports() -> Iterator[None]:
    """Let transformers keep its tables of unused tensors to itself; what lacks is an error here."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _classes(config: Any) -> tuple[str, ...] | None:
    names = [str(config.id2label[index]) for index in range(int(config.num_labels))]
    if all(name.startswith("LABEL_") for name in names):  # transformers' own placeholders
        return None
    return wordnet_ids_if_imagenet(names)


def _check_size(config: Any, preprocessing: Preprocessing) -> Preprocessing:
    size = getattr(config, "image_size", None)
    wanted = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if size is not None and wanted != preprocessing.input_size[1:]:
        raise unsupported_preprocessing_error(
            f"The model takes images {wanted}, its processor gives {preprocessing.input_size[1:]}."
        )
    return preprocessing
