"""The small transformer with query, key and value from one product, cut apart in several ways."""

import numpy as np
from onnx import helper
from small_transformer import HEAD, HEADS, TOKENS, WIDTH, Transformer

CUTS = ("split", "slices", "gathers", "moved")
"""Split on the last axis; three slices; [B, N, 3, H, D] and Gathers; the 3 moved to the front."""
BETWEEN = ("", "norm", "gelu", "turned")
"""What is between the cut and the first product of attention, on the query."""


class FusedTransformer(Transformer):
    """
    Args:
        cut: One of `CUTS`.
        behind_bias: Cut behind the bias, or in front of it and every third gets its own.
        per_channel: Scales of the fused weight per channel, or one.
        between: One of `BETWEEN`.
        parts: Equal parts of the product's output; a fourth gates the attention's output.
        doubled: Another function stands between the product and its bias.
    """

    def __init__(
        self,
        *,
        cut="gathers",
        behind_bias=True,
        per_channel=True,
        between="",
        parts=3,
        doubled=False,
        **others,
    ):
        super().__init__(**others)
        self.cut, self.behind_bias, self.per_channel = cut, behind_bias, per_channel
        self.between, self.parts, self.doubled = between, parts, doubled

    def block(self, x):
        read = self.rounded(self.norm(x, "norm1"), "norm1.out")
        wide = self.add("MatMul", "qkv.product", read, self._fused_weight())
        if self.doubled:
            wide = self.add("Mul", "doubled", wide, self.constant("two", np.full(3 * WIDTH, 2)))
        if self.behind_bias:
            size = self.parts * WIDTH
            wide = self.add("Add", "qkv", wide, self.random_constant("qkv.bias", size))
        parts = list(getattr(self, f"_{self.cut}")(wide))
        if not self.behind_bias:
            parts = [self._own_bias(part, name) for part, name in zip(parts, "qkvg", strict=False)]
        query, key, value = (self._heads(part, n) for part, n in zip(parts, "qkv", strict=False))
        out = self._attention(self._changed(query), key, value)
        if self.parts == 4:
            out = self.add("Mul", "gated", out, self.add("Sigmoid", "gate", parts[3]))
        read = self.rounded(out, "proj.in")
        return self.add("Add", "sum1", x, self.linear(read, "proj", WIDTH, WIDTH))

    def _fused_weight(self):
        if self.per_channel or self.codes == "fp8":
            return self.weight("qkv", WIDTH, self.parts * WIDTH)
        codes = np.rint(40 * self.random.normal(size=(WIDTH, self.parts * WIDTH)))
        self.constant("qkv.codes", np.clip(codes, -120, 120), np.int8)
        return self.add("DequantizeLinear", "qkv.dq", "qkv.codes", *self.grid("qkv", 0.002))

    def _own_bias(self, part, name):
        shape = (HEADS, HEAD) if self.cut in ("gathers", "moved") else (WIDTH,)
        if self.cut == "moved":
            shape = (HEADS, 1, HEAD)
        return self.add("Add", name, part, self.random_constant(f"{name}.bias", *shape))

    def _split(self, wide):
        names = [f"{name}.part" for name in "qkvg"[: self.parts]]
        count = {"num_outputs": self.parts}
        self.nodes.append(helper.make_node("Split", [wide], names, "cut", axis=-1, **count))
        return names

    def _slices(self, wide):
        for index, name in enumerate("qkvg"[: self.parts]):
            ends = (index * WIDTH, (index + 1) * WIDTH, -1)
            places = [self.ints(f"{name}.{i}", [end]) for i, end in enumerate(ends)]
            yield self.add("Slice", f"{name}.part", wide, *places)

    def _five(self, wide):
        sizes = self.ints("five", [0, TOKENS, self.parts, HEADS, HEAD])
        return self.add("Reshape", "qkv.five", wide, sizes)  # [B, N, 3, H, D]

    def _gathers(self, wide):
        five = self._five(wide)
        for index, name in enumerate("qkvg"[: self.parts]):
            yield self.add("Gather", f"{name}.part", five, self.ints(f"{name}.i", index), axis=2)

    def _moved(self, wide):
        five = self.add("Transpose", "moved", self._five(wide), perm=[2, 0, 3, 1, 4])
        for index, name in enumerate("qkvg"[: self.parts]):
            yield self.add("Gather", f"{name}.part", five, self.ints(f"{name}.i", index), axis=0)

    def _heads(self, part, name):
        order = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        if self.cut in ("split", "slices"):
            return self.heads(part, name, order)
        if self.cut == "moved":
            order = [0, 1, 3, 2] if name == "k" else [0, 1, 2, 3]
        return self.add("Transpose", f"{name}.heads", part, perm=order)

    def _changed(self, query):
        if self.between == "norm":
            return self.add("LayerNormalization", "q.norm", query, self.constant("one", [1] * HEAD))
        if self.between == "gelu":
            return self.add("Gelu", "q.gelu", query)
        if self.between == "turned":  # as rotary positions do
            sines = [self.random_constant(name, TOKENS, HEAD) for name in ("cos", "sin")]
            both = [self.add("Mul", f"{name}.by", query, name) for name in sines]
            return self.add("Add", "q.turned", *both)
        return query

    def _attention(self, query, key, value):
        if self.attention:
            query, key, value = (self.rounded(y, f"{y}.out") for y in (query, key, value))
        chances = self.add("Softmax", "softmax", self.add("MatMul", "scores", query, key), axis=-1)
        if self.attention:
            chances = self.rounded(chances, "softmax.out", 1 / 127)
        context = self.add("MatMul", "context", chances, value)
        moved = self.add("Transpose", "context.moved", context, perm=[0, 2, 1, 3])
        return self.add("Reshape", "context.flat", moved, self.ints("flat.sizes", [0, TOKENS, -1]))
