"""The known reasons for a missing 8-bit kernel, each with a faulty graph and NVIDIA's compiler."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx")
sys.path.insert(0, str(Path(__file__).parents[3] / "targets" / "tensorrt" / "conformance"))

import small_transformer as small
from onnx import helper

from edgevit.runner.engines.tensorrt.fallback_reasons import PATTERNS
from edgevit.runner.engines.tensorrt.layer_table import product_rows
from edgevit.runner.engines.tensorrt_rtx.compiling import compiled_from_onnx

HALF = np.float16


class Fused(small.Transformer):
    """Query, key and value come from one product whose output is cut apart."""

    def block(self, x):
        read = self.rounded(self.norm(x, "norm1"), "norm1.out")
        fused = self.linear(read, "qkv", small.WIDTH, 3 * small.WIDTH)
        sizes = self.ints("sizes", [0, small.TOKENS, 3, small.HEADS, small.HEAD])
        cut = self.add("Reshape", "cut", fused, sizes)
        order = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}
        for index, (name, axes) in enumerate(order.items()):
            part = self.add("Gather", f"{name}.part", cut, self.ints(f"{name}.at", index), axis=2)
            self.add("Transpose", f"{name}.heads", part, perm=axes)
        scores = self.add("MatMul", "scores", "q.heads", "k.heads")
        context = self.add("MatMul", "context", self.add("Softmax", "chances", scores), "v.heads")
        moved = self.add("Transpose", "moved", context, perm=[0, 2, 1, 3])
        flat = self.add("Reshape", "flat", moved, self.ints("flat.sizes", [0, small.TOKENS, -1]))
        return self.add("Add", "sum1", x, self.linear(flat, "proj", small.WIDTH, small.WIDTH))


def good():
    return small.Transformer().model()


def clipped_behind_dq():
    model = small.put(small.put(good(), "low", HALF(-5)), "high", HALF(5))
    return small.insert(model, "Clip", "clip", "fc2.in.dq", ["fc2.product"], "low", "high")


def weight_in_float():
    value = np.random.default_rng(0).normal(size=(small.WIDTH, 2 * small.WIDTH))
    model = small.put(good(), "float", value.astype(HALF))
    small.node_named(model, "fc1.product").input[1] = "float"
    model.graph.node.remove(small.node_named(model, "fc1.dq"))
    return model


def weight_scaled_by_the_image():
    model = small.insert(good(), "Mul", "scaled", "fc1.dq", ["fc1.product"], "mean")
    mean = helper.make_node("ReduceMean", ["image.cast"], ["mean"], name="mean", keepdims=0)
    at = next(i for i, node in enumerate(model.graph.node) if node.name == "image.cast")
    model.graph.node.insert(at + 1, mean)
    return model


def scale_per_input_channel():
    model = small.change(good(), "fc1.dq", axis=0)
    small.put(model, "fc1.scale", np.full(small.WIDTH, 0.002, HALF))
    return small.put(model, "fc1.zero", np.zeros(small.WIDTH, np.int8))


def scale_per_channel_of_an_activation():
    model = good()
    for node in ("fc2.in.q", "fc2.in.dq"):
        small.change(model, node, axis=2)
    small.put(model, "fc2.in.scale", np.full(2 * small.WIDTH, 0.05, HALF))
    return small.put(model, "fc2.in.zero", np.zeros(2 * small.WIDTH, np.int8))


def half_an_attention():
    return small.unrounded(small.Transformer(attention=True).model(), "softmax.out")


def with_a_scale_of_its_own(model, product):
    """One of q, k and v reads the LayerNorm through a Q/DQ of its own."""
    small.put(model, "own.scale", HALF(0.04))
    grid = ("own.scale", "norm1.out.zero")
    pair = [
        helper.make_node("QuantizeLinear", ["norm1", *grid], ["own.q"], name="own.q"),
        helper.make_node("DequantizeLinear", ["own.q", *grid], ["own.dq"], name="own.dq"),
    ]
    at = next(i for i, node in enumerate(model.graph.node) if node.name == "norm1") + 1
    for node in reversed(pair):
        model.graph.node.insert(at, node)
    small.node_named(model, product).input[0] = "own.dq"
    return model


FAULTS = [
    (lambda: Fused().model(), "qkv", "weight rearranged"),
    (clipped_behind_dq, "fc2", "input changed behind its DQ"),
    (weight_in_float, "fc1", "weight in float"),
    (weight_scaled_by_the_image, "fc1", "weight computed"),
    (scale_per_input_channel, "fc1", "scales inside the sum"),
    (scale_per_channel_of_an_activation, "fc2", "scales inside the sum"),
    (lambda: small.unrounded(good(), "fc2.in"), "fc2", "input in float"),
    (half_an_attention, "context", "one operand in float"),
]


def reasons(model, card="SM89"):
    """Return product -> (precision, why it is not int8), of those that are not."""
    compiled = compiled_from_onnx(model.SerializeToString(), (card,))
    nodes = [node.name for node in model.graph.node if node.op_type == "MatMul"]
    attention = any(node.name == "v.heads.out.dq" for node in model.graph.node)
    asked = [n for n in nodes if n.endswith(".product") or (attention and "." not in n)]
    rows = product_rows(
        [{"name": n.replace(".product", ""), "tensor": n, "carrier": "s8 x s8"} for n in asked],
        compiled.layers,
    )
    return {row.name: (row.chosen, row.reason) for row in rows if row.reason}


@pytest.mark.parametrize("card", ["SM75", "SM86", "SM89", "SM120"])
def test_nothing_is_missing_of_a_good_graph(card):
    assert reasons(good(), card) == {}
    assert reasons(small.Transformer(attention=True).model(), card) == {}


@pytest.mark.parametrize(("build", "product", "name"), FAULTS)
def test_a_fault_is_found_and_has_its_mend(build, product, name):
    found = reasons(build())
    chosen, reason = found[product]
    pattern = next(pattern for pattern in PATTERNS if pattern.name == name)
    assert chosen == "fp16"
    assert reason.startswith(pattern.why.format(asked="int8", chosen="fp16"))
    assert pattern.mend in reason
    others = {"proj"} if product == "qkv" else set()  # its input is left in float there
    assert set(found) == {product} | others


def test_what_does_no_harm_is_not_called_a_fault():
    """Suspected, and cleared by the compiler: a factor, a transpose, a shared DQ, other scales."""
    factor = small.put(good(), "half", HALF(0.5))
    assert reasons(small.insert(factor, "Mul", "mul", "fc2.in.dq", ["fc2.product"], "half")) == {}
    read_twice = good()
    small.node_named(read_twice, "sum2").input[0] = "norm2.out.dq"
    assert reasons(read_twice) == {}
    turned = small.insert(good(), "Transpose", "t", "fc2.in.dq", ["fc2.product"], perm=[1, 0, 2])
    back = small.insert(turned, "Transpose", "b", "fc2.product", ["fc2"], perm=[1, 0, 2])
    assert reasons(back) == {}
    assert reasons(with_a_scale_of_its_own(good(), "k.product")) == {}
