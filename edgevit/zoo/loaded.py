"""The value of every loader: the model, and all that has to be known to feed and to name it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from edgevit.data import Preprocessing
from edgevit.data.labels import num_labels
from edgevit.data.tasks import CLASSIFY, DETECT, FEATURES, LOGITS, SEGMENT
from edgevit.errors import EdgeViTError, UsageError
from edgevit.zoo.choices import LoadingChoices
from edgevit.zoo.outputs import named_values
from edgevit.zoo.preprocessing import preprocessing_from_timm
from edgevit.zoo.settings import choose_preprocessing
from edgevit.zoo.tasks import TaskOutputs, check_task, task_outputs

_COMPARED = (
    "the model returns no logits [batch, classes], and no --task says what it is for: its outputs "
    "are compared with those of fp32 as features"
)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready to be captured.

    Args:
        name: As the user gave it.
        source: Library and exact checkpoint, such as
            ``"timm:vit_base_patch16_224.augreg_in21k_ft_in1k"``.
        model: In eval mode; float32 [B, 3, H, W] -> logits [B, num_classes]; for other tasks than
            "classify" -> name -> float32 [B, ...], see `edgevit.zoo.tasks`.
        preprocessing: How pictures become its inputs.
        classes: Class names in label order (WordNet ids for ImageNet), None when unknown; two for a
            single logit: what it says below 0, then above.
        num_classes: Number of logits, or of a segmentation's or detection's classes; None of a
            model that gives none.
        parameters: Number of parameters; buffers are not counted.
        flops: Multiply-adds per image (what the literature calls FLOPs). As loaded: the rounded
            figure of the literature, None without one; `edgevit.verbs.inputs.subject_of` replaces
            it by the number counted from the captured graph, which bundles keep.
        weights_sha256: Over the names and bytes of the state dict, sorted by name.
        pretrained: False when the weights are random.
        arguments: Constructor's arguments, given or read from a checkpoint, that differ from what
            the name means.
        preprocessing_source: Where the preprocessing's values came from, in words.
        own_preprocessing: Whether all of them are the model's own.
        notes: What was taken, converted and left out while loading, in sentences.
        task: What it is for, one of `edgevit.data.tasks.TASKS`.
        outputs: What of all that it returns is an output, as `graph_from_module` takes it; None for
            logits.
    """

    name: str
    source: str
    model: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    num_classes: int | None
    parameters: int
    flops: int | None
    weights_sha256: str
    pretrained: bool
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preprocessing_source: str = ""
    own_preprocessing: bool = True
    notes: tuple[str, ...] = ()
    task: str = CLASSIFY
    outputs: str | tuple[str, ...] | None = None

    def preprocessing_to_keep(self) -> dict[str, Any]:
        """Return what a recipe has to say of the preprocessing: nothing if it is the model's."""
        return {} if self.own_preprocessing else self.preprocessing.to_dict()


def describe_model(
    *,
    name: str,
    source: str,
    model: nn.Module,
    preprocessing: Callable[[], Preprocessing],
    classes: tuple[str, ...] | None,
    num_classes: int | None,
    choices: LoadingChoices,
    arguments: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
    flops: int | None = None,
    task: str = CLASSIFY,
) -> LoadedModel:
    """Put the model into eval mode, decide its preprocessing and fill in what follows.

    Args:
        preprocessing: Reads the model's own.
        choices: What the caller said; its preprocessing wins.
        arguments: What the model was built with.
        task: What the model is for; one that does not classify is tried on a black image.

    Raises:
        UsageError: The model does not take images of that size (EV174), or what it returns is
            nothing for that task (EV234).
    """
    model.eval()
    arguments = arguments or {}
    chosen = choose_preprocessing(preprocessing, source, choices, arguments)
    if task != CLASSIFY:
        returned_by(model, chosen.preprocessing.input_size)
    elif not chosen.is_own:
        num_logits(model, chosen.preprocessing.input_size)
    return LoadedModel(
        name=name,
        source=source,
        model=model,
        preprocessing=chosen.preprocessing,
        classes=classes if classes and len(classes) == num_labels(num_classes or 0) else None,
        num_classes=num_classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=flops,
        weights_sha256=weights_sha256(model),
        pretrained=choices.pretrained,
        arguments=dict(arguments),
        preprocessing_source=chosen.source,
        own_preprocessing=chosen.is_own,
        notes=notes,
        task=task,
        outputs=None if task == CLASSIFY else "all",
    )


def loaded_from_module(
    model: nn.Module,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    *,
    name: str = "",
    source: str = "",
    classes: tuple[str, ...] | None = None,
    choices: LoadingChoices | None = None,
    carrier: Any = None,
    notes: tuple[str, ...] = (),
    task: str | None = None,
) -> LoadedModel:
    """Describe a module of the user's own.

    Args:
        model: Any module [B, C, H, W] -> logits [B, classes], or other float tensors with the
            batch in front, alone or in a tuple or dict; put into eval mode. One that is
            compiled or wrapped for several devices is unwrapped; one in another type than
            float32, or on a device, is copied.
        preprocessing: All of it, or some values by name. What it leaves out,
            `model.edgevit_preprocessing` (a dict as `Preprocessing.to_dict` gives, or with
            ``crop_pct`` instead of ``resize_size``) or timm's `model.pretrained_cfg` say.
        name, source: For reports; left out, the class's name.
        classes: Class names; left out, `model.edgevit_classes` if there is one.
        choices: What the caller said of a named model.
        carrier: Has the attributes above; the model if left out.
        notes: Notes of an earlier step.
        task: What it is for, one of `edgevit.data.tasks.TASKS`; left out, "classify" where it
            returns logits, else "features". Not read beside `choices`.

    Raises:
        UsageError: It is no module that can be quantized (EV177), nothing says the preprocessing
            (EV157), no output is a float tensor (EV183) or one for the task (EV234), or there are
            more or fewer class names than logits (EV165).
    """
    model, more = plain_module(model)
    name = name or type(model).__name__
    carrier = model if carrier is None else carrier
    choices = choices or LoadingChoices(
        preprocessing=preprocessing_values(preprocessing), task=task
    )
    named = classes or getattr(model, "edgevit_classes", None)
    source = source or f"module:{type(model).__module__}.{type(model).__qualname__}"

    def own() -> Preprocessing:
        return preprocessing_of(carrier, name)

    chosen = choose_preprocessing(own, source, choices, {}).preprocessing
    num_classes = _num_classes(model.eval(), chosen.input_size, choices.task)
    if choices.task == DETECT and named is not None and num_classes == len(named) + 1:
        num_classes -= 1  # behind the classes comes "no object"
    if num_classes is None and choices.task is None:
        more += (_COMPARED,)
    if named is not None and num_classes is not None and len(named) != num_labels(num_classes):
        raise _misnamed_error(name, len(named), num_classes)
    task = choices.task or (FEATURES if num_classes is None else CLASSIFY)
    return describe_model(
        name=name,
        source=source,
        model=model if choices.task in (None, CLASSIFY) else TaskOutputs(model, task),
        preprocessing=own,
        classes=None if named is None else tuple(str(item) for item in named),
        num_classes=num_classes,
        choices=choices,
        notes=(*notes, *more),
        task=task,
    )


def _num_classes(
    model: nn.Module, input_size: tuple[int, int, int], task: str | None
) -> int | None:
    """Return the number of classes that the outputs show, None where they have none."""
    if task in (None, CLASSIFY):
        found = num_logits(model, input_size)
        if found is None and task == CLASSIFY:
            task_outputs(returned_by(model, input_size), CLASSIFY)  # says what it returned
        return found
    axis = {SEGMENT: 1, DETECT: -1}.get(str(task))
    returned = returned_by(TaskOutputs(model, check_task(str(task))), input_size)
    return None if axis is None else int(returned[LOGITS].shape[axis])


def preprocessing_values(given: Preprocessing | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is given as values by name."""
    if given is None:
        return {}
    return given.to_dict() if isinstance(given, Preprocessing) else dict(given)


def plain_module(model: Any) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the float32 module on the CPU inside what is given, and notes; a copy if need be.

    Raises:
        UsageError: It is no module, a TorchScript program, or has no weights (EV177).
    """
    for _ in range(4):  # torch.compile and DataParallel wrap in either order
        kinds = {kind.__name__ for kind in type(model).__mro__}
        if "OptimizedModule" in kinds:
            model = model._orig_mod
        elif kinds & {"DataParallel", "DistributedDataParallel"}:
            model = model.module
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise _no_module(model)
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise _unusable(model, "Its weights are on the meta device, so it has none.")
    others = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float32}
    if not others and all(tensor.device.type == "cpu" for tensor in tensors):
        return model, ()
    names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in others))
    notes = (f"a float32 copy of the module was quantized; its weights are {names}",)
    return copy.deepcopy(model).cpu().float(), notes if others else ()


def _no_module(model: Any) -> UsageError:
    if isinstance(model, torch.jit.ScriptModule):
        return _unusable(model, "It is a TorchScript program, whose modules can't be quantized.")
    if isinstance(model, Mapping):
        return _unusable(model, "It looks like a state dict: weights without a model.")
    return _unusable(model, f"It is a {type(model).__module__}.{type(model).__qualname__}.")


def _unusable(model: Any, why: str) -> UsageError:
    return UsageError(
        "EV177",
        "This is no model that can be quantized.",
        where=f"model, a {type(model).__name__}",
        why=why,
        try_next="Give a torch.nn.Module with its weights, before it is scripted or exported, or "
        "a model's name with weights=FILE.",
    )


def _misnamed_error(name: str, named: int, num_classes: int) -> UsageError:
    return UsageError(
        "EV165",
        "The class names don't fit the model.",
        where=f"{name}: edgevit_classes",
        why=f"There are {named} names and {num_classes} logits.",
        try_next="Give one name per logit in the order of the labels, or no names.",
    )


def preprocessing_of(model: Any, name: str) -> Preprocessing:
    """Read the preprocessing a module (or its factory) carries.

    Raises:
        UsageError: It carries none (EV157).
    """
    why = "It has neither edgevit_preprocessing nor timm's pretrained_cfg."
    try:
        found = _carry(model)
        if found is not None:
            return found
    except EdgeViTError:
        raise
    except Exception as error:  # the user's own values, of any kind
        why = f"Its preprocessing can't be read: {type(error).__name__}: {error}"
    raise UsageError(
        "EV157",
        "Nothing says how pictures become inputs of this model.",
        where=name,
        why=why,
        try_next="Set on the function or the model: edgevit_preprocessing = "
        "{'input_size': (3, 224, 224), 'crop_pct': 0.9, 'interpolation': 'bicubic', "
        "'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}; "
        "in Python: quantize(model, images, preprocessing=Preprocessing(...)).",
    )


def _carry(model: Any) -> Preprocessing | None:
    own = getattr(model, "edgevit_preprocessing", None)
    if isinstance(own, Preprocessing):
        return own
    if isinstance(own, dict):
        if "resize_size" in own:
            return Preprocessing.from_dict(own)
        return preprocessing_from_timm({"crop_mode": "center", **own})
    config = getattr(model, "pretrained_cfg", None)
    if isinstance(config, dict) and config.get("input_size"):
        return preprocessing_from_timm(config)
    return None


@torch.no_grad()
def returned_by(model: nn.Module, input_size: tuple[int, int, int]) -> Any:
    """Return what a model says of one black image [1, 3, H, W].

    Raises:
        UsageError: It fails on such an image (EV174), or returns nothing for its task (EV234).
    """
    try:
        return model(torch.zeros(1, *input_size))
    except EdgeViTError:
        raise
    except Exception as error:  # the model's own code, which may fail in any way
        raise UsageError(
            "EV174",
            "The model does not take such images.",
            where=f"an image {list(input_size)}: channels, height, width",
            why=f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0][:300]}",
            try_next="--input-size with what the model takes, or --model-arg img_size=N (timm), "
            "image_size=N (torchvision) builds it for another size.",
        ) from error


def num_logits(model: nn.Module, input_size: tuple[int, int, int]) -> int | None:
    """Run one black image [1, 3, H, W] and return the number of logits, None without logits.

    Logits are a tensor [1, classes], by itself or by that name.

    Raises:
        UsageError: No output is a float tensor of one image (EV183), or the model fails on such
            an image (EV174).
    """
    returned = returned_by(model, input_size)
    values = named_values(returned)
    logits = returned if isinstance(returned, torch.Tensor) else values.get(LOGITS)
    if isinstance(logits, torch.Tensor) and logits.ndim == 2 and logits.shape[0] == 1:
        return int(logits.shape[1])
    if any(_is_output(value) for value in values.values()):
        return None
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(returned).__name__
    raise UsageError(
        "EV183",
        "The model does not return logits.",
        why=f"For an image [1, 3, H, W] it returned {shape} instead of a tensor [1, classes].",
        try_next="Wrap it in a module whose forward returns the logits, or float tensors [1, ...].",
    )


def _is_output(value: Any) -> bool:
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return bool(is_float and value.ndim > 0 and value.shape[0] == 1)


def weights_sha256(model: nn.Module) -> str:
    """Hash the names and bytes of the state dict, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)  # [elements]
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
