"""TensorRT devices: graphs with explicit Q/DQ around every quantized product, body in float16."""

from edgevit.targets.tensorrt.profiles import PROFILES

NAMES = tuple(name for name, profile in PROFILES.items() if profile.engine == "tensorrt")
