"""The `cpu` target: ONNX Runtime on x86-64 or Arm, 8-bit integer kernels."""

NAMES = ("cpu",)
