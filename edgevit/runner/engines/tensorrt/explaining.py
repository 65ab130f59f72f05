"""PREDICTS where the time of each variant of a bundle goes, from its kernels and the cost model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping, Sequence

from edgevit.bundle.graph_values import graph_values
from edgevit.errors import UnsupportedError
from edgevit.runner.engines.tensorrt.cost_model import (
    KernelWork,
    crossover_batch,
    kernel_works,
    predicted_ms,
)
from edgevit.runner.engines.tensorrt.kernel_sizes import sized_kernels
from edgevit.runner.engines.tensorrt.layer_table import EngineSummary, product_rows, summary
from edgevit.runner.engines.tensorrt.reasons import ranked_reasons
from edgevit.runner.measure.blocks import kernel_blocks
from edgevit.runner.measure.explanation import Form, Part, form_of

if TYPE_CHECKING:
    from edgevit.bundle import Bundle
    from edgevit.runner.engines.tensorrt.device_peaks import DevicePeaks
    from edgevit.runner.engines.tensorrt.inspecting import EngineLayer
    from edgevit.runner.engines.tensorrt.kernel_table import KernelTable

BASELINE = "fp16"


def predicted_forms(
    bundle: Bundle,
    tables: Mapping[str, KernelTable],
    device: DevicePeaks,
    batch: int,
    shown: str = BASELINE,
) -> list[Form]:
    """Return FP16 and then every other variant, as the cost model predicts them.

    Args:
        bundle: An opened bundle.
        tables: Variant -> its kernels.
        device: Where it would run.
        batch: Batch size.
        shown: The variant that is compared with FP16.

    Raises:
        UnsupportedError: There are no kernels of FP16 or of that variant (EV853), or of a
            precision that the device lacks (EV850).
        DeviceError: The kernels are not of this bundle (EV851), or hold a product that can't be
            counted (EV852).
    """
    missing = [name for name in dict.fromkeys((BASELINE, shown)) if name not in tables]
    if missing:
        raise UnsupportedError(
            "EV853",
            "There is nothing to compare with.",
            where=str(bundle.path),
            why=f"It has kernels of {', '.join(tables)}, and none of {', '.join(missing)}.",
            try_next="edgevit build BUNDLE compiles every variant.",
        )
    works = {
        name: kernel_works(sized_kernels(table.layers, graph_values(bundle, name)))
        for name, table in tables.items()
    }
    numbers = {name: _numbers(bundle, name, work, device, batch) for name, work in works.items()}
    forms = [form_of(BASELINE, _parts(bundle, BASELINE, works[BASELINE], device, batch))]
    for name in works:
        if name != BASELINE:
            parts = _parts(bundle, name, works[name], device, batch)
            crossing = crossover_batch(works[BASELINE], works[name], device)
            reasons = ranked_reasons(
                numbers[BASELINE],
                numbers[name],
                launch_ms=device.launch_us / 1e3,
                batches_help=crossing is not None,
            )
            forms.append(form_of(name, parts, reasons, crossing))
    return forms


def _parts(
    bundle: Bundle, name: str, works: Sequence[KernelWork], device: DevicePeaks, batch: int
) -> list[Part]:
    nodes = [work.layer.onnx_nodes for work in works]
    times = predicted_ms(works, device, [batch])[:, 0]
    return [
        Part(
            block,
            _kind(work.layer),
            _precision(work.layer),
            float(time),
            work.is_bound_by(device, batch),
        )
        for work, block, time in zip(works, kernel_blocks(nodes, bundle.layers(name)), times)
        if work.layer.runs
    ]


def _numbers(
    bundle: Bundle, name: str, works: Sequence[KernelWork], device: DevicePeaks, batch: int
) -> EngineSummary:
    """Return an engine in numbers; its times are those of the work alone, without launches."""
    layers = [work.layer for work in works]
    times = predicted_ms(works, device, [batch], launch=False)[:, 0]
    by_name = {layer.name: float(time) for layer, time in zip(layers, times)}
    return summary(product_rows(bundle.layers(name), layers, by_name), layers, by_name)


def _kind(layer: EngineLayer) -> str:
    if layer.is_attention:
        return "attention"
    if layer.holds_product:
        return "product"
    return "moving" if layer.only_moves else "pointwise"


def _precision(layer: EngineLayer) -> str:
    return layer.precision if layer.holds_product else ""
