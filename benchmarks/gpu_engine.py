"""Runs what TensorRT for RTX makes of a graph on this machine's GPU; status 0 if it does.

`gpu.py` starts it in a process of its own, as a card it is not for may end it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx

from edgevit.runner.engines.tensorrt.building import BuildSettings, plan_from_onnx
from edgevit.runner.engines.tensorrt.session import TensorRTSession
from edgevit.runner.engines.tensorrt_rtx.bindings import load_rtx


def main() -> int:
    """Build the graph of the file that is named, and run one black image."""
    graph, trt = Path(sys.argv[1]).read_bytes(), load_rtx()
    image = onnx.ModelProto.FromString(graph).graph.input[0].type.tensor_type.shape.dim
    plan = plan_from_onnx(trt, graph, BuildSettings())
    pixels = np.zeros((1, *(size.dim_value for size in image[1:])), np.float32)
    return int(not np.isfinite(TensorRTSession(plan.data, trt=trt).run(pixels)).all())


if __name__ == "__main__":
    sys.exit(main())
