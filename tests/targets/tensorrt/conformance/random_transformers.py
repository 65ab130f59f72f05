"""Transformers of random depth and width from a seed, most with one change that may be a fault."""

import random
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from small_transformer import (
    TOKENS,
    Transformer,
    change,
    insert,
    made,
    node_named,
    put,
    rounded,
    unrounded,
)

LINEARS = ("proj", "fc1", "fc2")


@dataclass(frozen=True)
class Place:
    """Where a change is made: a block ("b1."), one of its linears, and whether attention rounds."""

    block: str
    linear: str
    attention: bool

    @property
    def product(self):
        return f"{self.block}{self.linear}.product"

    @property
    def weight(self):
        return f"{self.block}{self.linear}"


CHANGES = {"": lambda model, place: model}


def may_be_a_fault(make):
    CHANGES[make.__name__] = make
    return make


def read(model, place):
    """The name of the DQ that a linear reads."""
    return node_named(model, place.product).input[0]


def codes(model, place):
    found = next(t for t in model.graph.initializer if t.name == f"{place.weight}.codes")
    return numpy_helper.to_array(found)


def between(model, place, op, *more, **attributes):
    """Put an operator between a linear and the DQ that it reads."""
    source = read(model, place)
    return insert(model, op, f"{place.weight}.b", source, [place.product], *more, **attributes)


def behind_weight(model, place, op, *more, **attributes):
    source = f"{place.weight}.dq"
    return insert(model, op, f"{place.weight}.b", source, [place.product], *more, **attributes)


@may_be_a_fault
def weight_in_float(model, place):
    put(model, "float", (0.002 * codes(model, place)).astype(np.float16))
    node_named(model, place.product).input[1] = "float"
    return model


@may_be_a_fault
def activation_in_float(model, place):
    source = node_named(model, read(model, place).replace(".dq", ".q")).input[0]
    node_named(model, place.product).input[0] = source
    return model


@may_be_a_fault
def weight_turned(model, place):
    put(model, f"{place.weight}.codes", np.ascontiguousarray(codes(model, place).T))
    change(model, f"{place.weight}.dq", axis=0)
    return behind_weight(model, place, "Transpose", perm=[1, 0])


@may_be_a_fault
def weight_reshaped(model, place):
    put(model, "same", np.int64(codes(model, place).shape))
    return behind_weight(model, place, "Reshape", "same")


@may_be_a_fault
def scales_of_input_channels(model, place):
    rows = len(codes(model, place))
    put(model, f"{place.weight}.scale", np.full(rows, 0.002, np.float16))
    put(model, f"{place.weight}.zero", np.zeros(rows, np.int8))
    return change(model, f"{place.weight}.dq", axis=0)


@may_be_a_fault
def scales_of_activation_channels(model, place):
    name, rows = read(model, place).removesuffix(".dq"), len(codes(model, place))
    put(model, f"{name}.scale", np.full(rows, 0.05, np.float16))
    put(model, f"{name}.zero", np.zeros(rows, np.int8))
    return change(change(model, f"{name}.q", axis=2), f"{name}.dq", axis=2)


@may_be_a_fault
def scale_in_fp32(model, place):
    columns = codes(model, place).shape[1]
    put(model, f"{place.weight}.scale", np.full(columns, 0.002, np.float32))
    return behind_weight(model, place, "Cast", to=TensorProto.FLOAT16)


@may_be_a_fault
def zero_point(model, place):
    return put(model, read(model, place).replace(".dq", ".zero"), np.int8(1))


@may_be_a_fault
def sum_between(model, place):
    put(model, "more", np.full(len(codes(model, place)), 0.5, np.float16))
    return between(model, place, "Add", "more")


@may_be_a_fault
def clip_between(model, place):
    put(put(model, "low", np.float16(-1)), "high", np.float16(1))
    return between(model, place, "Clip", "low", "high")


@may_be_a_fault
def factor_between(model, place):
    return between(put(model, "two", np.float16(2)), place, "Mul", "two")


@may_be_a_fault
def factors_between(model, place):
    put(model, "many", np.linspace(0.5, 2, len(codes(model, place)), dtype=np.float16))
    return between(model, place, "Mul", "many")


@may_be_a_fault
def shifted_between(model, place):
    """As Swin shifts its windows."""
    ends = {"start": [0], "middle": [5], "end": [TOKENS], "axis": [1]}
    for name, value in ends.items():
        put(model, name, np.int64(value))
    source, product = read(model, place), node_named(model, place.product)
    at = list(model.graph.node).index(product)
    for part, low, high in (("left", "start", "middle"), ("right", "middle", "end")):
        cut = helper.make_node("Slice", [source, low, high, "axis"], [part], part)
        model.graph.node.insert(at, cut)
    rolled = helper.make_node("Concat", ["right", "left"], ["rolled"], "rolled", axis=1)
    model.graph.node.insert(at + 2, rolled)
    product.input[0] = "rolled"
    return model


@may_be_a_fault
def output_rounded(model, place):
    reader = {"proj": "sum1", "fc1": "gelu", "fc2": "sum2"}[place.linear]
    return rounded(model, place.weight, [f"{place.block}{reader}"], "late")


@may_be_a_fault
def bias_in_codes(model, place):
    columns = codes(model, place).shape[1]
    put(put(model, "bias", np.ones(columns, np.int32)), "tiny", np.float16(0.01))
    node = helper.make_node("DequantizeLinear", ["bias", "tiny"], ["bias.dq"], "bias.dq")
    model.graph.node.insert(0, node)
    node_named(model, place.weight).input[1] = "bias.dq"
    return model


@may_be_a_fault
def foreign_operator(model, place):
    return between(model, place, "QuickGelu", domain="com.microsoft")


@may_be_a_fault
def attention_in_part(model, place):
    if place.attention:
        return unrounded(model, f"{place.block}softmax.out")
    return rounded(model, f"{place.block}q.heads", [f"{place.block}scores"], "early")


@may_be_a_fault
def computed_mask(model, place):
    scores, softmax = f"{place.block}scores", f"{place.block}softmax"
    model = insert(model, "Neg", "mask", scores, [softmax])
    node_named(model, softmax).input[0] = scores
    return insert(model, "Add", "masked", scores, [softmax], "mask")


WRITTEN = ("cut_behind_bias", "cut_before_bias", "heads_of_24")
"""Changes that are made while the transformer is written."""
ALL = (*CHANGES, *WRITTEN)


def random_transformer(seed):
    """Return (the change made, a model); every change comes up before one comes up twice."""
    chance = random.Random(seed)
    change_made = ALL[seed % len(ALL)]
    blocks = chance.randint(1, 3)
    head = 24 if change_made == "heads_of_24" else chance.choice((16, 32, 64))
    place = Place(
        f"b{chance.randrange(blocks)}.",
        chance.choice(LINEARS),
        chance.random() < 0.5 or change_made == "heads_of_24",
    )
    written = RandomTransformer(
        blocks=blocks,
        heads=chance.choice((1, 2, 4)),
        head=head,
        cut={place.block: change_made} if change_made.startswith("cut") else {},
        attention=place.attention,
    )
    model = written.model()
    return change_made, CHANGES.get(change_made, CHANGES[""])(model, place)


class RandomTransformer(Transformer):
    """
    Args:
        blocks: How many.
        heads, head: Heads of a block and channels of each.
        cut: Block -> "cut_behind_bias" or "cut_before_bias", where q, k, v are thirds of a product.
    """

    def __init__(self, *, blocks, heads, head, cut, **others):
        super().__init__(**others)
        self.blocks, self.sizes, self.cut, self.wide = blocks, (heads, head), cut, heads * head

    def model(self):
        x = self.add("Cast", "image.cast", "image", to=TensorProto.FLOAT16)
        weight = self.random_constant("patch.weight", self.wide, 3, 8, 8)
        x = self.add("Conv", "patch", x, weight, strides=[8, 8], kernel_shape=[8, 8])
        x = self.add("Reshape", "flat", x, self.ints("flat.sizes", [0, self.wide, TOKENS]))
        x = self.add("Transpose", "tokens", x, perm=[0, 2, 1])
        for index in range(self.blocks):
            x = self._feed_forward(self._attend(x, f"b{index}."), f"b{index}.")
        first = self.add("Gather", "first", self.norm(x, "norm"), self.ints("zero", 0), axis=1)
        weight = self.random_constant("head.weight", 10, self.wide)
        logits = self.add("Gemm", "head", first, weight, transB=1)
        self.add("Cast", "logits", logits, to=TensorProto.FLOAT)
        return made(self)

    def norm(self, x, name):
        parts = [self.random_constant(f"{name}.{part}", self.wide) for part in ("gain", "offset")]
        return self.add("LayerNormalization", name, x, *parts)

    def _feed_forward(self, x, b):
        y = self.rounded(self.norm(x, f"{b}norm2"), f"{b}norm2.out")
        y = self.add("Gelu", f"{b}gelu", self.linear(y, f"{b}fc1", self.wide, 4 * self.wide))
        y = self.linear(self.rounded(y, f"{b}fc2.in"), f"{b}fc2", 4 * self.wide, self.wide)
        return self.add("Add", f"{b}sum2", x, y)

    def _attend(self, x, b):
        y = self.rounded(self.norm(x, f"{b}norm1"), f"{b}norm1.out")
        query, key, value = (
            self._in_heads(part, f"{b}{name}", [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3])
            for part, name in zip(self._projected(y, b), "qkv", strict=True)
        )
        scores = self.add("MatMul", f"{b}scores", query, key)
        chances = self.add("Softmax", f"{b}softmax", scores, axis=-1)
        if self.attention:
            chances = self.rounded(chances, f"{b}softmax.out", 1 / 127)
        y = self.add("MatMul", f"{b}context", chances, value)
        y = self.add("Transpose", f"{b}moved", y, perm=[0, 2, 1, 3])
        y = self.add("Reshape", f"{b}joined", y, self.ints(f"{b}sizes", [0, TOKENS, self.wide]))
        y = self.linear(self.rounded(y, f"{b}proj.in"), f"{b}proj", self.wide, self.wide)
        return self.add("Add", f"{b}sum1", x, y)

    def _in_heads(self, part, name, order):
        sizes = self.ints(f"{name}.sizes", [0, TOKENS, *self.sizes])
        y = self.add("Reshape", f"{name}.cut", part, sizes)
        y = self.add("Transpose", f"{name}.heads", y, perm=order)
        return self.rounded(y, f"{name}.out") if self.attention else y

    def _projected(self, x, b):
        wide = self.wide
        if b not in self.cut:
            return [self.linear(x, f"{b}{name}", wide, wide) for name in "qkv"]
        y = self.add("MatMul", f"{b}qkv.product", x, self.weight(f"{b}qkv", wide, 3 * wide))
        if self.cut[b] == "cut_behind_bias":
            y = self.add("Add", f"{b}qkv", y, self.random_constant(f"{b}qkv.bias", 3 * wide))
        parts = [f"{b}{name}.part" for name in "qkv"]
        node = helper.make_node("Split", [y], parts, f"{b}split", axis=-1, num_outputs=3)
        self.nodes.append(node)
        if self.cut[b] == "cut_behind_bias":
            return parts
        bias = [self.random_constant(f"{part}.bias", wide) for part in parts]
        pairs = zip(parts, bias, strict=True)
        return [self.add("Add", f"{part}.own", part, own) for part, own in pairs]
