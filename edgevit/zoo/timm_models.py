"""Models of timm: the short names, any other name, local folders and hub repositories.

Source: R. Wightman, PyTorch Image Models (timm), `models/_factory.py`, `models/_builder.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg, is_model
from torch import nn

from edgevit.errors import UnsupportedError, UsageError
from edgevit.zoo.checkpoints import CHECKPOINTS
from edgevit.zoo.imagenet import classes_of_timm
from edgevit.zoo.listing import unknown_model
from edgevit.zoo.loaded import LoadedModel, loaded_model
from edgevit.zoo.network import downloads, hub_failure, hub_way_out, no_network
from edgevit.zoo.preprocessing import preprocessing_from_timm
from edgevit.zoo.weights import StateDict, load_state, read_state_dict

FOLDERS_AND_HUB = ("local-dir", "hf-hub", "hf_hub")
# What timm looks for in a hub repository, in its order.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def knows(name: str) -> bool:
    """Return whether timm has this architecture (the part before the tag)."""
    return bool(is_model(name))


def load_short(name: str, pretrained: bool, weights: Path | None) -> LoadedModel:
    """Load one of the short names."""
    row = CHECKPOINTS[name]
    return load(row.tag, pretrained, weights, flops=row.flops)


def load(
    name: str, pretrained: bool, weights: Path | None, flops: int | None = None
) -> LoadedModel:
    """Load any timm model; see `edgevit.zoo.loading.load_model`."""
    state = None if weights is None else read_state_dict(weights)
    choices = _choices(name, pretrained, state)
    with downloads(name):
        model: Any = timm.create_model(name, pretrained=pretrained, **choices)
    if state is not None:
        load_state(model, state, str(weights))
    config = model.pretrained_cfg
    return loaded_model(
        name=name,
        source=f"timm:{_tagged(name, config)}",
        model=model,
        preprocessing=preprocessing_from_timm(config),
        classes=classes_of_timm(model),
        num_classes=_logits(model, name),
        pretrained=pretrained,
        flops=flops,
    )


def check_obtainable(name: str) -> None:
    """Make sure that published weights are here or can be downloaded.

    Raises:
        UsageError: Unknown model (EV151), or nobody published weights (EV159).
        UnsupportedError: They are those of a model without a classifier (EV159).
        EnvironmentError_: They are not here and the hub can't be reached (EV152).
    """
    name = CHECKPOINTS[name].tag if name in CHECKPOINTS else name
    if name.partition(":")[0] in FOLDERS_AND_HUB:
        _choices(name, True, None)
    else:
        _weights_file(name, _classifier_config(name))


def _choices(name: str, pretrained: bool, state: StateDict | None) -> dict[str, Any]:
    """Return what `timm.create_model` has to be told beside the name."""
    prefix, _, rest = name.partition(":")
    if prefix in FOLDERS_AND_HUB:
        if prefix != "local-dir" and _cached(rest, "config.json") is None:
            _require_hub(name, rest)
        return {}
    if state is not None:
        return _num_classes(state, _config(name))
    config = _classifier_config(name)
    return _cached_weights(name, config) if pretrained else {}


def _classifier_config(name: str) -> dict[str, Any]:
    config = _config(name)
    if not config.get("num_classes"):
        raise _no_classifier(name)
    return config


def _config(name: str) -> dict[str, Any]:
    """Return the pretrained configuration that belongs to the name, or to its default tag."""
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError as error:  # the architecture has no such tag
        raise unknown_model(name) from error
    if not is_model(name) or config is None:
        raise unknown_model(name)
    values: dict[str, Any] = config.to_dict()
    return values


def _tagged(name: str, config: dict[str, Any]) -> str:
    if ":" in name or "." in name or not config.get("tag"):
        return name
    return f"{name}.{config['tag']}"


def _logits(model: nn.Module, name: str) -> int:
    count = int(getattr(model, "num_classes", 0))
    if not count:
        raise _no_classifier(name)
    return count


def _no_classifier(name: str) -> UnsupportedError:
    return UnsupportedError(
        "EV159",
        "The model has no classifier.",
        where=name,
        why="It was published for features, so it gives no logits to compare.",
        try_next="Choose a checkpoint fine-tuned for classification, or --weights FILE of one.",
    )


def _num_classes(state: StateDict, config: dict[str, Any]) -> dict[str, Any]:
    """Read the number of classes off a checkpoint's classifier, for fine-tuned models."""
    classifier = config.get("classifier")
    weight = state.get(f"{classifier}.weight") if isinstance(classifier, str) else None
    if weight is None or weight.shape[0] == config.get("num_classes"):
        return {}
    return {"num_classes": weight.shape[0]}


def _cached_weights(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return weights that were downloaded before, so that no network is needed."""
    path = _weights_file(name, config)
    return {} if path is None else {"pretrained_cfg_overlay": {"state_dict": read_state_dict(path)}}


def _weights_file(name: str, config: dict[str, Any]) -> Path | None:
    """Return the file of weights that were downloaded before, None where timm will download them.

    Raises:
        UsageError: Nobody published weights (EV159).
        EnvironmentError_: They are not here and the hub can't be reached (EV152).
    """
    repository = str(config.get("hf_hub_id") or "")
    if not repository and not config.get("url"):
        raise UsageError(
            "EV159",
            "There are no published weights for this model.",
            where=name,
            try_next="--no-pretrained builds it with random weights; --weights FILE gives yours.",
        )
    if not repository or config.get("custom_load"):
        return None
    for filename in filter(None, (config.get("hf_hub_filename"), *_HUB_FILES)):
        path = _cached(repository, filename)
        if path is not None:
            return path
    _require_hub(name, repository)
    return None


def _require_hub(name: str, repository: str) -> None:
    failure = hub_failure()
    if failure:
        raise no_network(name, failure, hub_way_out(repository))


def _cached(repository: str, filename: str) -> Path | None:
    """Return the file of a hub repository (``owner/name@revision``) if it was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    owner_name, _, revision = repository.partition("@")
    path = try_to_load_from_cache(owner_name, filename, revision=revision or None)
    return Path(path) if isinstance(path, str) else None
