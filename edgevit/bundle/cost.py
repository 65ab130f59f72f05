"""Counts a graph's cost before an engine gets to see it: memory of activations, and work.

Shapes are inferred for any number of images (`edgevit.bundle.shape_rules`). Memory is the largest
sum of what is alive at once, in whichever of three orders of the nodes it is largest: as written,
and depth first from the outputs with the inputs of a node taken from either end, which is how
engines order them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgevit.bundle.graph import Node, OnnxGraph
from edgevit.bundle.operators import ELEMENT_BYTES, HALF, OPERATORS
from edgevit.bundle.outputs import Output
from edgevit.bundle.shape_rules import Impossible, NodeReading, Value, count
from edgevit.data.tasks import LOGITS
from edgevit.errors import BundleError

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Amount:
    """Something that grows with the number of images."""

    fixed: int = 0
    per_image: int = 0

    def at(self, images: int) -> int:
        """Return how much it is for so many images."""
        return self.fixed + images * self.per_image


_NOTHING = Amount()


@dataclass(frozen=True)
class Cost:
    """The memory and the work that running a graph takes.

    Args:
        activation_bytes: Memory of the tensors that are alive at once, without weights.
        multiply_adds: Work; an element that another operator writes counts as
            `edgevit.bundle.shape_rules.ELEMENT_COST` of them.
    """

    activation_bytes: Amount
    multiply_adds: Amount


@dataclass(frozen=True)
class _Step:
    """A node with what it needs: names it reads, and bytes of its output and workspace."""

    reads: tuple[str, ...]
    output: str
    output_bytes: Amount
    workspace_bytes: Amount
    is_constant: bool


def cost_of(
    graph: OnnxGraph,
    tensors: Mapping[str, Value],
    *,
    model_bytes: int,
    input_size: tuple[int, ...],
    outputs: Sequence[Output],
    where: str,
) -> Cost:
    """Return what a graph costs.

    Args:
        graph: The graph.
        tensors: The tensors that are kept outside it.
        model_bytes: What its weights may take once an engine has made float32 of them; what else
            it computes from constants counts as activations.
        input_size: (3, H, W) that its image has to have.
        outputs: What it has to give back, in this order; the memory of those of a model that is no
            classifier is counted twice, as it is copied out of the engine.
        where: The file's name, for errors.

    Raises:
        BundleError: Shapes do not fit, or depend on more than the number of images (EV419).
    """
    image, shape = graph.image
    if shape != (-1, *input_size):
        raise _no_shape(where, f"an image that is not [images, {', '.join(map(str, input_size))}]")
    values = inputs_of(graph, tensors, where)
    steps, works = [], []
    for node in graph.nodes:
        step, work = add_output(node, values, where)
        steps.append(step)
        works.append(work)
    for name, wanted in zip(graph.outputs, outputs):
        _check_output(name, wanted, graph, values, where)
    if tuple(graph.outputs) != tuple(one.name for one in outputs):
        raise _no_shape(where, f"other outputs than {', '.join(one.name for one in outputs)[:200]}")
    copied = 0 if _is_logits(outputs) else sum(one.image_bytes for one in outputs)
    memory = _memory(steps, _bytes_of(values[image]), graph, model_bytes)
    fixed, per_image = (sum(max(sign * work, 0) for work in works) for sign in (1, -1))
    return Cost(
        activation_bytes=Amount(memory.fixed, memory.per_image + copied),
        multiply_adds=Amount(fixed, per_image),
    )


def _is_logits(outputs: Sequence[Output]) -> bool:
    return len(outputs) == 1 and outputs[0].name == LOGITS and len(outputs[0].shape) == 1


def _check_output(
    name: str, wanted: Output, graph: OnnxGraph, values: Mapping[str, Value], where: str
) -> None:
    """Refuse an output that no node writes, or of another shape than the manifest says."""
    shape, found = (-1, *wanted.shape), values.get(name)
    sizes = f"[{', '.join(['images', *map(str, wanted.shape)])}]"
    written = any(node.output == name for node in graph.nodes)
    if found is None or not written or found.shape != shape or found.dtype != "float32":
        raise _no_shape(where, f"{wanted.name} that are not {sizes}")
    declared = graph.outputs[name]
    fits = len(declared) == len(shape) and declared[0] == -1
    if not fits or any(said not in (-1, size) for said, size in zip(declared, shape)):
        raise _no_shape(where, f"{wanted.name} declared as {list(declared)}, not {sizes}")


def inputs_of(graph: OnnxGraph, tensors: Mapping[str, Value], where: str) -> dict[str, Value]:
    """Return what is known of the image and the constants of a graph, by name; errors as above."""
    image, shape = graph.image
    values: dict[str, Value] = {image: Value(shape, "float32")}
    for name, constant in graph.constants.items():
        values[name] = Value(
            constant.shape, constant.dtype, constant.integers, constant.floats, is_constant=True
        )
    values.update(tensors)
    if len(values) != len(graph.constants) + len(tensors) + 1:
        raise _no_shape(where, "a name that two tensors have")
    for name, value in values.items():
        try:
            count(value.shape)
        except Impossible as error:
            raise _no_shape(where, f"a constant {name} of {error}") from error
    return values


def add_output(node: Node, values: dict[str, Value], where: str) -> tuple[_Step, int]:
    """Note what is known of a node's output; return the node as a step, and its work."""
    missing = [name for name in node.inputs if name and name not in values]
    if missing or node.output in values:
        which = missing[0] if missing else node.output
        raise _no_shape(where, f"a tensor {which!r} that is not written once before it is read")
    read = tuple(values[name] if name else None for name in node.inputs)
    try:
        found = OPERATORS[node.op].rule(NodeReading(read, node.attributes))
        is_constant = all(value is None or value.is_constant for value in read)
        made = Value(found.shape, found.dtype, is_constant=is_constant)
        output_bytes = _bytes_of(made)
    except Impossible as error:
        raise _no_shape(
            where, f"a {node.op}, {node.output}, of the wrong shape: {error}"
        ) from error
    values[node.output] = made
    reads = tuple(name for name in node.inputs if name)
    workspace = _workspace([value for value in (*read, made) if value], found.workspace_bytes)
    return _Step(reads, node.output, output_bytes, workspace, is_constant), found.work


def _workspace(values: Sequence[Value], own_bytes: int) -> Amount:
    """Return what a CPU needs beside the tensors: it computes halves in float32 copies of them."""
    halves = [count(value.shape) for value in values if value.dtype == HALF]
    if not halves and not own_bytes:
        return _NOTHING
    copies = Amount(
        fixed=_FLOAT_BYTES * sum(max(elements, 0) for elements in halves),
        per_image=_FLOAT_BYTES * sum(max(-elements, 0) for elements in halves),
    )
    return Amount(copies.fixed + max(own_bytes, 0), copies.per_image + max(-own_bytes, 0))


def _bytes_of(value: Value) -> Amount:
    elements, size = count(value.shape), ELEMENT_BYTES[value.dtype]
    return Amount(per_image=-elements * size) if elements < 0 else Amount(fixed=elements * size)


def _memory(steps: Sequence[_Step], image: Amount, graph: OnnxGraph, model_bytes: int) -> Amount:
    """Return the larger of the memory of each order; fixed and per image on their own.

    What is computed from constants alone an engine may compute once and keep.
    """
    constant = sum(step.output_bytes.fixed for step in steps if step.is_constant)
    counted = [step for step in steps if not step.is_constant]
    peaks = [
        _peak([counted[index] for index in order], image, graph)
        for order in (range(len(counted)), *_depth_first(counted))
    ]
    fixed = max(peak.fixed for peak in peaks) + max(0, constant - model_bytes)
    return Amount(fixed, max(peak.per_image for peak in peaks))


def _depth_first(steps: Sequence[_Step]) -> Iterable[list[int]]:
    """Yield the orders in which a node comes right behind all that it needs."""
    writers = {step.output: index for index, step in enumerate(steps)}
    for direction in (1, -1):
        order: list[int] = []
        seen: set[int] = set()
        stack = [(index, False) for index in range(len(steps))]
        while stack:
            index, is_ready = stack.pop()
            if is_ready:
                order.append(index)
            elif index not in seen:
                seen.add(index)
                stack.append((index, True))
                needed = [writers[name] for name in steps[index].reads if name in writers]
                stack.extend((before, False) for before in needed[::direction])
        yield order


def _peak(steps: Sequence[_Step], image: Amount, graph: OnnxGraph) -> Amount:
    """Return the largest memory of one order: fixed and per image, each at its own worst."""
    last = {name: index for index, step in enumerate(steps) for name in step.reads}
    last.update(dict.fromkeys(graph.outputs, len(steps)))
    alive = {graph.image[0]: image}
    fixed, per_image = image.fixed, image.per_image
    most_fixed, most_per_image = fixed, per_image
    for index, step in enumerate(steps):
        alive[step.output] = step.output_bytes
        fixed += step.output_bytes.fixed
        per_image += step.output_bytes.per_image
        most_fixed = max(most_fixed, fixed + step.workspace_bytes.fixed)
        most_per_image = max(most_per_image, per_image + step.workspace_bytes.per_image)
        for name in {*step.reads, step.output}:
            if last.get(name, index) == index and name in alive:
                gone = alive.pop(name)
                fixed, per_image = fixed - gone.fixed, per_image - gone.per_image
    return Amount(most_fixed, most_per_image)


def _no_shape(where: str, why: str) -> BundleError:
    return BundleError(
        "EV419",
        "The shapes of the ONNX graph don't fit.",
        where=where,
        why=f"It has {why}.",
        try_next="Don't run this bundle; get it again from a source you trust.",
    )
