"""The named outputs of a model and of its graph.

A classifier has one, "logits" [B, classes]. Any other model has one for every float tensor that it
returns with the batch in front; what else it returns is left out, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edgevit.data.tasks import LOGITS, MAX_OUTPUTS, MAX_RANK
from edgevit.errors import UnsupportedError
from edgevit.graph.operators import ALLOWED
from edgevit.graph.shapes import args_of
from edgevit.zoo.outputs import named_values

ALL = "all"
Asked = str | Sequence[str] | None
"""Names of outputs; "all"; or None: the logits where there are some [B, classes], else all."""


def output_nodes(module: GraphModule) -> tuple[Node, ...]:
    """Return the nodes whose values the graph gives back, in the order of its outputs."""
    given: Any = args_of(module.graph.output_node())[0]
    return tuple(given) if isinstance(given, tuple | list) else (given,)


def keep_outputs(module: GraphModule, kept: Sequence[int]) -> None:
    """Let the graph give back these of its outputs alone; others are left to dead code."""
    nodes = output_nodes(module)
    found = tuple(nodes[at] for at in kept)
    module.graph.output_node().args = (found[0] if len(found) == 1 else found,)


@dataclass(kw_only=True)
class Selection:
    """The choice of outputs among the values that a model returns, made while it is captured.

    Args:
        asked: What the caller wants.
        keys: Name of each value that is an output, as `named_values` gives it; the one key None
            stands for the logits of a classifier.
        notes: What is left out and why, in sentences.
    """

    asked: Asked = None
    keys: tuple[str | None, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs' names, each once, which no tensor inside the graph has."""
        found: list[str] = []
        for key in self.keys:
            name = LOGITS if key is None else _free(key)
            found.append(f"{name}_again" if name in found else name)
        return tuple(found)

    def decide(self, returned: Any, image: Tensor) -> None:
        """Choose among what the model returned while its batch was symbolic.

        Raises:
            UnsupportedError: None of it is an output (EV302), or not what was asked for (EV350).
        """
        self.notes = []
        if self.asked is None and logits_of(returned) is not None:
            self.keys = (None,)
            return
        values, faults = named_values(returned), {}
        for name, value in values.items():
            faults[name] = _fault(value, image)
        wanted = [*values] if self.asked in (None, ALL) else _listed(self.asked)
        refused = {name: faults.get(name, "is not returned") for name in wanted}
        if self.asked not in (None, ALL) and any(refused.values()):
            raise _not_there(values, refused)
        self.keys = tuple(name for name in wanted if not refused[name])
        if not self.keys:
            raise _no_output(refused)
        if len(self.keys) > MAX_OUTPUTS:
            raise _no_output({f"{len(self.keys)} tensors": f"are more than {MAX_OUTPUTS}"})
        left = {name: why for name, why in faults.items() if why and why != "is None"}
        self.notes = [
            f"the model's output {name} was left out: it {why}" for name, why in left.items()
        ]

    def taken(self, returned: Any) -> tuple[Tensor, ...]:
        """Return the tensors that are outputs, in order."""
        if self.keys == (None,):
            return (required_logits(returned),)
        values = named_values(returned)
        return tuple(values[str(key)] for key in self.keys)

    def drop(self, at: Sequence[int], why: str) -> None:
        """Leave out outputs of which the graph shows that they are none.

        Raises:
            UnsupportedError: No output remains (EV302).
        """
        names = self.names
        self.keys = tuple(key for index, key in enumerate(self.keys) if index not in at)
        self.notes += [f"the model's output {names[index]} was left out: it {why}" for index in at]
        if not self.keys:
            raise _no_output({names[index]: why for index in at})


class Outputs(nn.Module):
    """Calls the model and takes the outputs out of whatever it returns."""

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        super().__init__()
        self.model = model
        self.selection = selection

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output, or a tuple of several, of images [B, 3, H, W]."""
        returned = self.model(image)
        if not self.selection.keys:
            self.selection.decide(returned, image)
        taken = self.selection.taken(returned)
        return taken[0] if len(taken) == 1 else taken


def logits_of(returned: Any) -> Tensor | None:
    """Return the logits [B, classes] that a classifier returned, first or by name; else None."""
    if hasattr(returned, LOGITS):
        returned = returned.logits
    elif isinstance(returned, dict):
        returned = returned.get(LOGITS)
    elif isinstance(returned, tuple | list) and returned:
        returned = returned[0]
    if not isinstance(returned, Tensor) or returned.ndim != 2 or returned.shape[1] == 0:
        return None
    return returned


def required_logits(returned: Any) -> Tensor:
    """Return the logits of a model that was captured with some; TypeError if there are none."""
    logits = logits_of(returned)
    if logits is None:
        raise TypeError("a classifier that returns logits at one batch size only")
    return logits


def _listed(asked: Asked) -> list[str]:
    return [asked] if isinstance(asked, str) else list(dict.fromkeys(asked or ()))


def _fault(value: Any, image: Tensor) -> str:
    """Return why a value is no output, "" if it is one."""
    if value is None:
        return "is None"
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}"
    if not value.is_floating_point():
        return f"is {str(value.dtype).removeprefix('torch.')}, not float"
    if value.ndim > MAX_RANK:
        return f"has {value.ndim} dimensions, more than {MAX_RANK}"
    if value.ndim == 0 or not _is_batch(value.shape[0], image.shape[0]):
        return f"has no batch in front: {[str(size) for size in value.shape]}"
    if 0 in value.shape[1:]:
        return f"has no elements: {[str(size) for size in value.shape]}"
    return ""


def _is_batch(size: Any, batch: Any) -> bool:
    """Return whether a dimension is the batch, not a number or a multiple of it."""
    if isinstance(size, torch.SymInt) and isinstance(batch, torch.SymInt):
        return bool(size.node.expr == batch.node.expr)
    return type(size) is type(batch) and bool(size == batch)


_INSIDE = {"image"} | {str(each._schema.name).rpartition("::")[2] for each in ALLOWED}
"""What names of tensors inside a graph begin with: the image's, and those of operators."""


def _free(name: str) -> str:
    """Return a name that no tensor inside the graph can have."""
    inside = name in _INSIDE or any(name.startswith(f"{each}_") for each in _INSIDE)
    return f"output_{name}" if inside else name


def _no_output(faults: dict[str, str]) -> UnsupportedError:
    shown = "; ".join(f"{name} {why}" for name, why in list(faults.items())[:8])
    return UnsupportedError(
        "EV302",
        "The model returns no output that can be compared.",
        where="what the model returns",
        why=f"{shown or 'It returns nothing'}.",
        try_next="Let it return logits [batch, classes], or float tensors whose first dimension "
        "is the batch: alone, in a tuple, or in a dict.",
    )


def _not_there(values: dict[str, Any], refused: dict[str, str]) -> UnsupportedError:
    shown = "; ".join(f"{name} {why}" for name, why in refused.items() if why)
    return UnsupportedError(
        "EV350",
        "The model does not have the outputs that were asked for.",
        where="outputs",
        why=f"{shown}.",
        try_next=f"It returns {', '.join(values) or 'nothing'}.",
    )
