"""Compiles what was lowered with TensorRT for RTX, where it is here, and says what became of it.

It needs no GPU. For an RTX card its kernels are those that run; for the other devices of a
generation they are the best evidence there is before one of them builds its own engine.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from edgevit.errors import EdgeViTError, EnvironmentError_
from edgevit.runner.engines.tensorrt_rtx import ENGINE as RTX
from edgevit.runner.engines.tensorrt_rtx.bindings import load_rtx
from edgevit.runner.engines.tensorrt_rtx.compiling import SETTINGS, compiled_from_onnx
from edgevit.targets.base import Lowered
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.tensorrt.profiles import DeviceProfile

NOT_CHECKED = "kernels were not checked: pip install 'edgevit[rtx]'"
_LONGEST_TEXT = 500  # characters


def with_kernels(lowered: Lowered, profile: DeviceProfile, variant: str) -> Lowered:
    """Return it with the kernels that NVIDIA's compiler makes of it.

    Without the compiler, or for a device of a generation that it does not know, the graph comes
    back as it is.

    Args:
        lowered: What the target wrote.
        profile: The device.
        variant: Which form of the model it is.

    Raises:
        EdgeViTError: The compiler of this very device refuses the graph (EV752) or makes no engine
            of it (EV753).
    """
    is_own = profile.engine == RTX.name
    if not profile.compiles_as:
        return lowered
    try:
        load_rtx()
    except EnvironmentError_ as error:
        if find_spec(RTX.module) is None:
            return replace(lowered, unchecked=NOT_CHECKED if is_own else "")
        why = f"kernels were not checked: {error.why}"  # it is here, and does not load
        return replace(lowered, unchecked=why[:_LONGEST_TEXT])
    model = whole_model(lowered.onnx, lowered.tensors)
    try:
        compiled = compiled_from_onnx(model, (profile.compiles_as,))
    except EdgeViTError as error:
        if is_own:
            raise
        why = f"TensorRT for RTX makes no engine of it for {profile.compiles_as}: {error.why}"
        return replace(lowered, unchecked=why[:_LONGEST_TEXT])
    return replace(lowered, kernels=compiled.table(variant, SETTINGS.max_batch))
