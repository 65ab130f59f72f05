"""Tries whether this machine's ONNX Runtime adds products of u8 and s8 codes exactly.

On x86-64 without VNNI instructions it adds pairs of products in 16 bits, which saturate
(`edgevit.targets.cpu.saturation`); so do 64-bit Arm processors without dot product instructions,
for the codes 0 and -128. A product of two small matrices tells; going by the processor's name
or flags, one would have to know what every release of the engine does with them. Boards get this
file: it needs numpy and Python 3.8.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.runner.engines.onnxruntime.settings import EXACT_SUMS

if TYPE_CHECKING:
    import numpy.typing as npt

_ROWS, _SUMMED, _COLUMNS = 16, 64, 32
PROBE = base64.b64decode(
    "CAg6mgEKOAoBYQoBYgoDb25lCgNvbmUSAXkiFE1hdE11bEludGVnZXJUb0Zsb2F0Og1jb20ubWljcm9zb2Z0EgpzYX"
    "R1cmF0aW9uKg0QASIEAACAP0IDb25lWhUKAWESEAoOCAISCgoDEgFNCgMSAUtaFQoBYhIQCg4IAxIKCgMSAUsKAxIB"
    "TmIVCgF5EhAKDggBEgoKAxIBTQoDEgFOQgQKABARQhEKDWNvbS5taWNyb3NvZnQQAQ=="
)
"""One MatMulIntegerToFloat, steps 1, of u8 `a` [M, K] and s8 `b` [K, N]; its tests say how made."""
_LOG_ERRORS_ONLY = 3


@lru_cache(maxsize=1)
def saturates(runtime: Any) -> bool:
    """Return whether sums of u8 x s8 products are wrong here.

    Args:
        runtime: The module `onnxruntime`.
    """
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, _LOG_ERRORS_ONLY
    session = runtime.InferenceSession(PROBE, options, providers=["CPUExecutionProvider"])
    a, b = np.zeros((_ROWS, _SUMMED), np.uint8), np.full((_SUMMED, _COLUMNS), 127, np.int8)
    a[::2], b[:, ::2] = 255, -128
    (found,) = session.run(None, {"a": a, "b": b})
    sums: npt.NDArray[np.int64] = a.astype(np.int64) @ b.astype(np.int64)
    return bool((found != sums).any())


def exact_config(runtime: Any) -> dict[str, str]:
    """Return the session configuration with which products of constant weights are exact here.

    The engine then turns s8 weights into u8, whose kernel adds in 32 bits. It does so on every
    x86-64 processor, and where the s8 kernel is exact it takes a third of the time: there this
    returns nothing.

    Args:
        runtime: The module `onnxruntime`.
    """
    return dict(EXACT_SUMS) if saturates(runtime) else {}
