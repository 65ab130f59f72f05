"""Copies graphs, grids and layers to the device on which training runs.

Calibration itself stays on the CPU. Training takes a GPU if torch has one: it needs the layers of
one part there at a time, and images in batches.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from edgevit.graph.layernorm import LayerNormFeed
from edgevit.graph.model import Graph
from edgevit.graph.parts import Part
from edgevit.quantizers.quantized_graph import QuantizedGraph

T = TypeVar("T")


def default_device() -> torch.device:
    """Return the first GPU that torch can use, the CPU without one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def move_to_device(value: T, device: torch.device, known: dict[int, Any] | None = None) -> T:
    """Return a tensor, or a dataclass such as a grid or layer, with every tensor on `device`.

    What is there already is returned as it is.

    Args:
        known: id of what was moved before -> its copy; values that shared a part share its copy.
    """
    known = {} if known is None else known
    if id(value) in known:
        return known[id(value)]  # type: ignore[no-any-return]
    copy: Any = value
    if isinstance(value, Tensor):
        copy = value.to(device)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
        new = {name: move_to_device(part, device, known) for name, part in parts.items()}
        if any(new[name] is not part for name, part in parts.items()):
            copy = replace(value, **new)
    known[id(value)] = copy
    return copy  # type: ignore[no-any-return]


def device_of(graph: Graph) -> torch.device:
    """Return where the constants of a graph are."""
    return next(buffer.device for buffer in graph.module.buffers())


def graph_on(graph: Graph, device: torch.device) -> Graph:
    """Return the graph itself if its constants are on `device`, else a copy whose are."""
    if device_of(graph) == device:
        return graph
    copy = graph.clone()
    for name, buffer in list(copy.module.named_buffers()):
        setattr(copy.module, name, buffer.to(device))
    return copy


class Workbench:
    """A quantized graph on the CPU, and a copy of its float graph on the device that trains.

    Where that is the CPU as well there is no copy, and taking and putting back do nothing.

    Args:
        quantized: The quantized graph, rewritten for good.
        device: Where parts are run and trained.
    """

    def __init__(self, quantized: QuantizedGraph, device: torch.device) -> None:
        self.quantized = quantized
        self.graph = graph_on(quantized.graph, device)
        self._home = device_of(quantized.graph)

    def taken(self, part: Part, feeds: tuple[LayerNormFeed, ...]) -> QuantizedGraph:
        """Return the quantized graph on the device, of its layers those of one part.

        Args:
            feeds: LayerNorms of the part whose affines may have changed.
        """
        if self.graph is self.quantized.graph:
            return self.quantized
        for feed in feeds:
            for name in (feed.weight, feed.bias):
                self.graph.set_constant(name, self.quantized.graph.constant(name))
        known: dict[int, Any] = {}
        device, found = device_of(self.graph), self.quantized.layers
        layers = {n: move_to_device(found[n], device, known) for n in part.gemms if n in found}
        return replace(self.quantized, graph=self.graph, layers=layers)

    def put_back(self, taken: QuantizedGraph, constants: tuple[str, ...]) -> None:
        """Bring layers, and constants of the graph by name, back from the device."""
        if taken is self.quantized:
            return
        known: dict[int, Any] = {}
        for name, layer in taken.layers.items():
            self.quantized.layers[name] = move_to_device(layer, self._home, known)
        for name in constants:
            self.quantized.graph.set_constant(name, self.graph.constant(name))
