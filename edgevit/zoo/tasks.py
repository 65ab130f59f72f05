"""The outputs of each task: which of the tensors that a model returns its task is about.

A task is told from the model where that is plain, else asked for; an error names those that fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from edgevit.data.tasks import DETECT, FEATURES, TASKS, WANTED, Wanted
from edgevit.errors import UsageError

_FEATURES = ("feature_maps", "predicted_depth", "last_hidden_state")
"""What a model of transformers calls its features, the most particular first."""


class TaskOutputs(nn.Module):
    """Calls a model and returns the outputs of its task by name.

    Args:
        model: Float32 [B, 3, H, W] -> tensor, tuple, dict or an output of transformers.
        task: One of `TASKS`.
        class_token: Embed with the first token where the model has no pooled output.
    """

    def __init__(self, model: nn.Module, task: str, *, class_token: bool = False) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.class_token = class_token

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return name -> float tensor [B, ...] of images float32 [B, 3, H, W]."""
        returned = self.model(image)
        if self.class_token:
            return {"embedding": returned.last_hidden_state[:, 0]}  # [B, D]
        return task_outputs(returned, self.task)


def task_outputs(returned: Any, task: str) -> dict[str, Tensor]:
    """Return those of the tensors a model returned that its task is about, under our names.

    Raises:
        UsageError: They are not there, or have another number of dimensions (EV234).
    """
    values = _by_name(returned)
    if task == FEATURES:
        return _features(values)
    found = {}
    for wanted in WANTED[task]:
        tensor = _found(values, wanted)
        if tensor is None:
            why = f"It returned {_shown(values)}; wanted is {_all_shapes(task)}."
            raise _unfit(task, why, fitting=(FEATURES,))
        found[wanted.name] = tensor
    if task == DETECT and found["boxes"].shape[1:] != (found["logits"].shape[1], 4):
        shapes = {name: list(tensor.shape) for name, tensor in found.items()}
        raise _unfit(task, f"{shapes} are not four numbers a box.", fitting=(FEATURES,))
    return found


def choose_task(asked: str | None, fitting: Sequence[str], name: str) -> str:
    """Return the task asked for, or the only one that fits.

    Args:
        asked: One of `TASKS`, or None.
        fitting: Tasks that the model is for; one alone is plain.
        name: The model's, for errors.

    Raises:
        UsageError: There is no such task, or the model is for others (EV234), or several fit and
            none was asked for (EV233).
    """
    if asked is not None:
        if check_task(asked) not in fitting:
            why = f"It has no head for that; what fits is {', '.join(fitting) or 'nothing'}."
            raise _unfit(asked, why, where=name, fitting=fitting)
        return asked
    if len(fitting) == 1:
        return fitting[0]
    raise UsageError(
        "EV233",
        "The model can be used for more than one task.",
        where=name,
        why=f"It has no head that would say so; what fits is {', '.join(fitting)}.",
        try_next=" or ".join(f"--task {task}" for task in fitting),
    )


def check_task(task: str) -> str:
    """Return the task if there is one called so.

    Raises:
        UsageError: There is none (EV234).
    """
    if task not in TASKS:
        raise _unfit(task, "There is no such task.")
    return task


def _by_name(returned: Any) -> dict[str, Any]:
    if isinstance(returned, Tensor):
        return {"": returned}
    if isinstance(returned, Mapping):
        return {str(key): value for key, value in returned.items()}
    if isinstance(returned, tuple | list):
        return {str(index): value for index, value in enumerate(returned)}
    return {}


def _found(values: Mapping[str, Any], wanted: Wanted) -> Tensor | None:
    """Return the output of this name, or of the right rank where it is the only tensor."""
    named = [values[key] for key in wanted.keys if isinstance(values.get(key), Tensor)]
    for tensor in named or [values.get("")]:
        if not isinstance(tensor, Tensor):
            continue
        if wanted.rank == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            return tensor.flatten(1)  # [B, D]
        if tensor.ndim == wanted.rank:
            return tensor
    return None


def _features(values: Mapping[str, Any]) -> dict[str, Tensor]:
    key = next((key for key in _FEATURES if values.get(key) is not None), None)
    if key == "feature_maps":
        return {f"stage{index}": one for index, one in enumerate(values[key], 1)}
    if key is not None:
        return {{"predicted_depth": "depth"}.get(key, "features"): values[key]}
    tensors = {k: v for k, v in values.items() if isinstance(v, Tensor) and v.is_floating_point()}
    if not tensors:
        raise _unfit(FEATURES, f"It returned {_shown(values)}; wanted are float tensors.")
    return {_feature_name(name): tensor for name, tensor in tensors.items()}


def _feature_name(name: str) -> str:
    if not name:
        return "features"
    return f"stage{int(name) + 1}" if name.isdigit() else name


def _shown(values: Mapping[str, Any]) -> str:
    shapes = {
        name: list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        for name, value in values.items()
        if value is not None
    }
    return ", ".join(f"{name} {shape}".strip() for name, shape in shapes.items()) or "nothing"


def _all_shapes(task: str) -> str:
    return " and ".join(f"{wanted.name} {wanted.shape}" for wanted in WANTED[task])


def _unfit(
    task: str, why: str, *, where: str = "--task", fitting: Sequence[str] = TASKS
) -> UsageError:
    return UsageError(
        "EV234",
        f"The task {task!r} does not fit the model.",
        where=where,
        why=why,
        try_next=" or ".join(f"--task {each}" for each in fitting) or "Give another model.",
    )
