"""Finds out what a model name means and asks the library it belongs to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgevit.data import Preprocessing
from edgevit.data.paths import look_at
from edgevit.data.tasks import CLASSIFY
from edgevit.errors import UsageError
from edgevit.zoo.arguments import not_taken
from edgevit.zoo.checkpoints import CHECKPOINTS
from edgevit.zoo.choices import LoadingChoices, check_arguments
from edgevit.zoo.embedded import EMBEDDED_MODELS, asset, build_embedded, embedded_config
from edgevit.zoo.fitting import fit_model, load_weights
from edgevit.zoo.listing import unknown_model
from edgevit.zoo.loaded import LoadedModel, describe_model, preprocessing_values
from edgevit.zoo.names import check_spelling, is_path
from edgevit.zoo.preprocessing import preprocessing_from_timm
from edgevit.zoo.tasks import check_task
from edgevit.zoo.timm_towers import for_task, timm_task
from edgevit.zoo.weights import read_checkpoint

Loader = Callable[[str, LoadingChoices], LoadedModel]


def load_model(
    name: str,
    *,
    pretrained: bool = True,
    weights: Path | None = None,
    seed: int = 0,
    weights_key: str = "",
    model_args: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    task: str | None = None,
) -> LoadedModel:
    """Load a model by name.

    Args:
        name: A short name (``swin_b``, see `edgevit.zoo.checkpoints`), an embedded model
            (``vit_cifar10``), a timm name with or without tag, ``torchvision:NAME``,
            ``transformers:NAME`` or a folder with a config.json, or ``package.module:function``
            that returns a module.
        pretrained: False draws random weights.
        weights: Checkpoint file to load instead of the published weights.
        seed: Seed of random weights; torch's global generator is left as it was.
        weights_key: Which of several state dicts in the file, such as ``"model_ema"``.
        model_args: Constructor's arguments by name: numbers, truth values, text and tuples of
            numbers. What a checkpoint's shapes show need not be given.
        preprocessing: All of it, or values of ``input_size``, ``mean``, ``std``, ``crop_pct`` and
            ``interpolation`` by name.
        task: What the model is for, one of `edgevit.data.tasks.TASKS`; left out, the model says it.

    Raises:
        UsageError: Unknown model (EV151), no preprocessing is known (EV157), a choice can't be
            right (EV166 to EV176), or the task has to be chosen (EV233) or does not fit (EV234).
        EnvironmentError_: A package or the network is missing (EV152, EV153).
        DataError: The checkpoint can't be read (EV154) or does not fit (EV155), or what lies
            beside it can't be read (EV173).
        UnsupportedError: The preprocessing can't be reproduced (EV158).
    """
    rest, loader = _loader(name)
    choices = LoadingChoices(
        pretrained=pretrained or weights is not None,
        weights=weights,
        weights_key=weights_key,
        arguments=check_arguments(model_args or {}),
        preprocessing=preprocessing_values(preprocessing),
        task=None if task is None else check_task(task),
    )
    with seed_torch(seed):
        loaded = loader(rest, choices)
    if weights is None:
        return replace(loaded, name=name)
    return replace(loaded, name=name, source=f"{loaded.source} + {weights.name}")


@contextmanager
def seed_torch(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def check_name(name: str) -> None:
    """Make sure that `name` means something, without loading it.

    Raises:
        UsageError: No model is called so; the nearest names are given.
    """
    _loader(name)


def is_code(name: str) -> bool:
    """Return whether a name is ``package.module:function``, which importing would run."""
    from edgevit.zoo import factories

    return ":" in name and _loader(name)[1] is factories.load


def check_obtainable(
    name: str, *, pretrained: bool, weights: Path | None, task: str | None = None
) -> None:
    """Make sure in seconds that the model's weights are here or can be downloaded.

    Models of transformers and functions of the user's own are not asked; loading them says.

    Raises:
        UsageError: Unknown model (EV151), or nobody published weights (EV184).
        EnvironmentError_: The weights are not here and the network can't be reached (EV152).
        DataError: There is no such checkpoint file (EV154).
    """
    from edgevit.zoo import timm_models, torchvision_models

    rest, loader = _loader(name)
    if weights is not None:
        if look_at(weights).kind != "file":
            read_checkpoint(weights)
    elif pretrained and loader in (timm_models.load, timm_models.load_short):
        timm_models.check_obtainable(rest, task)
    elif pretrained and loader is torchvision_models.load:
        torchvision_models.check_obtainable(rest)


def _loader(name: str) -> tuple[str, Loader]:
    """Return the name without its prefix and the function that loads it."""
    from edgevit.zoo import factories, timm_models, torchvision_models, transformers_models

    prefixed: dict[str, Loader] = {
        "timm": timm_models.load,
        "torchvision": torchvision_models.load,
        "transformers": transformers_models.load,
    }
    prefix, separator, rest = name.partition(":")
    if name in EMBEDDED_MODELS:
        return name, _load_embedded
    if name in CHECKPOINTS:
        return name, timm_models.load_short
    check_spelling(name)
    if separator and prefix in prefixed:
        return rest, prefixed[prefix]
    if prefix in timm_models.FOLDERS_AND_HUB:
        return (name, timm_models.load) if prefix != "local-dir" else _folder(Path(rest))
    is_model_folder = look_at(Path(name) / "config.json").kind == "file"
    if timm_models.knows(name) and not is_model_folder:  # a bundle may be called as a model
        return name, timm_models.load
    if name and (is_path(name) or look_at(name).kind == "folder"):
        return _folder(Path(name))
    if separator:
        return name, factories.load
    raise unknown_model(name)


def _folder(path: Path) -> tuple[str, Loader]:
    """Tell a timm folder from a transformers folder by its config.json."""
    from edgevit.zoo import timm_models, transformers_models

    try:
        if look_at(path / "config.json").kind == "special":
            raise OSError("It is a device, a pipe or a socket.")
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            "EV181",
            "The folder is no model.",
            where=str(path),
            why=f"config.json: {error}",
            try_next="Give a folder saved by transformers or timm (config.json and weights), or "
            "a model's name and --weights FILE.",
        ) from error
    if isinstance(config, dict) and "architecture" in config:
        return f"local-dir:{path}", timm_models.load
    return str(path), transformers_models.load


def _load_embedded(name: str, choices: LoadingChoices) -> LoadedModel:
    if choices.arguments:
        raise not_taken(choices.arguments, name, "It is installed as it was trained.")
    config = embedded_config(name)
    model = build_embedded(config)
    notes: tuple[str, ...] = ()
    if choices.weights is not None:
        fitted = fit_model(lambda _: build_embedded(config), choices)
        model, notes = fitted.model, fitted.notes
    elif choices.pretrained:
        load_weights(model, asset(f"{name}.safetensors"))
    task = timm_task(model, choices.task, name)
    classifies = task == CLASSIFY
    return describe_model(
        name=name,
        source=f"edgevit:{name}",
        model=for_task(model, task),
        preprocessing=lambda: preprocessing_from_timm(config),
        classes=tuple(config["classes"]) if classifies else None,
        num_classes=len(config["classes"]) if classifies else None,
        task=task,
        choices=choices,
        notes=notes,
        flops=config.get("flops"),
    )
