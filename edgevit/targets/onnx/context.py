"""The state of one lowering, and what every emitter of an operator reads its arguments with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, fx

from edgevit.errors import UnsupportedError
from edgevit.graph.model import Gemm, Graph
from edgevit.graph.shapes import Shape
from edgevit.targets.onnx.builder import OnnxBuilder

LAST = (1 << 31) - 1
"""An end no axis reaches; TensorRT refuses larger numbers."""


@dataclass(kw_only=True)
class Lowering:
    """The state of one lowering.

    Args:
        graph: What is lowered.
        builder: Where nodes and constants go.
        shapes: fx node name -> shape, -1 for the dimension that follows the batch.
    """

    graph: Graph
    builder: OnnxBuilder
    shapes: dict[str, Shape]
    gemms: dict[str, Gemm] = field(default_factory=dict)
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    flats: dict[str, str] = field(default_factory=dict)
    unshaped: set[str] = field(default_factory=set)

    def operand(self, value: Any) -> str:
        """Return the ONNX name of an operand: a node's output, or a scalar constant."""
        if isinstance(value, fx.Node):
            if value.op == "get_attr":
                tensor = self.graph.constant(str(value.target))
                return self.builder.constant(str(value.target), array_of(tensor))
            if value.name in self.unshaped:
                self.unshaped.remove(value.name)
                shape = self.integers("shape", list(self.shapes[value.name]))
                self.builder.add("Reshape", [self.flats[value.name], shape], value.name)
            return value.name
        scalar = np.float32(value)
        return self.builder.constant(f"scalar_{float(value)!r}", scalar)

    def integers(self, stem: str, values: list[int]) -> str:
        """Return the name of an int64 constant [len(values)]."""
        return self.builder.constant(
            f"{stem}_{'_'.join(map(str, values))}", np.array(values, np.int64)
        )

    def flat(self, value: fx.Node) -> str:
        """Return the name of a node's output viewed as [tokens, channels]; made once."""
        if len(self.shapes[value.name]) == 2:
            return self.operand(value)
        if value.name not in self.flats:
            shape = self.integers("shape", [-1, self.shapes[value.name][-1]])
            flat = self.builder.add("Reshape", [self.operand(value), shape], f"{value.name}_2d")
            self.flats[value.name] = flat
        return self.flats[value.name]

    def flat_output(self, name: str) -> str:
        """Return the name under which a node's output is written as [tokens, channels].

        Its own shape is made only when something asks for it.
        """
        if len(self.shapes[name]) == 2:
            return name
        self.flats[name] = f"{name}_2d"
        self.unshaped.add(name)
        return self.flats[name]

    def rank(self, node: fx.Node) -> int:
        """Return the number of dimensions of a node's output."""
        return len(self.shapes[node.name])


def array_of(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a contiguous numpy copy of a constant."""
    array: np.ndarray[Any, Any] = tensor.detach().contiguous().numpy().copy()
    return array


def no_form(node: fx.Node, form: str, try_next: str) -> UnsupportedError:
    """Return the error for an operator whose arguments ask for more than is written (EV313)."""
    return UnsupportedError(
        "EV313",
        f"{node.target} with {form} has no ONNX form here.",
        where=str(node.meta.get("module") or node.name),
        why="Only the plain form is written.",
        try_next=try_next,
    )


Emitter = Callable[[Lowering, fx.Node], None]
"""Writes one operator; its output carries the fx node's name."""
