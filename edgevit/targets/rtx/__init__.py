"""Desktop GPUs that run TensorRT for RTX, whose compiler needs no GPU: the graphs of TensorRT."""

from edgevit.targets.tensorrt.profiles import PROFILES

NAMES = tuple(name for name, profile in PROFILES.items() if profile.engine == "tensorrt_rtx")
