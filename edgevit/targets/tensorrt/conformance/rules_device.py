"""Rules about what the device's kernels take: precisions and sizes of products (25, 27, 28)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod

from edgevit.targets.tensorrt.conformance.operands import OnnxProduct, products
from edgevit.targets.tensorrt.conformance.rule import CheckedGraph, Fault, Level, rule
from edgevit.targets.tensorrt.conformance.view import (
    BFLOAT16,
    FLOAT16,
    FP4,
    FP8,
    INT4,
    INT8,
    GraphView,
    attribute,
)
from edgevit.targets.tensorrt.convolution_kernels import (
    SMALLEST,
    has_few_fp8_channels,
    has_large_fp8_kernel,
    has_odd_channels,
)

_PRECISIONS = {FLOAT16: "fp16", BFLOAT16: "bf16", INT8: "int8", FP8: "fp8", FP4: "fp4"}
_PRECISIONS[INT4] = "int8"  # weights only, computed in what surrounds them


@rule(
    25,
    Level.ERROR,
    "the device computes in the graph's precisions",
    source="TensorRT support matrix: INT8 since 6.1, BF16 8.0, FP8 8.9, FP4 10.0",
    remedy="Quantize for this target (Orin and Ampere: INT8 and FP16), or choose the device it was "
    "made for.",
)
def device_has_the_precisions(subject: CheckedGraph) -> Iterator[Fault]:
    """Look for element types the device has no arithmetic for."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, kind in _typed_names(subject.view):
        precision = _PRECISIONS.get(kind, "")
        if precision and not subject.profile.runs(precision):
            places[precision].append(name)
    for precision, names in places.items():
        capability = subject.profile.compute_capability
        text = f"{len(names)} tensors in {precision.upper()}, compute capability {capability}"
        yield Fault(names[0], f"{text} has none")


def _typed_names(view: GraphView) -> Iterator[tuple[str, int]]:
    for node in view.nodes:
        for name in node.output:
            if name and name not in view.constants:
                yield name, view.elem_type(name)
    for name, tensor in view.constants.items():
        yield name, tensor.data_type


@rule(
    27,
    Level.WARNING,
    "quantized convolutions have channels in multiples of 8, at least 16",
    source="ModelOpt find_nodes_from_convs_to_exclude",
    remedy="Leave this convolution in FP16; for a patch embedding that costs little.",
)
def convolutions_fit_kernels(subject: CheckedGraph) -> Iterator[Fault]:
    """Look at channels and, in FP8, at the kernel area of quantized convolutions."""
    view = subject.view
    for product in products(view):
        shape = view.shape(product.node.input[1]) or ()
        known = [size for size in shape if isinstance(size, int)]
        if product.node.op_type != "Conv" or not product.quantized or len(known) < 3:
            continue
        name, channels = view.label(product.node), known[:2]
        if has_odd_channels(known):
            text = f"{channels[1]} channels in, {channels[0]} out: no integer tensor-core kernel"
            yield Fault(name, text)
        if product.operands[1].code_type != FP8:
            continue
        if has_large_fp8_kernel(known):
            yield Fault(name, f"a kernel of {prod(known[2:])} pixels in FP8", Level.ERROR)
        elif has_few_fp8_channels(known):
            yield Fault(name, f"{min(channels)} channels in FP8")


@rule(
    28,
    Level.WARNING,
    "quantized products are large enough for tensor cores",
    source="ModelOpt find_nodes_from_matmul_to_exclude: one row, or K or N below 16",
    remedy="Leave this product in FP16; for a classifier head that costs little.",
)
def products_fit_kernels(subject: CheckedGraph) -> Iterator[Fault]:
    """Look at rows M (at batch 1), inner size K and columns N of quantized products."""
    view = subject.view
    for product in products(view):
        if product.node.op_type not in ("Gemm", "MatMul") or not product.quantized:
            continue
        sizes = _sizes(view, product)
        small = [f"{letter} = {n}" for letter, n in sizes.items() if n < SMALLEST]
        if sizes.get("M") == 1 or {"K", "N"} & {text[0] for text in small}:
            why = "one row" if sizes.get("M") == 1 else ", ".join(t for t in small if t[0] != "M")
            yield Fault(view.label(product.node), f"{why}: tensor cores can't be used")


def _sizes(view: GraphView, product: OnnxProduct) -> dict[str, int]:
    """Return M, K and N as far as they are known; an open batch counts as 1."""
    node, batch = product.node, view.batch_symbols
    left, right = view.shape(node.input[0]), view.shape(node.input[1])
    found: dict[str, int] = {}
    if left is not None and len(left) > 1:
        rows, inner = (left[:-1], left[-1])
        if node.op_type == "Gemm" and attribute(node, "transA", 0):
            rows, inner = left[1:], left[0]
        if all(isinstance(n, int) or n in batch for n in rows):
            found["M"] = prod(n if isinstance(n, int) else 1 for n in rows)
        found |= {"K": inner} if isinstance(inner, int) else {}
    if right is not None and len(right) > 1:
        swapped = node.op_type == "Gemm" and attribute(node, "transB", 0)
        columns = right[0] if swapped else right[-1]
        found |= {"N": columns} if isinstance(columns, int) else {}
    return found
