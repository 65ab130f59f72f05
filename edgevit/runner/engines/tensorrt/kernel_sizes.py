"""Says how many elements each tensor of an engine has per image, where the engine says -1.

An engine compiled for any batch writes -1 for all that follows the batch: images, images x tokens,
images x heads. The number behind it is worked out kernel by kernel: a tensor that enters was made
by an earlier kernel, and one that leaves is a value of the ONNX nodes that became the kernel, whose
size is known. Nothing is guessed: what does not come out even is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Iterable, Sequence

from edgevit.bundle.graph_values import GraphValues
from edgevit.errors import DeviceError
from edgevit.runner.engines.tensorrt.inspecting import EngineLayer, LayerOperand
from edgevit.runner.measure.blocks import plain_name


@dataclass(frozen=True)
class SizedKernel:
    """A kernel with the number that each -1 stands for at one image.

    Args:
        layer: The kernel.
        inputs: One number for each of `layer.inputs`; 0 where its size does not follow the batch.
        outputs: The same for `layer.outputs`.
    """

    layer: EngineLayer
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def at(self, batch: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Return the shapes of inputs and outputs at a batch size."""
        sides = (self.layer.inputs, self.inputs), (self.layer.outputs, self.outputs)
        found = [[_at(one, factor, batch) for one, factor in zip(*side)] for side in sides]
        return found[0], found[1]


def sized_kernels(layers: Iterable[EngineLayer], values: GraphValues) -> list[SizedKernel]:
    """Return the kernels with their sizes.

    Args:
        layers: All kernels of the engine in the order in which they run.
        values: Of the graph that was compiled.

    Raises:
        DeviceError: Kernels and graph don't fit together (EV851).
    """
    reader = _Reader(values)
    return [reader.sized(layer) for layer in layers]


def rest(operand: LayerOperand) -> int:
    """Return the elements of a tensor for each unit of its -1; all of them where it has none."""
    return prod(size for size in operand.shape if size != -1)


def follows_batch(operand: LayerOperand) -> bool:
    """Return whether a tensor grows with the batch."""
    return -1 in operand.shape


def weight_matrices(layer: EngineLayer) -> list[tuple[int, int]]:
    """Return (rows, columns) of the weights that a product multiplies with."""
    depths = {one.shape[-1] for one in layer.inputs if follows_batch(one)}
    found = []
    for one in (*layer.constants, *layer.inputs):
        sizes = [size for size in one.shape if size != 1]
        if not follows_batch(one) and len(sizes) == 2 and sizes[0] in depths:
            found.append((sizes[0], sizes[1]))
    return found if layer.holds_product and not layer.is_attention else []


@dataclass
class _Reader:
    values: GraphValues
    made: dict[str, tuple[LayerOperand, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = {plain_name(node): node for node in self.values.reads}
        self.readers: dict[str, set[str]] = {}
        for node, reads in self.values.reads.items():
            for name in reads:
                self.readers.setdefault(name, set()).add(node)

    def sized(self, layer: EngineLayer) -> SizedKernel:
        named = [plain_name(node) for node in layer.onnx_nodes]
        nodes = [self.nodes[name] for name in named if name in self.nodes]
        inputs = tuple(self._entering(one, layer, nodes) for one in layer.inputs)
        # sums over a last axis are no ONNX values: they follow what else leaves the kernel
        order = sorted(
            range(len(layer.outputs)), key=lambda at: layer.outputs[at].shape[-1:] == (1,)
        )
        found: dict[int, int] = {}
        for at in order:
            beside = [(layer.outputs[i], found[i]) for i in found]
            around = [*beside, *zip(layer.inputs, inputs)]
            found[at] = self._leaving(layer.outputs[at], layer, nodes, around)
        outputs = tuple(found[at] for at in range(len(layer.outputs)))
        self.made.update({one.name: (one, n) for one, n in zip(layer.outputs, outputs)})
        return SizedKernel(layer, inputs, outputs)

    def _entering(self, one: LayerOperand, layer: EngineLayer, nodes: Sequence[str]) -> int:
        if not follows_batch(one):
            return 0
        if one.name not in self.made:
            total = self.values.per_image.get(one.name, 0)
            return _whole(total, one, layer)
        before, factor = self.made[one.name]
        total = factor * rest(before)
        known = self._sizes(nodes)
        is_part = len(one.shape) == len(before.shape) == 2 and one.shape[1] < before.shape[1]
        if is_part and total not in known and factor * one.shape[1] in known:
            return factor  # some columns of what several products wrote side by side
        return _whole(total, one, layer)

    def _leaving(
        self,
        one: LayerOperand,
        layer: EngineLayer,
        nodes: Sequence[str],
        around: Sequence[tuple[LayerOperand, int]],
    ) -> int:
        if not follows_batch(one):
            return 0
        alike = [
            factor for other, factor in around if other.shape[:-1] == one.shape[:-1] and factor
        ]
        if layer.kind == "gemm" and (rows := _rows(one, layer, around)):
            return rows  # several products side by side are no ONNX value
        if one.shape[-1] == 1 and alike:
            return alike[0]
        for sizes in (self._leaving_sizes(nodes), self._sizes(nodes)):
            factors = [size // rest(one) for size in sizes if size and size % rest(one) == 0]
            shared = [factor for factor in factors if factor in alike]
            if factors:
                return shared[0] if shared else factors[-1]
        same = [factor for other, factor in around if other.shape == one.shape and factor]
        if rows := _rows(one, layer, around) or next(iter(same), 0):
            return rows  # an operation on each element of several products side by side
        raise _no_fit(layer, f"no ONNX value of it has the size of {list(one.shape)}")

    def _sizes(self, nodes: Iterable[str]) -> list[int]:
        """Return elements per image of all that the nodes read and write."""
        names = [name for node in nodes for name in (*self.values.reads[node], node)]
        return [self.values.per_image[name] for name in names if name in self.values.per_image]

    def _leaving_sizes(self, nodes: Sequence[str]) -> list[int]:
        """Return elements per image of what the nodes write for others, in execution order."""
        inside = set(nodes)
        order = [node for node in self.values.reads if node in inside]
        leaving = [
            node
            for node in order
            if node in self.values.outputs or self.readers.get(node, set()) - inside
        ]
        return [self.values.per_image[node] for node in leaving if node in self.values.per_image]


def _rows(one: LayerOperand, layer: EngineLayer, around: Sequence[tuple[LayerOperand, int]]) -> int:
    """Return the rows of a matrix that a product with weights writes; 0 if it is no such one."""
    depths = [depth for depth, columns in weight_matrices(layer) if columns == one.shape[-1]]
    found = [n for other, n in around if n and len(other.shape) == 2 and other.shape[1] in depths]
    return found[0] if found and len(one.shape) == 2 else 0


def _whole(total: int, one: LayerOperand, layer: EngineLayer) -> int:
    if total <= 0 or total % rest(one):
        raise _no_fit(layer, f"{total} elements an image are not {list(one.shape)}")
    return total // rest(one)


def _at(one: LayerOperand, factor: int, batch: int) -> tuple[int, ...]:
    return tuple(factor * batch if size == -1 else size for size in one.shape)


def _no_fit(layer: EngineLayer, why: str) -> DeviceError:
    return DeviceError(
        "EV851",
        "The sizes in a kernel can't be told from the bundle's graph.",
        where=layer.name[:120],
        why=why,
        try_next="Quantize again with this version, whose graphs are compiled to other kernels; if"
        " the kernels may be of another graph, `edgevit build BUNDLE` makes them anew.",
    )
