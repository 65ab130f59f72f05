"""Rules about the file as a whole: operator set, shapes, leftovers, parity (1, 30-31, 33-35)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import onnx

from edgevit.targets.tensorrt.conformance.operands import per_channel, quantizers
from edgevit.targets.tensorrt.conformance.rule import CheckedGraph, Fault, Level, NotRun, rule
from edgevit.targets.tensorrt.conformance.view import (
    BFLOAT16,
    DOUBLE,
    FLOAT16,
    FP4,
    FP8,
    INT4,
    INT64,
    UINT4,
    GraphView,
    attribute,
)

_NEWEST_OPSETS = (("10.9", 20), ("10.13", 22))  # before this TensorRT, at most this opset
_NEWEST_OPSET = 24
_OLDEST_OPSET, _LAYER_NORM_OPSET = 9, 17
_SHAPE_OPERATORS = ("Shape", "Size", "Range", "NonZero", "If", "Loop", "Scan")
_INT32 = np.iinfo(np.int32)


@rule(
    1,
    Level.ERROR,
    "opset is one that every TensorRT to be served reads, and new enough for its Q/DQ",
    source="onnx-tensorrt operators.md (10.1: opset 9-20); ONNX schemas of Q/DQ 13, 19, 21, 23",
    remedy="Export at opset 19 or 20 (LayerNormalization, Gelu, FP16 scales), and no higher.",
)
def opset_fits(subject: CheckedGraph) -> Iterator[Fault]:
    """Compare the default operator set with what the parsers read and Q/DQ need."""
    opset, newest = subject.view.opset, _newest_opset(subject)
    if opset > newest:
        oldest = subject.tensorrt[0]
        yield Fault("graph", f"opset {opset}, TensorRT {oldest} reads up to {newest}")
    if opset < _OLDEST_OPSET:
        yield Fault("graph", f"opset {opset}, TensorRT reads {_OLDEST_OPSET} and later")
    elif opset < _LAYER_NORM_OPSET:
        why = f"opset {opset} has no LayerNormalization (opset {_LAYER_NORM_OPSET})"
        yield Fault("graph", why, Level.WARNING)
    needed = _opset_of_quantizers(subject.view)
    if needed > opset:
        yield Fault("graph", f"opset {opset}, its Q/DQ nodes need {needed}")


def _newest_opset(subject: CheckedGraph) -> int:
    for version, opset in _NEWEST_OPSETS:
        if subject.serves_older_than(version):
            return opset
    return _NEWEST_OPSET


def _opset_of_quantizers(view: GraphView) -> int:
    needed = 0
    for found in quantizers(view):
        needed = max(needed, 13 if per_channel(view, found) or found.axis is not None else 10)
        if view.elem_type(found.scale) in (FLOAT16, BFLOAT16) or found.code_type == FP8:
            needed = max(needed, 19)
        if found.code_type in (INT4, UINT4):
            needed = max(needed, 21)
        if found.code_type == FP4:
            needed = max(needed, 23)
    return needed


@rule(
    30,
    Level.WARNING,
    "only the batch is symbolic, and no shapes are computed",
    source="NVIDIA/TensorRT onnx quick start: fold shape subgraphs; mmdeploy issue 800",
    remedy="Export with a fixed height and width, fold constants (polygraphy surgeon sanitize "
    "--fold-constants) and leave only the batch dynamic.",
)
def only_the_batch_is_dynamic(subject: CheckedGraph) -> Iterator[Fault]:
    """Look at the ends of the graph and for operators that compute shapes."""
    view = subject.view
    symbols: set[str] = set()
    ends = [v for v in view.graph.input if v.name not in view.initializers]
    for value in (*ends, *view.graph.output):
        shape = view.shape(value.name)
        if shape is None:
            yield Fault(value.name, "its rank is unknown")
            continue
        inner = [str(size) for size in shape[1:] if not isinstance(size, int)]
        if inner:
            yield Fault(value.name, f"dimensions besides the batch are open: {', '.join(inner)}")
        symbols.update(size for size in shape[:1] if isinstance(size, str))
    if len(symbols) > 1:
        yield Fault("graph", f"the batch has several symbols: {', '.join(sorted(symbols))}")
    yield from _computed_shapes(view)


def _computed_shapes(view: GraphView) -> Iterator[Fault]:
    found: dict[str, list[str]] = defaultdict(list)
    for node in view.nodes:
        if node.op_type in _SHAPE_OPERATORS and not all(map(view.rooted, node.output)):
            found[node.op_type].append(view.label(node))
    for op, names in found.items():
        yield Fault(names[0], f"{len(names)} {op} node(s): shapes or values decide on shapes")


@rule(
    31,
    Level.ERROR,
    "ONNX's own checker accepts the file, and nodes can be told apart",
    source="onnx.checker full_check; TensorRT's layer reports name ONNX nodes",
    remedy="Export again with a current exporter; give every node a name of its own; keep weights "
    "beyond 2 GB in external files.",
)
def file_is_sound(subject: CheckedGraph) -> Iterator[Fault]:
    """Report what the checker and shape inference say, and names that are missing or twice."""
    error = subject.load_error or subject.view.disorder or subject.view.inference_error
    if error:
        yield Fault("graph", error.splitlines()[0][:300])
    counts = Counter(node.name for node in subject.view.nodes)
    unnamed = counts.pop("", 0)
    if unnamed:
        yield Fault("graph", f"{unnamed} nodes have no name", Level.WARNING)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        yield Fault(twice[0], f"{len(twice)} names are given to several nodes", Level.WARNING)


@rule(
    33,
    Level.WARNING,
    "nothing is left over from training or exporting",
    source="onnx-tensorrt: Dropout in training mode is refused",
    remedy="model.eval() before the export; then simplify (onnxsim, or polygraphy surgeon "
    "sanitize).",
)
def nothing_left_over(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for training mode, chains of Identity, and constants that nothing reads."""
    view = subject.view
    for node in view.nodes:
        if attribute(node, "training_mode", 0) or _drops(view, node):
            yield Fault(view.label(node), f"{node.op_type} is in training mode", Level.ERROR)
    same = [node for node in view.nodes if node.op_type == "Identity"]
    chained = [node for node in same if view.producer(node.input[0], {"Identity"})]
    if chained:
        yield Fault(view.label(chained[0]), f"{len(chained)} Identity nodes follow another one")
    read = _names_read(view.graph)
    dead = [name for name in view.initializers if name not in read]
    if dead:
        yield Fault(dead[0], f"{len(dead)} constants are read by nothing")


def _drops(view: GraphView, node: onnx.NodeProto) -> bool:
    if node.op_type != "Dropout" or len(node.input) < 3:
        return False
    mode = view.value(node.input[2])
    return mode is None or bool(mode)


def _names_read(graph: onnx.GraphProto) -> set[str]:
    """Return every name that a node or an output reads, also inside If and Loop."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for entry in node.attribute:
            inner = [entry.g] if entry.HasField("g") else []
            for body in (*inner, *entry.graphs):
                names |= _names_read(body)
    return names


@rule(
    34,
    Level.ERROR,
    "there is no float64, and no INT64 constant beyond 32 bits",
    source="TensorRT narrows INT64 constants and has no float64 layers",
    remedy="Export in float32 or float16; clamp large integers (ends of a Slice are fine).",
)
def no_wide_types(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for float64 anywhere and for large integers, ends of a Slice excepted."""
    view = subject.view
    for node in view.nodes:
        if any(view.elem_type(name) == DOUBLE for name in node.output if name):
            yield Fault(view.label(node), f"{node.op_type} makes float64")
    for name, tensor in view.constants.items():
        if tensor.data_type == DOUBLE and name in view.initializers:
            yield Fault(name, "a float64 constant")
        if tensor.data_type == INT64 and not _only_ends(view, name) and _beyond(view, name):
            yield Fault(name, "an INT64 constant with values beyond 32 bits")


def _only_ends(view: GraphView, name: str) -> bool:
    """Return whether a constant only says where slices start and end; those are clamped safely."""
    return all(node.op_type == "Slice" for node in view.consumers.get(name, ()))


def _beyond(view: GraphView, name: str) -> bool:
    values = view.value(name)
    if values is None or values.size == 0:
        return False
    return bool(values.min() < _INT32.min or values.max() > _INT32.max)


@rule(
    35,
    Level.WARNING,
    "the graph computes what was simulated",
    source="NVIDIA/TensorRT strong-typing migration: stop if parity fails; ModelOpt",
    remedy="Export again with this version; look for the first layer that differs.",
)
def graph_matches_simulation(subject: CheckedGraph) -> Iterator[Fault]:
    """Judge the comparison with the simulation."""
    parity = subject.facts.parity
    if parity is None:
        raise NotRun(subject.facts.no_parity)
    if parity.cosine < 0.999:
        yield Fault("graph", f"cosine of the logits is {parity.cosine:.4f}, below 0.999")
    if parity.agreement_percent is not None and parity.agreement_percent < 99.5:
        text = f"top-1 agrees on {parity.agreement_percent:.1f} % of {parity.num_images} images"
        yield Fault("graph", f"{text}, below 99.5 %")
