"""Says for every product of a bundle what the engine made of it: asked, chosen, time, why not.

The bundle's rows (`manifest["layers"]`) name the ONNX node of each product; the inspector says
which nodes became part of which kernel. What can't be told is left empty, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgevit.runner.engines.tensorrt.fallback_reasons import Evidence, reason_for
from edgevit.runner.engines.tensorrt.inspecting import CODES, EngineLayer
from edgevit.runner.measure.blocks import plain_name

_FLOAT_KERNELS = ("float32", "float16", "fp32", "fp16")


@dataclass(frozen=True)
class ProductRow:
    """One product of the model in one engine.

    Args:
        name: The product's name in the bundle.
        module: Path of its module.
        asked_bits: Such as "8 x 8" (activation x weight); empty for a product left in float.
        carrier: Type that holds the codes, as the bundle says.
        asked: Precision the graph asks for: "int8", "fp8" or "float".
        chosen: Precision of the kernel; empty if no kernel names the product.
        kernel: The kernel.
        time_ms: Time of its engine layer, shared by everything fused into it; None unmeasured.
        engine_layer: Name of the engine layer.
        reason: Why it is not as asked; empty if it is.
    """

    name: str
    module: str
    asked_bits: str
    carrier: str
    asked: str
    chosen: str
    kernel: str
    time_ms: float | None
    engine_layer: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class EngineSummary:
    """An engine in numbers; times are null (None) when nothing was profiled.

    Args:
        kernels: Layers that run; constants and signals between streams are left out.
        moves: Layers that only reformat, cast or rearrange.
        moves_ms: Their time.
        attention: Fused attention kernels.
        attention_ms: Their time.
        asked_low: Products for which the graph asks 8 bits.
        got_low: Of these, products with an 8-bit kernel.
        missed_ms: Time of those without one.
        products_ms: Time of all layers that hold a product.
        total_ms: Time of all layers.
    """

    kernels: int
    moves: int
    moves_ms: float | None
    attention: int
    attention_ms: float | None
    asked_low: int
    got_low: int
    missed_ms: float | None
    products_ms: float | None
    total_ms: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


def product_rows(
    products: Sequence[Mapping[str, Any]],
    layers: Sequence[EngineLayer],
    times_ms: Mapping[str, float] | None = None,
) -> list[ProductRow]:
    """Return one row per product.

    Args:
        products: Rows of `manifest["layers"]` of the engine's variant.
        layers: The engine's layers.
        times_ms: Milliseconds by layer name.
    """
    by_node = _by_node(layers)
    producers = {item.name: layer for layer in layers for item in layer.outputs}
    return [_row(product, by_node, producers, times_ms or {}) for product in products]


def summary(
    rows: Sequence[ProductRow],
    layers: Sequence[EngineLayer],
    times_ms: Mapping[str, float] | None = None,
) -> EngineSummary:
    """Return an engine in numbers; arguments as `product_rows`, whose result is `rows`."""
    running = [layer for layer in layers if layer.runs]
    moves = [layer for layer in running if layer.only_moves]
    attention = [layer for layer in running if layer.is_attention]
    low = [row for row in rows if row.asked in CODES]
    missed = [row for row in low if row.chosen not in CODES]

    def spent(names: set[str]) -> float | None:
        return None if not times_ms else sum(times_ms.get(name, 0.0) for name in names)

    return EngineSummary(
        kernels=len(running),
        moves=len(moves),
        moves_ms=spent({layer.name for layer in moves}),
        attention=len(attention),
        attention_ms=spent({layer.name for layer in attention}),
        asked_low=len(low),
        got_low=len(low) - len(missed),
        missed_ms=spent({row.engine_layer for row in missed}),
        products_ms=spent({row.engine_layer for row in rows}),
        total_ms=spent(set(times_ms or ())),
    )


def _row(
    product: Mapping[str, Any],
    by_node: Mapping[str, EngineLayer],
    producers: Mapping[str, EngineLayer],
    times_ms: Mapping[str, float],
) -> ProductRow:
    layer = _layer_of(product, by_node)
    asked = _asked(product)
    return ProductRow(
        name=str(product["name"]),
        module=str(product.get("module", "")),
        asked_bits=_asked_bits(product),
        carrier=str(product.get("carrier", "")),
        asked=asked,
        chosen=layer.precision if layer else "",
        kernel=layer.tactic if layer else "",
        time_ms=times_ms.get(layer.name) if layer else None,
        engine_layer=layer.name if layer else "",
        reason=_reason(asked, layer, producers),
    )


def _by_node(layers: Sequence[EngineLayer]) -> dict[str, EngineLayer]:
    """Return plain node name -> the layer that computes it.

    A node may stand in several: its scale and bias in the kernel that follows its product. Layers
    that hold a product go before others, and moves come last.
    """
    found: dict[str, EngineLayer] = {}
    for layer in sorted(layers, key=lambda layer: (not layer.only_moves, layer.holds_product)):
        for node in layer.onnx_nodes:
            found[plain_name(node)] = layer
    return found


def _layer_of(product: Mapping[str, Any], by_node: Mapping[str, EngineLayer]) -> EngineLayer | None:
    """Return the layer of the first of a product's nodes that the engine names."""
    # A linear layer is a MatMul called "..._product" and an Add of its bias, which carries the
    # layer's name and may have been fused into what follows.
    nodes = [f"{product['name']}_product", product.get("tensor"), product["name"]]
    names = [plain_name(str(node)) for node in nodes if node]
    return next((by_node[name] for name in names if name in by_node), None)


def _asked(product: Mapping[str, Any]) -> str:
    """Return the precision the graph asks for."""
    carrier = str(product.get("carrier", "")).lower()
    if not carrier or product.get("kernel") in _FLOAT_KERNELS:
        return "float"
    return "fp8" if "f8" in carrier else "int8"  # "s8 x s8" or "f8 x f8"


def _asked_bits(product: Mapping[str, Any]) -> str:
    left, right = product.get("left_bits"), product.get("right_bits")
    return f"{left} x {right}" if left is not None and right is not None else ""


def _reason(asked: str, layer: EngineLayer | None, producers: Mapping[str, EngineLayer]) -> str:
    """Return why a product is not as asked, as far as the engine tells."""
    if layer is not None and (asked not in CODES or layer.precision == asked):
        return ""
    inputs = () if layer is None else layer.inputs
    before = tuple(producers[item.name] for item in inputs if item.name in producers)
    return reason_for(Evidence(asked, layer, before))
