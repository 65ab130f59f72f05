"""Classification models of torchvision, with the transforms of their default weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from edgevit.data.tasks import CLASSIFY
from edgevit.errors import UsageError
from edgevit.zoo.arguments import blame_arguments, refuse_arguments
from edgevit.zoo.choices import LoadingChoices
from edgevit.zoo.fitting import Fitted, fit_model
from edgevit.zoo.imagenet import wordnet_ids_if_imagenet
from edgevit.zoo.loaded import LoadedModel, describe_model
from edgevit.zoo.network import downloads, no_network, url_failure, ways_out
from edgevit.zoo.preprocessing import preprocessing_from_torchvision
from edgevit.zoo.shapes import torchvision_arguments
from edgevit.zoo.tasks import choose_task


def load(name: str, choices: LoadingChoices) -> LoadedModel:
    """Load a torchvision model; see `edgevit.zoo.loading.load_model`."""
    published = _published_weights(name)
    refuse_arguments(choices.arguments, ("weights", "progress", "name"))
    if choices.weights is None:
        model = _build(name, published if choices.pretrained else None, choices.arguments)
        fitted = Fitted(model=model, arguments=choices.arguments, notes=())
    else:
        fitted = fit_model(lambda given: _build(name, None, given), choices, torchvision_arguments)
    choose_task(choices.task, (CLASSIFY,), f"torchvision:{name}")
    categories = published.meta["categories"]
    num_classes = int(fitted.arguments.get("num_classes", len(categories)))
    return describe_model(
        name=name,
        source=f"torchvision:{name}.{published.name}",
        model=fitted.model,
        preprocessing=lambda: preprocessing_from_torchvision(published.transforms()),
        classes=wordnet_ids_if_imagenet(categories),
        num_classes=num_classes,
        choices=choices,
        arguments=fitted.arguments,
        notes=fitted.notes,
    )


def _build(name: str, published: Any, arguments: Mapping[str, Any]) -> nn.Module:
    """Build the model with published or random weights."""
    if published is not None:
        check_obtainable(name)
    with downloads(f"torchvision:{name}"), blame_arguments(arguments, f"torchvision:{name}"):
        model: nn.Module = torchvision.models.get_model(name, weights=published, **arguments)
    return model


def check_obtainable(name: str) -> None:
    """Make sure that the default weights are here or can be downloaded.

    Raises:
        UsageError: torchvision has no such model (EV182).
        EnvironmentError_: They are not here and the network can't be reached (EV152).
    """
    url = _published_weights(name).url
    failure = None if _is_cached(url) else url_failure(url)
    if failure:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise no_network(f"torchvision:{name}", failure, ways_out(f"{url} to {folder}"))


def _published_weights(name: str) -> Any:
    """Return the default weights of a classification model.

    Raises:
        UsageError: torchvision has no such model (EV182).
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=6, cutoff=0.5)
        raise UsageError(
            "EV182",
            f"torchvision has no classification model {name!r}.",
            where="--model",
            why=f"Nearest names: {', '.join(near)}." if near else "No name is near it.",
            try_next="torchvision.models.list_models() lists them.",
        )
    return torchvision.models.get_model_weights(name).DEFAULT


def _is_cached(url: str) -> bool:
    return (Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]).is_file()
