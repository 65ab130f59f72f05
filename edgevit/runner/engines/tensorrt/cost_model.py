"""PREDICTS how long each kernel of an engine takes on a device, and where INT8 beats FP16.

A kernel takes as long as its multiply-adds at the device's peak or its bytes at the memory's
bandwidth, whichever is longer, and the least that a launch costs (the roofline model: S. Williams,
A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4), 2009). Nothing here is measured, and no cache is modelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Iterable, Sequence

import numpy as np

from edgevit.errors import DeviceError
from edgevit.runner.engines.tensorrt.device_peaks import DevicePeaks
from edgevit.runner.engines.tensorrt.inspecting import EngineLayer, LayerOperand
from edgevit.runner.engines.tensorrt.kernel_sizes import (
    SizedKernel,
    follows_batch,
    rest,
    weight_matrices,
)

if TYPE_CHECKING:
    import numpy.typing as npt

_BYTES = {"fp4": 0.5, "int8": 1, "fp8": 1, "bool": 1, "fp16": 2, "bf16": 2, "fp32": 4,
          "int32": 4, "int64": 8}  # fmt: skip
_ON_THE_HOST = ("shape_call", "constant", "noop")
LARGEST_BATCH = 256
"""Batches up to this are looked at for the one from which 8 bits win."""


@dataclass(frozen=True)
class KernelWork:
    """Work of a kernel: bytes and multiply-adds.

    Args:
        layer: The kernel.
        fixed_bytes: Bytes that it moves once, whatever the batch: weights and constants.
        bytes_per_image: Bytes that it moves for each image.
        macs_per_image: Multiply-adds of its products for each image.
        launches: 1, or 0 for what does not run on the GPU.
    """

    layer: EngineLayer
    fixed_bytes: float
    bytes_per_image: float
    macs_per_image: int
    launches: int = 1

    def milliseconds(self, device: DevicePeaks, batch: int, *, launch: bool = True) -> float:
        """Return the predicted time at a batch size; without the launch if it is not wanted."""
        times = predicted_ms([self], device, [batch], launch=launch)
        return float(times[0, 0])

    def is_bound_by(self, device: DevicePeaks, batch: int) -> str:
        """Return what takes longest: "launch", "memory" or "compute"."""
        compute, memory = _parts([self], device, np.array([batch]))
        parts = (self.launches * device.launch_us / 1e3, memory[0, 0], compute[0, 0])
        return ("launch", "memory", "compute")[int(np.argmax(parts))]


def kernel_works(kernels: Iterable[SizedKernel]) -> list[KernelWork]:
    """Return what each kernel has to do.

    Raises:
        DeviceError: A product whose operands make no product (EV852).
    """
    return [_work(one) for one in kernels]


def predicted_ms(
    works: Sequence[KernelWork], device: DevicePeaks, batches: Sequence[int], *, launch: bool = True
) -> npt.NDArray[np.float64]:
    """Return predicted milliseconds, float64 [kernels, batches].

    Args:
        works: Of one engine.
        device: Where it would run.
        batches: Batch sizes.
        launch: Whether the least time of a launch is added.

    Raises:
        UnsupportedError: The device does not compute in a kernel's precision (EV850).
    """
    compute, memory = _parts(works, device, np.asarray(batches, np.float64))
    launches = np.array([work.launches for work in works], np.float64)[:, None]
    extra = launches * device.launch_us / 1e3 if launch else 0.0
    return np.asarray(np.maximum(compute, memory) + extra)


def crossover_batch(
    fp16: Sequence[KernelWork], other: Sequence[KernelWork], device: DevicePeaks
) -> int | None:
    """Return the batch from which on `other` is predicted to be faster than `fp16`.

    Returns:
        The smallest such that it is so for all larger ones up to `LARGEST_BATCH`; None if it is
        slower at that one.
    """
    batches = range(1, LARGEST_BATCH + 1)
    slower = predicted_ms(other, device, batches).sum(0) >= predicted_ms(fp16, device, batches).sum(
        0
    )
    last = int(np.flatnonzero(slower)[-1]) + 1 if slower.any() else 0  # a batch size
    return None if last == LARGEST_BATCH else last + 1


def _parts(
    works: Sequence[KernelWork], device: DevicePeaks, batches: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return milliseconds of multiply-adds and of memory, each [kernels, batches]."""
    rates = [device.operations(one.layer.precision) if one.macs_per_image else 1.0 for one in works]
    macs = np.array([one.macs_per_image / rate for one, rate in zip(works, rates)])[:, None]
    fixed = np.array([work.fixed_bytes for work in works], np.float64)[:, None]
    growing = np.array([work.bytes_per_image for work in works], np.float64)[:, None]
    moved = fixed + growing * batches
    return 2e3 * macs * batches, moved / (device.bandwidth_gb_s * 1e6)


def _work(kernel: SizedKernel) -> KernelWork:
    layer = kernel.layer
    if layer.kind.lower() in _ON_THE_HOST:
        return KernelWork(layer, 0, 0, 0, launches=0)
    sides = (*zip(layer.inputs, kernel.inputs), *zip(layer.outputs, kernel.outputs))
    fixed = sum(_bytes(one) for one in layer.constants)
    fixed += sum(_bytes(one) for one, _ in sides if not follows_batch(one))
    growing = sum(_bytes(one) * factor for one, factor in sides)
    return KernelWork(layer, fixed, growing, _macs(kernel))


def _bytes(one: LayerOperand) -> float:
    return _BYTES.get(one.precision, 4) * rest(one)


def _macs(kernel: SizedKernel) -> int:
    """Return the multiply-adds of a kernel's products for one image."""
    layer = kernel.layer
    if not layer.holds_product:
        return 0
    inputs, outputs = kernel.at(1)
    if layer.is_attention:
        return _attention_macs(layer, inputs)
    found = 0
    for depth, columns in weight_matrices(layer):
        rows = [shape[:-1] for shape in inputs if shape[-1] == depth and len(shape) > 1]
        found += prod(rows[0]) * depth * columns
    return found or _batched_macs(layer, inputs, outputs)


def _attention_macs(layer: EngineLayer, inputs: Sequence[tuple[int, ...]]) -> int:
    """Return those of Q K and P V: [heads, N, d], [heads, d, M], [heads, M, e]."""
    if len(inputs) < 3:
        raise _no_product(layer)
    (*heads, queries, depth), key, value = inputs[:3]
    keys = key[-1] if key[-2] == depth else key[-2]
    return prod(heads) * queries * keys * (depth + value[-1])


def _batched_macs(
    layer: EngineLayer, inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]
) -> int:
    """Return those of one product of two activations, [.., M, K] and [.., K, N]."""
    for left in inputs:
        for right in inputs:
            fits = len(left) > 2 and len(right) > 2 and left[-1] == right[-2] and left is not right
            if fits and any(one[-2:] == (left[-2], right[-1]) for one in outputs):
                return prod(left) * right[-1]
    raise _no_product(layer)


def _no_product(layer: EngineLayer) -> DeviceError:
    shapes = [list(one.shape) for one in (*layer.inputs, *layer.constants)]
    return DeviceError(
        "EV852",
        "The multiply-adds of a kernel can't be counted.",
        where=layer.name[:120],
        why=f"It computes a product, but of its operands {shapes} none make one.",
        try_next="Report it with the bundle's kernels.json.",
    )
