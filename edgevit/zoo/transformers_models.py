"""Image classifiers of Hugging Face transformers, from a folder or by their hub name.

Attention is asked for in its eager form, the model's output is reduced to its logits, and a
checkpoint in which a tensor is missing is refused instead of being filled up at random.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgevit.data import Preprocessing
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
from edgevit.zoo.shapes import classifier_rows

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
    if choices.weights is not None:
        fitted = _from_file(name, config, choices)
    elif choices.pretrained:
        if choices.arguments:
            raise not_taken(choices.arguments, name, "Published weights fit one configuration.")
        fitted = Fitted(model=_load_pretrained(name, where), arguments={}, notes=())
    else:
        arguments = choices.arguments
        fitted = Fitted(model=_random(name, config, arguments), arguments=arguments, notes=())
    config = fitted.model.config
    return describe_model(
        name=name,
        source=f"transformers:{name}",
        model=Logits(fitted.model.float()),
        preprocessing=lambda: _check_size(config, _preprocessing(name, where)),
        classes=_classes(config),
        num_classes=int(config.num_labels),  # type: ignore[arg-type, union-attr]
        choices=choices,
        arguments=fitted.arguments,
        notes=fitted.notes,
    )


def _config(name: str, where: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return _read(AutoConfig.from_pretrained, name, where)


def _load_pretrained(name: str, where: dict[str, Any]) -> nn.Module:
    """Load the published weights.

    Raises:
        DataError: The checkpoint lacks tensors or some have other shapes (EV155).
    """
    from transformers import AutoModelForImageClassification

    choices = {**where, **_LOADING}
    model, info = _read(AutoModelForImageClassification.from_pretrained, name, choices)
    _require_all(info, name)  # what a checkpoint has besides (other heads) is not needed
    module: nn.Module = model
    return module


def _from_file(name: str, config: Any, choices: LoadingChoices) -> Fitted:
    """Load a file into the model; transformers itself renames tensors of its older versions."""
    assert choices.weights is not None
    model = _random(name, config, choices.arguments)
    found = find_checkpoint(choices.weights, model.state_dict(), choices.weights_key)
    labels = classifier_rows(model.state_dict(), found.state)
    shown = {} if labels is None or "num_labels" in choices.arguments else {"num_labels": labels}
    if shown:
        model = _random(name, config, {**choices.arguments, **shown})
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
            try_next="Give a checkpoint that was fine-tuned for image classification.",
        )


def _random(name: str, config: Any, arguments: Mapping[str, Any]) -> nn.Module:
    from transformers import AutoModelForImageClassification

    changed = _configure(config, arguments, name)

    def build(_: str) -> nn.Module:
        model: nn.Module = AutoModelForImageClassification.from_config(
            changed, attn_implementation="eager"
        )
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


def _preprocessing(name: str, where: dict[str, Any]) -> Preprocessing:
    from transformers import AutoImageProcessor

    return preprocessing_from_transformers(_read(AutoImageProcessor.from_pretrained, name, where))


def _read(reader: Any, name: str, choices: dict[str, Any]) -> Any:
    """Call transformers; what it can't read is the user's to change (EV164)."""
    try:
        with downloads(f"transformers:{name}", _OFFLINE):
            return reader(name, **choices)
    except EdgeViTError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UsageError(
            "EV164",
            "transformers can't load the model.",
            where=name,
            why=str(error).strip().split("\n")[0][:300],
            try_next="Give a folder or hub name of an image classifier with config.json, "
            "preprocessor_config.json and weights.",
        ) from error


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
