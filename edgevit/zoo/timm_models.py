"""Models of timm: the short names, any other name, local folders and hub repositories.

Source: R. Wightman, PyTorch Image Models (timm), `models/_factory.py`, `models/_builder.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg, is_model
from torch import nn

from edgevit.data.tasks import CLASSIFY
from edgevit.errors import DataError, UnsupportedError, UsageError
from edgevit.zoo.arguments import blame_arguments, refuse_arguments
from edgevit.zoo.augreg import fit_from_npz
from edgevit.zoo.checkpoints import CHECKPOINTS
from edgevit.zoo.choices import LoadingChoices
from edgevit.zoo.fitting import Fitted, fit_model
from edgevit.zoo.hints import distilled_name
from edgevit.zoo.imagenet import classes_of_timm
from edgevit.zoo.listing import unknown_model
from edgevit.zoo.loaded import LoadedModel, describe_model
from edgevit.zoo.network import downloads, hub_failure, hub_way_out, no_network
from edgevit.zoo.preprocessing import preprocessing_from_timm
from edgevit.zoo.shapes import timm_arguments
from edgevit.zoo.timm_towers import for_task, timm_task
from edgevit.zoo.weights import read_checkpoint

FOLDERS_AND_HUB = ("local-dir", "hf-hub", "hf_hub")
# What timm looks for in a hub repository, in its order.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
# Arguments of `timm.create_model` that say where weights come from, or what else is built.
_NOT_THE_MODELS = frozenset(
    (
        *("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"),
        *("checkpoint_path", "scriptable", "exportable", "no_jit", "features_only", "device"),
        *("out_indices", "pretrained_strict", "pretrained_filter_fn", "kwargs_filter", "dtype"),
        *("pretrained_custom_load", "feature_cfg", "model_cfg", "model_cls", "variant"),
        *("pretrained_model_args",),
    )
)


def knows(name: str) -> bool:
    """Return whether timm has this architecture (the part before the tag)."""
    return bool(is_model(name))


def load_short(name: str, choices: LoadingChoices) -> LoadedModel:
    """Load one of the short names."""
    row = CHECKPOINTS[name]
    return load(row.tag, choices, flops=row.flops)


def load(name: str, choices: LoadingChoices, flops: int | None = None) -> LoadedModel:
    """Load any timm model; see `edgevit.zoo.loading.load_model`."""
    fitted = _fit(name, choices)
    model: Any = fitted.model
    config = model.pretrained_cfg
    task = timm_task(model, choices.task, name)
    classifies = task == CLASSIFY
    return describe_model(
        name=name,
        source=f"timm:{_tag(name, config)}",
        model=for_task(model, task),
        preprocessing=lambda: preprocessing_from_timm(config),
        classes=classes_of_timm(model) if classifies else None,
        num_classes=int(model.num_classes) if classifies else None,
        task=task,
        choices=choices,
        arguments=fitted.arguments,
        notes=fitted.notes,
        flops=None if fitted.arguments.keys() - {"num_classes"} else flops,
    )


def _fit(name: str, choices: LoadingChoices) -> Fitted:
    """Build the model; its weights are those of a file, published ones, or random."""
    refuse_arguments(choices.arguments, _NOT_THE_MODELS)
    weights = choices.weights
    if weights is None:
        more = _choices(name, choices.pretrained, choices.arguments, choices.task)
        model = _build(name, choices.pretrained, {**choices.arguments, **more})
        return Fitted(model=model, arguments=choices.arguments, notes=())
    _choices(name, False, {"num_classes": 1}, choices.task)
    if weights.suffix.lower() == ".npz":
        return fit_from_npz(lambda given: _build(name, False, given), choices)

    def build(given: Mapping[str, Any]) -> nn.Module:
        return _build(name, False, given)

    try:
        return fit_model(build, choices, timm_arguments)
    except DataError as error:
        other = distilled_name(name) if "dist_token" in error.why else ""
        if not other:
            raise
    note = f"the weights have a distillation token: {other} was built"
    found = fit_model(lambda given: _build(other, False, given), choices, timm_arguments)
    return replace(found, notes=(*found.notes, note))


def _build(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> nn.Module:
    with downloads(name), blame_arguments(arguments, name):
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    return model


def check_obtainable(name: str, task: str | None = None) -> None:
    """Make sure that published weights are here or can be downloaded.

    Raises:
        UsageError: Unknown model (EV151), or nobody published weights (EV184).
        UnsupportedError: They are those of a model without a classifier (EV159).
        EnvironmentError_: They are not here and the hub can't be reached (EV152).
    """
    name = CHECKPOINTS[name].tag if name in CHECKPOINTS else name
    if name.partition(":")[0] in FOLDERS_AND_HUB:
        _choices(name, True, {}, task)
    else:
        _weights_file(name, _config_for(name, task))


def _choices(
    name: str, pretrained: bool, arguments: Mapping[str, Any], task: str | None
) -> dict[str, Any]:
    """Return what `timm.create_model` has to be told beside the name."""
    prefix, _, rest = name.partition(":")
    if prefix in FOLDERS_AND_HUB:
        if prefix != "local-dir" and _find_cached(rest, "config.json") is None:
            _require_hub(name, rest)
        return {}
    config = _config(name) if "num_classes" in arguments else _config_for(name, task)
    return _load_cached_weights(name, config) if pretrained else {}


def _config_for(name: str, task: str | None) -> dict[str, Any]:
    """Return the configuration, of a classifier if no other task is asked for."""
    config = _config(name)
    if task in (None, CLASSIFY) and not config.get("num_classes"):
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


def _tag(name: str, config: dict[str, Any]) -> str:
    if ":" in name or "." in name or not config.get("tag"):
        return name
    return f"{name}.{config['tag']}"


def _no_classifier(name: str) -> UnsupportedError:
    return UnsupportedError(
        "EV159",
        "The model has no classifier.",
        where=name,
        why="It was published for features, so it gives no logits to compare.",
        try_next="--task embed compares its pooled embedding, --task features its feature maps; "
        "or --weights FILE of a checkpoint fine-tuned for classification.",
    )


def _load_cached_weights(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return weights that were downloaded before, so that no network is needed."""
    path = _weights_file(name, config)
    return {} if path is None else {"pretrained_cfg_overlay": {"state_dict": read_checkpoint(path)}}


def _weights_file(name: str, config: dict[str, Any]) -> Path | None:
    """Return the file of weights that were downloaded before, None where timm will download them.

    Raises:
        UsageError: Nobody published weights (EV184).
        EnvironmentError_: They are not here and the hub can't be reached (EV152).
    """
    repository = str(config.get("hf_hub_id") or "")
    if not repository and not config.get("url"):
        raise UsageError(
            "EV184",
            "There are no published weights for this model.",
            where=name,
            try_next="--no-pretrained builds it with random weights; --weights FILE gives yours.",
        )
    if not repository or config.get("custom_load"):
        return None
    for filename in filter(None, (config.get("hf_hub_filename"), *_HUB_FILES)):
        path = _find_cached(repository, filename)
        if path is not None:
            return path
    _require_hub(name, repository)
    return None


def _require_hub(name: str, repository: str) -> None:
    failure = hub_failure()
    if failure:
        raise no_network(name, failure, hub_way_out(repository))


def _find_cached(repository: str, filename: str) -> Path | None:
    """Return the file of a hub repository (``owner/name@revision``) if it was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    owner_name, _, revision = repository.partition("@")
    path = try_to_load_from_cache(owner_name, filename, revision=revision or None)
    return Path(path) if isinstance(path, str) else None
