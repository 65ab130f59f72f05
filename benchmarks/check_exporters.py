"""What `edgevit check` finds in ONNX files of other makers: rows of docs/check.md.

deit_tiny (random weights; the checker looks at structure) is exported with torch.onnx, then
quantized by ONNX Runtime with its defaults, by ONNX Runtime with the settings that TensorRT needs,
and by NVIDIA's ModelOpt to INT8 and FP8. What is not installed is left out and said.

    pip install onnxscript "nvidia-modelopt[onnx]"
    python benchmarks/check_exporters.py FOLDER
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np

from edgevit import api

MODEL, SIDE, NUM_IMAGES = "deit_tiny_patch16_224", 224, 2
CHECKS = (
    ("fp32.onnx", "jetson-orin-nano"),
    ("onnxruntime_defaults.onnx", "jetson-orin-nano"),
    ("onnxruntime_symmetric.onnx", "jetson-orin-nano"),
    ("modelopt_int8.onnx", "jetson-orin-nano"),
    ("modelopt_fp8.onnx", "jetson-thor"),
    ("modelopt_fp8.onnx", "jetson-orin-nano"),
)


def images():
    """Return float32 [NUM_IMAGES, 3, SIDE, SIDE]."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(NUM_IMAGES, 3, SIDE, SIDE)).astype(np.float32)


def export(path):
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model(MODEL, pretrained=False).eval()
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model,
        (torch.from_numpy(images()),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        external_data=False,
    )


def by_onnxruntime(source, path, **settings):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"image": image[None]} for image in images()]

        def get_next(self):
            return self.left.pop() if self.left else None

    quantize_static(source, path, Reader(), **settings)


def by_modelopt(source, path, mode):
    from modelopt.onnx.quantization import quantize

    quantize(
        str(source),
        quantize_mode=mode,
        calibration_data={"image": images()},
        calibration_method="max",
        calibration_eps=["cpu"],
        output_path=str(path),
    )


def symmetric():
    """Return the settings of quantize_static that TensorRT needs."""
    from onnxruntime.quantization import QuantType

    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    kinds = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    products = {"op_types_to_quantize": ["MatMul", "Gemm"], "per_channel": True}
    return {**kinds, **products, "extra_options": options}


def main(folder):
    fp32 = folder / "fp32.onnx"
    makers = {
        "fp32.onnx": lambda path: export(path),
        "onnxruntime_defaults.onnx": lambda path: by_onnxruntime(fp32, path),
        "onnxruntime_symmetric.onnx": lambda path: by_onnxruntime(fp32, path, **symmetric()),
        "modelopt_int8.onnx": lambda path: by_modelopt(fp32, path, "int8"),
        "modelopt_fp8.onnx": lambda path: by_modelopt(fp32, path, "fp8"),
    }
    for name, make in makers.items():
        try:
            if not (folder / name).exists():
                make(folder / name)
        except ImportError as error:
            print(f"{name} left out: {error}")
    for name, target in CHECKS:
        if (folder / name).exists():
            show(api.check(folder / name, target=target), name)


def show(report, name):
    (graph,) = report["graphs"]
    counts = Counter((f["rule"], f["level"]) for f in graph["findings"])
    print(f"{name} for {report['target']}: {graph['counts']}")
    for (number, level), count in sorted(counts.items(), key=lambda item: item[0]):
        first = next(f for f in graph["findings"] if (f["rule"], f["level"]) == (number, level))
        print(f"  rule {number} {level} x {count}: {first['node']}: {first['message']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
