"""TensorRT devices: graphs with explicit Q/DQ around every quantized product, body in float16."""

from edgevit.targets.tensorrt.profiles import PROFILES

NAMES = tuple(PROFILES)
