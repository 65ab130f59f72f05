"""Reads the list of kernels that NVIDIA's compiler logs when it has built an engine.

With detailed verbosity one message of the build begins with "Layers:" and holds one line per
kernel. It says the same as the engine inspector, which needs a GPU, in a notation of its own:
``Name: N, LayerType: T, Inputs: [ { Name: x, Dimensions: [8,64], ... Datatype: Int8, ... }], ...``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgevit.runner.engines.tensorrt.inspecting import (
    ONNX_NODE,
    EngineLayer,
    LayerOperand,
    precision_from_format,
    unreadable_error,
)

HEADING = "Layers:"
_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>.*?)\],"
    r" Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\],"
    r" TacticName: (?P<tactic>[^,]*),.*?Metadata: (?P<metadata>.*)\Z"
)
_OPERAND = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<shape>[-0-9,]*)\],.*?Datatype: (?P<type>\w+)"
)


def layers_from_log(message: str) -> tuple[EngineLayer, ...]:
    """Return the kernels of an engine.

    Args:
        message: The message of the build that begins with "Layers:".

    Raises:
        DeviceError: It is not such a message (EV765).
    """
    found = [_LINE.match(line) for line in _lines(message)]
    if not found or None in found:
        why = f"{sum(one is None for one in found)} of {len(found)} lines can't be read."
        raise unreadable_error("a compiler's list of kernels", why)
    return tuple(_layer(one) for one in found if one is not None)


def _lines(message: str) -> Iterator[str]:
    """Yield the lines between the heading and the list of inputs and outputs."""
    if not message.startswith(HEADING):
        return
    for line in message.splitlines()[1:]:
        if not line.strip():
            return
        yield line


def _layer(found: re.Match[str]) -> EngineLayer:
    return EngineLayer(
        name=found["name"],
        kind=found["kind"],
        inputs=_operands(found["inputs"]),
        constants=_operands(found["constants"]),
        outputs=_operands(found["outputs"]),
        tactic=found["tactic"],
        onnx_nodes=tuple(dict.fromkeys(ONNX_NODE.findall(found["metadata"]))),
    )


def _operands(text: str) -> tuple[LayerOperand, ...]:
    return tuple(
        LayerOperand(
            one["name"],
            precision_from_format(one["type"]),
            tuple(int(size) for size in one["shape"].split(",") if size),
        )
        for one in _OPERAND.finditer(text)
    )
