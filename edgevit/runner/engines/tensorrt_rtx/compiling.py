"""Compiles an ONNX graph ahead of time for cards that need not be there, and keeps its kernels.

The compiler lists every kernel of the engine with the data types it reads and writes, so which
precision each product runs in is known without a device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Sequence

from edgevit.bundle.manifest import CAPABILITIES
from edgevit.errors import UsageError
from edgevit.runner.engines.tensorrt.bindings import MessageLog
from edgevit.runner.engines.tensorrt.building import BuildSettings, plan_from_onnx
from edgevit.runner.engines.tensorrt.inspecting import EngineLayer
from edgevit.runner.engines.tensorrt.kernel_table import KernelTable
from edgevit.runner.engines.tensorrt.layer_list import HEADING, layers_from_log
from edgevit.runner.engines.tensorrt_rtx.bindings import load_rtx

AHEAD = CAPABILITIES
"""Compute capabilities that TensorRT for RTX 1.7.1 compiles for without a GPU."""
SETTINGS = BuildSettings(best_batch=8, max_batch=16)
"""Batch sizes of engines that are compiled ahead of time unless others are asked for."""


@dataclass(frozen=True)
class CompiledEngine:
    """An engine compiled ahead of time.

    Args:
        data: The serialized engine.
        capabilities: What it was compiled for, such as ("SM86", "SM89").
        version: Of TensorRT for RTX; the engine runs with no other.
        layers: Its kernels.
        list_sha256: SHA-256 of the compiler's list of kernels.
        seconds: How long it took.
        warnings: What the compiler warned of.
    """

    data: bytes = field(repr=False)
    capabilities: tuple[str, ...]
    version: str
    layers: tuple[EngineLayer, ...]
    list_sha256: str
    seconds: float
    warnings: tuple[str, ...]

    def table(self, variant: str, max_batch: int) -> KernelTable:
        """Return its kernels as a table of a variant.

        Args:
            variant: Such as "int8".
            max_batch: Largest batch of the engine.
        """
        return KernelTable(
            variant=variant,
            engine=f"tensorrt_rtx {self.version}",
            capabilities=self.capabilities,
            max_batch=max_batch,
            layers=self.layers,
            list_sha256=self.list_sha256,
        )


def compiled_from_onnx(
    onnx: bytes, capabilities: Sequence[str], *, settings: BuildSettings = SETTINGS
) -> CompiledEngine:
    """Compile a graph.

    Args:
        onnx: Serialized ModelProto with one input, float32 [batch, 3, H, W].
        capabilities: One or several of `AHEAD`; the engine has code for each of them.
        settings: Batch sizes above all.

    Raises:
        UsageError: A capability that it does not compile for (EV771), or settings that can't be
            (EV754).
        EnvironmentError_: TensorRT for RTX is missing (EV770).
        DeviceError: It can't read the graph (EV752) or makes no engine of it (EV753).
        UnsupportedError: A card has no unit for a type of the graph (EV437), as FP8 before SM89.
    """
    check_capabilities(capabilities)
    trt = load_rtx()
    listed = [""]

    def keep(severity: str, text: str) -> None:
        if text.startswith(HEADING):
            listed[0] = text

    plan = plan_from_onnx(
        trt, onnx, settings, capabilities=capabilities, log=MessageLog(on_message=keep)
    )
    return CompiledEngine(
        data=plan.data,
        capabilities=tuple(capabilities),
        version=trt.__version__,
        layers=layers_from_log(listed[0]),
        list_sha256=hashlib.sha256(listed[0].encode()).hexdigest(),
        seconds=plan.build_seconds,
        warnings=plan.warnings,
    )


def capability_of(compute_capability: str) -> str:
    """Return what the compiler calls a compute capability: "SM89" for "8.9"."""
    return f"SM{compute_capability.replace('.', '')}"


def check_capabilities(capabilities: Sequence[str]) -> None:
    """Refuse what the compiler has no code for.

    Raises:
        UsageError: EV771.
    """
    unknown = [name for name in capabilities if name not in AHEAD]
    if unknown or not capabilities or len(set(capabilities)) != len(capabilities):
        raise UsageError(
            "EV771",
            "TensorRT for RTX can't compile for these cards.",
            where=", ".join(capabilities)[:80] or "no card",
            why=f"It compiles ahead of time for {', '.join(AHEAD)}, each named once.",
            try_next="SM86 is RTX 30, SM89 RTX 40, SM120 RTX 50. A Jetson builds its own engine.",
        )
