"""A small conforming vision transformer as ONNX: FP16 body, INT8 linears; tests then break it.

One block of width 64 with 4 heads of 16 over 32 patches of a 3 x 32 x 64 image.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, HEAD, TOKENS, CLASSES = 64, 4, 16, 32, 10
FLOATS = {np.float16: TensorProto.FLOAT16, np.float32: TensorProto.FLOAT}


class Transformer:
    """Writes the model; every method appends nodes and returns the name of their result."""

    def __init__(self, *, codes="int8", attention=False, opset=20, real=np.float16, stored=True):
        self.nodes, self.constants, self.types = [], {}, {}
        self.codes, self.attention, self.opset, self.real = codes, attention, opset, real
        self.stored = stored  # weights as codes, or in float with their Q
        self.random = np.random.default_rng(0)

    def add(self, op, name, *inputs, **attributes):
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name, value, dtype=None):
        self.constants[name] = np.asarray(value, dtype or self.real)
        return name

    def ints(self, name, values):
        return self.constant(name, values, np.int64)

    def random_constant(self, name, *shape):
        return self.constant(name, 0.1 * self.random.normal(size=shape))

    def grid(self, name, scale, zeros=()):
        """A scale and a zero point, each of the shape of `zeros`."""
        self.constant(f"{name}.scale", np.broadcast_to(scale, zeros))
        if self.codes == "int8":
            self.constant(f"{name}.zero", np.zeros(zeros), np.int8)
        else:
            self.types[f"{name}.zero"] = TensorProto.FLOAT8E4M3FN
            self.constant(f"{name}.zero", np.zeros(zeros), np.uint8)
        return f"{name}.scale", f"{name}.zero"

    def rounded(self, x, name, scale=0.05):
        """Q and DQ of an activation."""
        if not self.codes:
            return x
        grid = self.grid(name, scale)
        return self.add(
            "DequantizeLinear",
            f"{name}.dq",
            self.add("QuantizeLinear", f"{name}.q", x, *grid),
            *grid,
        )

    def weight(self, name, rows, columns):
        """A stored weight [rows, columns] behind its DQ; per channel in INT8."""
        if not self.codes:
            return self.random_constant(f"{name}.float", rows, columns)
        codes = np.clip(np.rint(40 * self.random.normal(size=(rows, columns))), -120, 120)
        self.constant(f"{name}.codes", codes, np.int8)
        if self.codes == "int8":
            grid = self.grid(name, np.full(columns, 0.002), (columns,))
            if not self.stored:
                self.constant(f"{name}.codes", 0.002 * codes)
                self.add("QuantizeLinear", f"{name}.q", f"{name}.codes", *grid, axis=1)
                return self.add("DequantizeLinear", f"{name}.dq", f"{name}.q", *grid, axis=1)
            return self.add("DequantizeLinear", f"{name}.dq", f"{name}.codes", *grid, axis=1)
        self.types[f"{name}.codes"] = TensorProto.FLOAT8E4M3FN
        return self.add("DequantizeLinear", f"{name}.dq", f"{name}.codes", *self.grid(name, 0.002))

    def linear(self, x, name, rows, columns):
        product = self.add("MatMul", f"{name}.product", x, self.weight(name, rows, columns))
        return self.add("Add", name, product, self.random_constant(f"{name}.bias", columns))

    def norm(self, x, name):
        scale = self.constant(f"{name}.gain", np.ones(WIDTH))
        return self.add(
            "LayerNormalization", name, x, scale, self.random_constant(f"{name}.offset", WIDTH)
        )

    def heads(self, x, name, order):
        cut = self.add(
            "Reshape", f"{name}.cut", x, self.ints(f"{name}.sizes", [0, TOKENS, HEADS, HEAD])
        )
        return self.add("Transpose", f"{name}.heads", cut, perm=order)

    def block(self, x):
        read = self.rounded(self.norm(x, "norm1"), "norm1.out")
        query, key, value = (self.linear(read, name, WIDTH, WIDTH) for name in "qkv")
        query = self.heads(query, "q", [0, 2, 1, 3])
        key, value = self.heads(key, "k", [0, 2, 3, 1]), self.heads(value, "v", [0, 2, 1, 3])
        if self.attention:
            query, key, value = (self.rounded(y, f"{y}.out") for y in (query, key, value))
        scores = self.add("MatMul", "scores", query, key)
        chances = self.add("Softmax", "softmax", scores, axis=-1)
        if self.attention:
            chances = self.rounded(chances, "softmax.out", 1 / 127)
        context = self.add("MatMul", "context", chances, value)
        moved = self.add("Transpose", "context.moved", context, perm=[0, 2, 1, 3])
        flat = self.add("Reshape", "context.flat", moved, self.ints("flat.sizes", [0, TOKENS, -1]))
        x = self.add(
            "Add", "sum1", x, self.linear(self.rounded(flat, "proj.in"), "proj", WIDTH, WIDTH)
        )
        read = self.rounded(self.norm(x, "norm2"), "norm2.out")
        wide = self.add("Gelu", "gelu", self.linear(read, "fc1", WIDTH, 2 * WIDTH))
        return self.add(
            "Add", "sum2", x, self.linear(self.rounded(wide, "fc2.in"), "fc2", 2 * WIDTH, WIDTH)
        )

    def model(self):
        kind = FLOATS[self.real]
        x = self.add("Cast", "image.cast", "image", to=kind)
        x = self.add(
            "Conv",
            "patch",
            x,
            self.random_constant("patch.weight", WIDTH, 3, 8, 8),
            strides=[8, 8],
            kernel_shape=[8, 8],
        )
        x = self.add("Reshape", "patch.flat", x, self.ints("patch.sizes", [0, WIDTH, TOKENS]))
        x = self.block(self.add("Transpose", "tokens", x, perm=[0, 2, 1]))
        first = self.add("Gather", "first", self.norm(x, "norm"), self.ints("zero", 0), axis=1)
        logits = self.add(
            "Gemm", "head", first, self.random_constant("head.weight", CLASSES, WIDTH), transB=1
        )
        self.add("Cast", "logits", logits, to=TensorProto.FLOAT)
        return made(self)


def made(writer):
    """Return the model of what was written so far."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 64])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
    tensors = [_tensor(name, value, writer.types) for name, value in writer.constants.items()]
    read = {name for node in writer.nodes for name in node.input}
    kept = [tensor for tensor in tensors if tensor.name in read]
    graph = helper.make_graph(writer.nodes, "small", [image], [logits], kept)
    opsets = [helper.make_opsetid("", writer.opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _tensor(name, value, types):
    if name not in types:
        return numpy_helper.from_array(value, name)
    raw = np.where(value.view(np.uint8) % 128 == 127, 0, value.view(np.uint8))  # no NaN
    return helper.make_tensor(name, types[name], value.shape, raw.tobytes(), raw=True)


def node_named(model, name):
    return next(node for node in model.graph.node if node.name == name)


def change(model, name, **attributes):
    """Set attributes of a node; None removes one."""
    node = node_named(model, name)
    kept = [entry for entry in node.attribute if entry.name not in attributes]
    del node.attribute[:]
    node.attribute.extend(kept)
    new = {key: value for key, value in attributes.items() if value is not None}
    node.attribute.extend(helper.make_attribute(key, value) for key, value in new.items())
    return model


def put(model, name, value, kind=None):
    """Replace or add a constant; `kind` is an ONNX type numpy does not have."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    del model.graph.initializer[:]
    if kind is None:
        tensor = numpy_helper.from_array(np.asarray(value), name)
    else:
        tensor = helper.make_tensor(name, kind, np.shape(value), np.ravel(value))
    model.graph.initializer.extend([*kept, tensor])
    return model


def insert(model, op, name, source, readers, *more, domain="", **attributes):
    """Put a node behind `source`, for those of its readers that are named."""
    node = helper.make_node(op, [source, *more], [name], name=name, domain=domain, **attributes)
    for reader in readers:
        inputs = node_named(model, reader).input
        for index, read in enumerate(inputs):
            if read == source:
                inputs[index] = name
    nodes = model.graph.node
    at = min((i for i, n in enumerate(nodes) if n.name in readers), default=len(nodes))
    model.graph.node.insert(at, node)
    return model


def rounded(model, source, readers, name, *, scale=0.05, real=np.float16):
    """Put Q and DQ behind `source`, for those of its readers that are named."""
    put(put(model, f"{name}.scale", np.asarray(scale, real)), f"{name}.zero", np.int8(0))
    grid = (f"{name}.scale", f"{name}.zero")
    insert(model, "QuantizeLinear", f"{name}.q", source, readers, *grid)
    return insert(model, "DequantizeLinear", f"{name}.dq", f"{name}.q", readers, *grid)


def without(model, name):
    """Take a node out: its readers read its first input."""
    node = node_named(model, name)
    for other in model.graph.node:
        for index, read in enumerate(other.input):
            if read == node.output[0]:
                other.input[index] = node.input[0]
    model.graph.node.remove(node)
    return model


def unrounded(model, name):
    """Take Q and DQ of this name out, and the constants nothing reads any more."""
    without(without(model, f"{name}.q"), f"{name}.dq")
    read = {x for node in model.graph.node for x in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def copied(model):
    """Return a copy, so that a test may break it."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other
