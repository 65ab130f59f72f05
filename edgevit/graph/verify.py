"""Proves a canonical graph: only allowed operators, and the same outputs as the model.

The comparison runs the real model and the graph on the same random images.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from edgevit.errors import UnsupportedError
from edgevit.graph.model import Graph
from edgevit.graph.operators import ALLOWED
from edgevit.graph.shapes import batch_error, shape_of

BATCHES = (1, 7)
TOLERANCE = 1e-4
"""Largest difference of an element of an output, relative to the largest element."""


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Return max |found - wanted| / max |wanted|."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


def check_against(graph: Graph, model: Callable[[Tensor], Tensor | tuple[Tensor, ...]]) -> float:
    """Return the largest relative error of the graph's outputs at batches 1 and 7.

    Raises:
        UnsupportedError: It is above `TOLERANCE`, or the graph doesn't run (EV305); or the model's
            own outputs are not finite (EV309).
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in BATCHES:
        image = torch.randn(batch, *graph.input_size, generator=generator)  # [B, 3, H, W]
        returned = model(image)
        wanted = (returned,) if isinstance(returned, Tensor) else returned
        for name, value in zip(graph.outputs, wanted, strict=True):
            if not bool(value.isfinite().all()):
                raise _not_finite(name, batch)
        try:
            found = graph.forward_all(image)
        except RuntimeError as cause:
            raise _mismatch(f"At batch {batch} it doesn't run: {cause}") from cause
        for (name, value), own in zip(found.items(), wanted, strict=True):
            worst = max(worst, _error(name, value, own, batch))
    _check_apart(graph, image, found)
    return worst


def _check_apart(graph: Graph, images: Tensor, together: dict[str, Tensor]) -> None:
    """Refuse a graph in which an image's outputs depend on the others of its batch.

    Raises:
        UnsupportedError: They do; names the first operator that mixes them (EV303).
    """
    alone = graph.forward_all(images[:1])
    if all(relative_error(together[name][:1], alone[name]) <= TOLERANCE for name in alone):
        return
    one, many = (_Values(graph.module).of(batch) for batch in (images[:1], images))
    for node, value in one.items():
        is_image = shape_of(node)[:1] == (-1,)
        if is_image and relative_error(many[node][:1], value) > TOLERANCE:
            raise batch_error(node, "what it gives for an image depends on the other images")
    raise batch_error(node, "its batch is no longer one of images")


class _Values(Interpreter):
    """Keeps the value of every operator of a graph."""

    def of(self, images: Tensor) -> dict[Node, Tensor]:
        """Return node -> float value, in order of execution."""
        self.kept: dict[Node, Tensor] = {}
        with torch.no_grad():
            self.run(images)
        return self.kept

    def run_node(self, n: Node) -> object:
        """Run a node."""
        value: object = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point():
            self.kept[n] = value
        return value


def _error(name: str, found: Tensor, wanted: Tensor, batch: int) -> float:
    if found.shape != wanted.shape:
        raise _mismatch(f"{name} {tuple(found.shape)} instead of {tuple(wanted.shape)}.")
    error = relative_error(found, wanted)
    if not error <= TOLERANCE:
        raise _mismatch(f"Relative error of {name} {error:.2e} at batch {batch}.")
    return error


def _not_finite(name: str, batch: int) -> UnsupportedError:
    return UnsupportedError(
        "EV309",
        f"The model's {name} are not finite numbers.",
        where="model",
        why=f"At batch {batch} of random images it returns NaN or infinity; its weights may be "
        "damaged, or made for another architecture.",
        try_next="Check the checkpoint (--weights FILE), or run the model on an image by itself.",
    )


def _mismatch(why: str) -> UnsupportedError:
    return UnsupportedError(
        "EV305",
        "The canonical graph and the model compute different outputs.",
        where="graph capture",
        why=why,
        try_next="Report the model's name: this is a defect of a graph pass.",
    )


def check_operators(module: GraphModule) -> None:
    """Raise unless every operator has a canonical form.

    Raises:
        UnsupportedError: Names the module and the operator (EV304).
    """
    for node in module.graph.nodes:
        if node.op in {"placeholder", "get_attr", "output"}:
            continue
        if "size" in node.meta:
            raise batch_error(next(iter(node.users)), f"it needs the number {node.target}")
        if node.op != "call_function" or node.target not in ALLOWED:
            raise _no_form(node)


def _no_form(node: Node) -> UnsupportedError:
    return UnsupportedError(
        "EV304",
        f"The operator {node.target} has no canonical form.",
        where=node.meta.get("module") or "model",
        why="No pass rewrites it and no target runs it.",
        try_next="Replace the module by an equivalent one made of linear, matmul, softmax, "
        "normalisation, activation and layout operators.",
    )
