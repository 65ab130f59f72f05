"""A read-only view of an ONNX graph: who makes a tensor, who reads it, its type, shape and value.

Weights stay where they are (also in external files) until a rule asks for their values; types and
shapes come from ONNX's own shape inference on a copy without them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import external_data_helper, helper, inliner, numpy_helper, shape_inference

from edgevit.errors import UsageError

Array = npt.NDArray[Any]
Shape = tuple[int | str | None, ...]
"""Of a tensor: a number, a symbol such as "batch", or None where nothing is known."""
_LIGHT_VALUES = 128
FLOAT = onnx.TensorProto.FLOAT
FLOAT16 = onnx.TensorProto.FLOAT16
BFLOAT16 = onnx.TensorProto.BFLOAT16
DOUBLE = onnx.TensorProto.DOUBLE
INT8 = onnx.TensorProto.INT8
UINT8 = onnx.TensorProto.UINT8
INT32 = onnx.TensorProto.INT32
INT64 = onnx.TensorProto.INT64
INT4, UINT4 = 22, 21  # as in onnx.proto; older onnx packages lack the names
FP8 = 17  # float8 E4M3FN
FP4 = 23  # float4 E2M1
TYPE_NAMES = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}


class GraphView:
    """A graph as the rules see it.

    With `disorder` (a tensor made twice, or read before it is made) no walk through it is safe.

    Args:
        model: The model; functions of its own are inlined.
        base_dir: Folder of its external data.
    """

    def __init__(self, model: onnx.ModelProto, base_dir: str = "") -> None:
        self.model = inliner.inline_local_functions(model) if model.functions else model
        self.graph, self.base_dir = self.model.graph, base_dir
        self.nodes: tuple[onnx.NodeProto, ...] = tuple(self.graph.node)
        self.opset = opset_of(self.model)
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(filter(None, node.input)):
                self.consumers[name].append(node)
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.constants = {**self.initializers, **_constant_nodes(self.nodes)}
        self.disorder = _disorder(self.graph)
        self.outputs = {value.name for value in self.graph.output}
        light = _without_weights(self.model, base_dir)
        self.inference_error, self._types, self._shapes = _infer(light)
        first = [self.shape(value.name) or () for value in self.graph.input]
        self.batch_symbols = {shape[0] for shape in first if shape and isinstance(shape[0], str)}
        self._values: dict[str, Array] = {}
        self._rooted: dict[str, bool] = {}
        counts = Counter(node.name for node in self.nodes)
        self._ambiguous = {name for name, count in counts.items() if count > 1}

    def label(self, node: onnx.NodeProto) -> str:
        """Return what to call a node: its name, or what it makes where the name does not tell."""
        made = next(iter(filter(None, node.output)), "nothing")
        if not node.name:
            return f"{node.op_type} making {made}"
        return f"{node.name} making {made}" if node.name in self._ambiguous else node.name

    def elem_type(self, name: str) -> int:
        """Return a tensor's ONNX element type, 0 if it is unknown."""
        constant = self.constants.get(name)
        return constant.data_type if constant is not None else self._types.get(name, 0)

    def shape(self, name: str) -> Shape | None:
        """Return a tensor's shape, None if even its rank is unknown."""
        constant = self.constants.get(name)
        return tuple(constant.dims) if constant is not None else self._shapes.get(name)

    def value(self, name: str) -> Array | None:
        """Return a constant's value (float8 and 4-bit types as float32), None for other tensors."""
        if name not in self.constants:
            return None
        if name not in self._values:
            self._values[name] = _array(self.constants[name], self.base_dir)
        return self._values[name]

    def rooted(self, name: str) -> bool:
        """Return whether a tensor depends on constants only."""
        pending = [name]
        while pending:
            current = pending[-1]
            node = self.producers.get(current)
            if current in self._rooted:
                pending.pop()
            elif current in self.constants or node is None or not any(node.input):
                self._rooted[current] = current in self.constants
                pending.pop()
            else:
                missing = [x for x in node.input if x and x not in self._rooted]
                if missing:
                    pending += missing
                else:
                    self._rooted[current] = all(self._rooted[x] for x in node.input if x)
                    pending.pop()
        return self._rooted[name]

    def producer(self, name: str, ops: Collection[str] = ()) -> onnx.NodeProto | None:
        """Return the node that makes a tensor, if it is one of `ops` (any if left out)."""
        node = self.producers.get(name)
        return node if node is not None and (not ops or node.op_type in ops) else None

    def back(self, name: str, ops: Collection[str]) -> tuple[list[onnx.NodeProto], str]:
        """Walk from a tensor towards its origin through nodes of `ops`.

        A node with several inputs is passed only if all but one of them are constant.

        Returns:
            The nodes passed, last first, and the tensor where the walk ended.
        """
        passed: list[onnx.NodeProto] = []
        while (node := self.producer(name, ops)) is not None and ops:
            moving = [x for x in node.input if x and not self.rooted(x)] or [node.input[0]]
            if len(set(moving)) > 1:
                break
            passed.append(node)
            name = moving[0]
        return passed, name

    def ahead(self, name: str, ops: Collection[str]) -> Iterator[tuple[onnx.NodeProto, str]]:
        """Yield (node, tensor it reads) for the first nodes outside `ops` that a tensor reaches.

        A node of `ops` with several inputs that are not constant counts as outside.
        """
        pending, seen = [name], {name}
        while pending:
            current = pending.pop()
            for node in self.consumers.get(current, ()):
                others = [x for x in node.input if x != current and x and not self.rooted(x)]
                if node.op_type not in ops or others:
                    yield node, current
                    continue
                fresh = [x for x in node.output if x and x not in seen]
                seen.update(fresh)
                pending += fresh


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the default operator set, 0 if none is declared."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return max(versions, default=0)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return the value of a node's attribute."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def _constant_nodes(nodes: tuple[onnx.NodeProto, ...]) -> dict[str, onnx.TensorProto]:
    found = {}
    for node in nodes:
        if node.op_type == "Constant" and len(node.attribute) == 1:
            held = attribute(node, node.attribute[0].name)
            if isinstance(held, onnx.TensorProto):
                found[node.output[0]] = held
            elif not isinstance(held, (onnx.SparseTensorProto, bytes)):
                whole = np.asarray(held)
                kind = np.int64 if whole.dtype.kind == "i" else np.float32
                found[node.output[0]] = numpy_helper.from_array(whole.astype(kind))
    return found


def _array(tensor: onnx.TensorProto, base_dir: str) -> Array:
    try:
        array = np.asarray(numpy_helper.to_array(tensor, base_dir))
    except Exception as error:  # the bindings raise several unrelated classes
        raise UsageError(
            "EV345",
            "The values of a tensor can't be read.",
            where=tensor.name,
            why=str(error).strip()[:300],
            try_next="Put the file with external data beside the model, under its own name.",
        ) from error
    return array if array.dtype.kind in "fiub?" and array.dtype.isbuiltin else np.float32(array)


def _infer(light: onnx.ModelProto) -> tuple[str, dict[str, int], dict[str, Shape]]:
    """Return the error if any, and name -> element type and shape of all tensors known."""
    error = ""
    try:
        known = shape_inference.infer_shapes(
            light, check_type=True, strict_mode=True, data_prop=True
        )
    except Exception as failure:  # the bindings raise several unrelated classes
        error = str(failure).strip()
        known = _despite_errors(light)
    types, shapes = {}, {}
    graph = known.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        types[value.name] = kind.elem_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(_size(dim) for dim in kind.shape.dim)
    return error, types, shapes


def _despite_errors(light: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with what can be inferred of it, the model itself if that is nothing."""
    try:
        return shape_inference.infer_shapes(light)
    except Exception:  # as above; the first error is the one that is reported
        return light


def _disorder(graph: onnx.GraphProto) -> str:
    """Return the first tensor that is made twice or read before it is made, "" if there is none."""
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for name in filter(None, node.input):
            if name not in made:
                return f"{name} is read before it is made"
        for name in filter(None, node.output):
            if name in made:
                return f"{name} is made twice"
            made.add(name)
    return ""


def _size(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return dim.dim_param or None


def _without_weights(model: onnx.ModelProto, base_dir: str) -> onnx.ModelProto:
    """Return a copy in which large constants have a type and a shape but no values."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    graph = model.graph
    light.graph.name = graph.name
    for part in ("node", "input", "output", "value_info"):
        getattr(light.graph, part).extend(getattr(graph, part))
    light.graph.initializer.extend(_light(tensor, base_dir) for tensor in graph.initializer)
    return light


def _light(tensor: onnx.TensorProto, base_dir: str) -> onnx.TensorProto:
    """Return a tensor with its values only if they are few; they may decide on shapes."""
    if prod(tensor.dims) > _LIGHT_VALUES:
        return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    if external_data_helper.uses_external_data(tensor) and tensor.data_type in (INT32, INT64):
        return numpy_helper.from_array(_array(tensor, base_dir), tensor.name)
    return tensor
