"""The RTX targets: TensorRT's graphs for cards that TensorRT for RTX compiles ahead of time.

They share placement, variants and lowering with TensorRT (see `edgevit.targets.tensorrt`).
"""

from __future__ import annotations

from edgevit.targets.rtx import NAMES
from edgevit.targets.tensorrt.profiles import PROFILES
from edgevit.targets.tensorrt.target import TensorRTTarget

TARGETS = tuple(TensorRTTarget(PROFILES[name]) for name in NAMES)
