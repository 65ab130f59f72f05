"""Compiles bundles with TensorRT for RTX and counts the kernels that come out; needs no GPU.

    python benchmarks/rtx_kernels.py --form "one product cut along heads"
    python benchmarks/rtx_kernels.py --form "before" --checkout OLD --target tensorrt-ada

--checkout names another checkout of the project: it writes the bundles, and this one compiles them,
so graphs of before and after a change are judged by the same compiler and counted in the same way.
Bundles are kept under benchmarks/cache. One that is written for a card with every variant serves
all cards, as graphs do not depend on the card; a variant that a card does not compute in has no
row for it.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import onnx
from rows import add_row, read_rows
from subjects import CACHE

from edgevit import load
from edgevit.runner.engines.tensorrt.inspecting import EngineLayer
from edgevit.runner.engines.tensorrt.layer_table import (
    ProductRow,
    product_rows,
    summary,
)
from edgevit.runner.engines.tensorrt_rtx.compiling import CompiledEngine, compiled_from_onnx
from edgevit.targets.tensorrt.profiles import PROFILES
from edgevit.zoo import EMBEDDED_MODELS

TABLE = "rtx_kernels"
MODELS = "vit_cifar10,swin_cifar10,deit_s,vit_b,swin_t"
LOW = ("int8", "fp8")
_WRITE = """
import sys
from edgevit import api
from edgevit.zoo import reference_images
model, target, pretrained, folder = sys.argv[1:]
images = str(reference_images("calibration"))
options = dict(bits=8, target=target, method="minmax", num_calib=8)
api.quantize(model, images, pretrained=pretrained == "yes", **options).save(folder)
"""


def written(model: str, form: str, checkout: Path, target: str) -> Path:
    """Return a bundle of the model that this checkout wrote."""
    folder = CACHE / "rtx_kernels" / form.replace(" ", "_") / model
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        pretrained = "yes" if model in EMBEDDED_MODELS else "no"
        command = [sys.executable, "-c", _WRITE, model, target, pretrained, str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        subprocess.run(command, check=True, env=environment, cwd=checkout)
    return folder


def multiply_adds(graph: bytes) -> dict[str, int]:
    """Return the multiply-adds of each MatMul for one image, by name of its output."""
    model = onnx.ModelProto.FromString(graph)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    products = [node for node in inferred.node if node.op_type == "MatMul"]
    return {
        node.output[0]: math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        for node in products
    }


def share_in_8_bits(
    layers: list[Mapping[str, Any]], products: list[ProductRow], work: Mapping[str, int]
) -> float:
    """Return the percentage of the products' multiply-adds whose kernels compute in 8 bits."""
    done = sum(
        work[_matmul(layer, work)]
        for layer, product in zip(layers, products, strict=True)
        if product.chosen in LOW
    )
    return 100 * done / sum(work.values())


def _matmul(layer: Mapping[str, Any], work: Mapping[str, int]) -> str:
    """Return the output of a product's MatMul; a bias is added behind it."""
    names = [f"{layer['tensor']}_product", str(layer["tensor"])]
    return next(name for name in names if name in work)


def is_float_pointwise(layer: EngineLayer) -> bool:
    """Return whether it is a generated kernel that is no attention."""
    return layer.kind == "kgen" and not layer.is_attention


def kernels_per_block(layers: Sequence[EngineLayer]) -> float:
    """Return the median number of kernels from one fused attention to the next, 0 without."""
    places = [
        place
        for place, layer in enumerate(layer for layer in layers if layer.runs)
        if layer.is_attention
    ]
    return float(median(b - a for a, b in pairwise(places))) if len(places) > 1 else 0.0


def row_of(engine: CompiledEngine, graph: bytes, layers: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the figures of one engine."""
    products = product_rows(layers, engine.layers)
    found = summary(products, engine.layers)
    return {
        "kernels": found.kernels,
        "kernels_per_block": kernels_per_block(engine.layers),
        "asked_in_8_bits": found.asked_low,
        "compiled_in_8_bits": found.got_low,
        "multiply_adds_in_8_bits_percent": share_in_8_bits(layers, products, multiply_adds(graph)),
        "fused_attention": found.attention,
        "pointwise": sum(is_float_pointwise(layer) for layer in engine.layers),
        "moves": found.moves,
        "build_seconds": round(engine.seconds, 1),
        "tensorrt_rtx": engine.version,
        "list_sha256": engine.list_sha256[:12],
    }


def cases(variants: tuple[str, ...], cards: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (variant, card) for all that a card computes in."""
    for card in cards:
        profile = next(p for p in PROFILES.values() if p.compiles_as == card)
        for variant in variants:
            if variant != "fp8" or profile.runs("fp8"):
                yield variant, card


def measure(model: str, form: str, folder: Path, cards: list[str]) -> None:
    """Add the rows of one model that are not there yet."""
    bundle = load(folder)
    for variant, card in cases(bundle.variants, cards):
        task = {"model": model, "variant": variant, "card": card, "form": form}
        if any(task.items() <= row.items() for row in read_rows(TABLE)):
            continue
        name = None if variant == "int8" else variant
        graph = bundle.engine_onnx(name)
        engine = compiled_from_onnx(graph, (card,))
        layers = list(bundle.layers(name))
        add_row(TABLE, {**task, **row_of(engine, graph, layers)})


def main() -> None:
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--cards", default="SM86,SM89,SM120")
    parser.add_argument("--form", required=True, help="what the graphs are called in the rows")
    parser.add_argument("--checkout", type=Path, default=here, help="it writes the bundles")
    parser.add_argument("--target", default="rtx-ada", help="what the bundles are written for")
    options = parser.parse_args()
    for model in options.models.split(","):
        folder = written(model, options.form, options.checkout.resolve(), options.target)
        measure(model, options.form, folder, options.cards.split(","))


if __name__ == "__main__":
    main()
