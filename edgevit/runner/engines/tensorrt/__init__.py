"""TensorRT on the device: build, cache, run, inspect, and choose among a bundle's variants.

What ran on hardware and what did not is said in docs/tensorrt-session.md.
"""

from __future__ import annotations

from edgevit.runner.engines.tensorrt.choosing import choose_engine, layer_table
from edgevit.runner.engines.tensorrt.gate import Gate
from edgevit.runner.engines.tensorrt.opening import (
    BuiltEngine,
    EngineOptions,
    available_tool,
    built_engine,
    engine_for,
)
from edgevit.runner.engines.tensorrt.parity import Parity, ParityLimits
from edgevit.runner.engines.tensorrt.policy import Decision, Trial, decide
from edgevit.runner.engines.tensorrt.session import TensorRTSession
from edgevit.runner.engines.tensorrt.trial_plan import TrialPlan
from edgevit.runner.engines.tensorrt.trials import try_variants

__all__ = [
    "BuiltEngine",
    "Decision",
    "EngineOptions",
    "Gate",
    "Parity",
    "ParityLimits",
    "TensorRTSession",
    "Trial",
    "TrialPlan",
    "available_tool",
    "built_engine",
    "choose_engine",
    "decide",
    "engine_for",
    "layer_table",
    "try_variants",
]
