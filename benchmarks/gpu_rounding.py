"""Counts the codes in which a GPU's ways to quantize differ, for every float16 number and scale.

Triton writes the kernel: division and multiplication by the reciprocal, as NVIDIA's compiler does
it, with the reciprocal in float32 and rounded to float16. With TRITON_INTERPRET=1 it runs on the
CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
import triton
import triton.language as tl
from onnx import numpy_helper

_MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds a float32 half to even
_BLOCK = 4096


@triton.jit
def _codes(values, scales, codes, count, way: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * block + tl.arange(0, block)
    value = tl.load(values + at, mask=at < count, other=0.0).to(tl.float32)
    scale = tl.load(scales)
    if way == 0:
        steps = tl.div_rn(value, scale)
    elif way == 1:
        steps = value * tl.div_rn(1.0, scale)
    else:
        steps = value * tl.div_rn(1.0, scale).to(tl.float16).to(tl.float32)
    steps = tl.minimum(tl.maximum(steps, -128.0), 127.0)
    tl.store(codes + at, ((steps + _MAGIC) - _MAGIC).to(tl.int8), mask=at < count)


WAYS = ("division", "reciprocal in float32", "reciprocal in float16")


def rounding(models: list[bytes], device: str) -> dict[str, Any]:
    """Return how many codes each way gives that numpy's division does not, over all scales.

    Args:
        models: Serialized ModelProtos; the scales of their activations are taken.
        device: "cuda", or "cpu" with TRITON_INTERPRET=1.
    """
    scales = sorted({scale for model in models for scale in _scales(model)})
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    numbers = every[np.isfinite(every)]
    wrong = dict.fromkeys(WAYS, 0)
    for scale in scales:
        wanted = np.clip(np.rint(numbers.astype(np.float32) / scale), -128, 127).astype(np.int8)
        for way, name in enumerate(WAYS):
            wrong[name] += int((_on(numbers, scale, way, device) != wanted).sum())
    return {"scales": len(scales), "numbers": len(numbers), "other_codes": wrong}


def _on(
    numbers: npt.NDArray[np.float16], scale: np.float32, way: int, device: str
) -> npt.NDArray[np.int8]:
    values = torch.from_numpy(numbers.copy()).to(device)
    one = torch.tensor([float(scale)], dtype=torch.float32, device=device)
    codes = torch.empty(len(numbers), dtype=torch.int8, device=device)
    grid = (triton.cdiv(len(numbers), _BLOCK),)
    _codes[grid](values, one, codes, len(numbers), way=way, block=_BLOCK)
    return codes.cpu().numpy()


def _scales(model: bytes) -> set[np.float32]:
    graph = onnx.ModelProto.FromString(model).graph
    constants = {one.name: one for one in graph.initializer}
    read = [node.input for node in graph.node if node.op_type == "QuantizeLinear"]
    int8 = onnx.TensorProto.INT8
    found = [x[1] for x in read if x[0] not in constants and constants[x[2]].data_type == int8]
    return {np.float32(numpy_helper.to_array(constants[name])) for name in found}
