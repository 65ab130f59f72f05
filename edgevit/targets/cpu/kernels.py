"""Looks at the graph as ONNX Runtime really runs it: which kernel computes each product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from edgevit.errors import EnvironmentError_, UnsupportedError
from edgevit.runner.engines.onnxruntime.installed import onnxruntime_module
from edgevit.runner.engines.onnxruntime.probe import exact_config
from edgevit.scratch import scratch_folder

onnxruntime = onnxruntime_module()
INTEGER_KERNELS = {"MatMulIntegerToFloat"}
_BEFORE_ROUNDING = "_pre_q"
"""What the engine adds to the name of a tensor behind which it has moved a QuantizeLinear: it
rounds before it moves values, not after, which gives the same codes."""


def session_options() -> Any:
    """Return ONNX Runtime options with which sums are exact here; errors are raised, not logged."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for key, value in exact_config(onnxruntime).items():
        options.add_session_config_entry(key, value)
    return options


def kernels_of(model: bytes) -> dict[str, str]:
    """Return tensor name -> operator that writes it, in the optimised graph of this machine."""
    with scratch_folder() as folder:
        path = folder / "optimised.onnx"
        _save_optimised(model, path)
        return kernels_in(path, model)


def kernels_in(optimised: Path, model: bytes) -> dict[str, str]:
    """Return tensor name -> operator, from the file to which the engine wrote its graph."""
    graph = onnx.load(str(optimised)).graph
    kernels = {name: node.op_type for node in graph.node for name in node.output}
    for name in [name for name in kernels if name.endswith(_BEFORE_ROUNDING)]:
        kernels.setdefault(name[: -len(_BEFORE_ROUNDING)], kernels[name])
    for node in onnx.ModelProto.FromString(model).graph.node:
        if node.op_type == "Identity" and node.output[0] in kernels:
            # the engine drops it and writes its output, one of the graph's, instead
            kernels.setdefault(node.input[0], kernels[node.output[0]])
    return kernels


def _save_optimised(model: bytes, path: Path) -> None:
    """Let ONNX Runtime write its optimised graph to `path`.

    Raises:
        EnvironmentError_: The graph is fine but can't be written there (EV208).
        UnsupportedError: ONNX Runtime refuses the graph (EV317).
    """
    providers = ["CPUExecutionProvider"]
    options = session_options()
    options.optimized_model_filepath = str(path)
    try:
        onnxruntime.InferenceSession(model, options, providers=providers)
        return
    except Exception as error:  # onnxruntime has no common base class for its errors
        failure = error
    try:
        onnxruntime.InferenceSession(model, session_options(), providers=providers)
    except Exception as error:
        raise UnsupportedError(
            "EV317",
            "ONNX Runtime refuses the quantized graph.",
            where="onnxruntime",
            why=str(error).strip()[:500],
            try_next="Install another onnxruntime version, and report the model.",
        ) from error
    raise EnvironmentError_(
        "EV208",
        "The optimised graph can't be written for checking its kernels.",
        where=str(path.parent),
        why=str(failure).strip()[:500],
        try_next="Free space there, or set TMPDIR to a folder with room.",
    ) from failure


def check_kernels(outputs: dict[str, str], kernels: dict[str, str]) -> dict[str, str]:
    """Return gemm name -> kernel, having made sure that every one of them is an integer kernel.

    Args:
        outputs: Gemm name -> ONNX tensor its kernel writes.
        kernels: What `kernels_of` returned.

    Raises:
        UnsupportedError: A quantized product would run in float (EV315).
    """
    found = {gemm: kernels.get(tensor, "(fused away)") for gemm, tensor in outputs.items()}
    wrong = {gemm: kernel for gemm, kernel in found.items() if kernel not in INTEGER_KERNELS}
    if wrong:
        listed = ", ".join(f"{gemm} -> {kernel}" for gemm, kernel in list(wrong.items())[:5])
        raise UnsupportedError(
            "EV315",
            f"{len(wrong)} of {len(found)} quantized products would not run as integers.",
            where=listed,
            why="ONNX Runtime replaced their operator on this machine.",
            try_next="Install another onnxruntime version, or leave these layers in float.",
        )
    return found
