"""Collects ONNX nodes and constants; large constants stay outside the model file.

The model file of a bundle is a skeleton: small constants (scales, shapes) are inside it, large
ones are kept as arrays that the bundle packs and puts back when it is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edgevit.bundle.graph import INSIDE_BYTES
from edgevit.bundle.operators import IR_VERSION, MICROSOFT, OPERATORS, OPSET
from edgevit.version import __version__

Array = npt.NDArray[np.generic]


@dataclass(kw_only=True)
class OnnxBuilder:
    """A model under construction.

    Args:
        nodes: ONNX nodes in execution order.
        inside: Small constants by name.
        tensors: Large constants by name.
        packed_bits: Name of a large integer constant -> width of its codes.
        float8_zeros: Names of zeros in float8_e4m3fn, a type that numpy does not have.
        outputs: Name -> dimensions of the float32 outputs, a name for one that is not fixed.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inside: dict[str, Array] = field(default_factory=dict)
    tensors: dict[str, Array] = field(default_factory=dict)
    packed_bits: dict[str, int] = field(default_factory=dict)
    float8_zeros: list[str] = field(default_factory=list)
    outputs: dict[str, list[int | str]] = field(
        default_factory=lambda: {"logits": ["batch", "classes"]}
    )
    _known: dict[bytes, str] = field(default_factory=dict)

    def add(
        self,
        op: str,
        inputs: list[str],
        output: str,
        *,
        domain: str = "",
        **attributes: int | float | str | list[int],
    ) -> str:
        """Append a node with one output and return the output's name.

        Raises:
            KeyError: A bundle may not have the operator, or not with such an attribute.
        """
        known = OPERATORS[op]
        if domain != known.domain or not set(attributes) <= set(known.attributes):
            raise KeyError(f"{domain}.{op} with {', '.join(attributes)}")
        node = helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes)
        self.nodes.append(node)
        return output

    def constant(self, name: str, value: npt.ArrayLike, *, bits: int | None = None) -> str:
        """Add a constant and return its name; equal constants share one.

        Args:
            bits: Width of the codes of an int8/uint8 array that should be packed on disk.
        """
        name = f"{name}.constant"  # can't clash with the name of a node's output
        array = np.ascontiguousarray(value)
        array = array.reshape(np.shape(value))  # ascontiguousarray makes scalars 1-D
        digest = hashlib.sha256(array.tobytes())
        digest.update(f"{array.dtype}{array.shape}{bits}".encode())
        known = self._known.get(digest.digest())
        if known is not None:
            return known
        if name in self.inside or name in self.tensors:
            raise ValueError(f"two different constants are called {name}")
        self._known[digest.digest()] = name
        (self.inside if array.nbytes <= INSIDE_BYTES else self.tensors)[name] = array
        if bits is not None and name in self.tensors:
            self.packed_bits[name] = bits
        return name

    def float8_zero(self) -> str:
        """Return the name of a zero in float8_e4m3fn; there is one of them."""
        self.float8_zeros = ["zero_float8.constant"]
        return self.float8_zeros[0]

    def prune(self, results: Sequence[str]) -> None:
        """Drop nodes and constants that do not lead to one of `results`."""
        needed, kept = set(results), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.inside = {name: value for name, value in self.inside.items() if name in needed}
        self.tensors = {name: value for name, value in self.tensors.items() if name in needed}
        self.packed_bits = {n: bits for n, bits in self.packed_bits.items() if n in needed}
        self.float8_zeros = [name for name in self.float8_zeros if name in needed]

    def model(self, input_size: Sequence[int]) -> bytes:
        """Return the serialized skeleton: float32 "image" [B, 3, H, W] to the outputs.

        Args:
            input_size: (3, H, W).
        """
        float32 = onnx.TensorProto.FLOAT
        return self._model(
            [helper.make_tensor_value_info("image", float32, ["batch", *input_size])],
            [
                helper.make_tensor_value_info(name, float32, dims)
                for name, dims in self.outputs.items()
            ],
        )

    def part(self, ends: Mapping[str, Sequence[int | str | None]]) -> bytes:
        """Return the serialized skeleton of a part of a model, whose ends are float32.

        Args:
            ends: Name -> shape of the inputs and, last, of the output; a name or None for the
                dimension that follows the batch.
        """
        *inputs, output = (
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in ends.items()
        )
        return self._model(inputs, [output])

    def _model(
        self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> bytes:
        inside = [numpy_helper.from_array(value, name) for name, value in self.inside.items()]
        float8 = onnx.TensorProto.FLOAT8E4M3FN
        inside += [helper.make_tensor(name, float8, [], [0.0]) for name in self.float8_zeros]
        graph = helper.make_graph(self.nodes, "edgevit", inputs, outputs, inside)
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == MICROSOFT for node in self.nodes):
            opsets.append(helper.make_opsetid(MICROSOFT, 1))
        producer = f"edgevit {__version__}"
        model = helper.make_model(graph, opset_imports=opsets, producer_name=producer)
        model.ir_version = IR_VERSION
        return bytes(model.SerializeToString())


def whole_model(skeleton: bytes, tensors: dict[str, Array]) -> bytes:
    """Return the skeleton with its large constants put back, as one serialized model."""
    model = onnx.ModelProto.FromString(skeleton)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in tensors.items())
    return bytes(model.SerializeToString())
