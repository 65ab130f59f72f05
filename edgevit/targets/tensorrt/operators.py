"""Refuses, before anything is calibrated, operators in forms that TensorRT has no layer for."""

from __future__ import annotations

import onnx

from edgevit.errors import UnsupportedError
from edgevit.graph.model import Graph
from edgevit.targets.base import Lowered
from edgevit.targets.tensorrt.conformance import check_onnx
from edgevit.targets.tensorrt.conformance.rules_operators import OPERATOR_RULE
from edgevit.targets.tensorrt.profiles import DeviceProfile


def refuse_operators(graph: Graph, written: Lowered, profile: DeviceProfile) -> None:
    """Refuse a graph by the rule about operators, with the module of the first that breaks it.

    Args:
        graph: The graph.
        written: It in ONNX, in any precision.
        profile: The device.

    Raises:
        UnsupportedError: TensorRT has no layer for an operator (EV319).
    """
    found = check_onnx(_without_values(written), profile, rules={OPERATOR_RULE}).errors
    if not found:
        return
    raise UnsupportedError(
        "EV319",
        f"{profile.name} has no layer for an operator of this model.",
        where=_module_of(graph, found[0].node),
        why=found[0].message,
        try_next=found[0].remedy,
    )


def _without_values(written: Lowered) -> onnx.ModelProto:
    """Return the model with types and shapes of its large constants alone."""
    model = onnx.ModelProto.FromString(written.onnx)
    for name, array in written.tensors.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.initializer.add(name=name, dims=array.shape, data_type=kind)
    return model


def _module_of(graph: Graph, name: str) -> str:
    """Return the module of the operator that a node of ONNX belongs to; its name begins with it."""
    nodes = [node for node in graph.module.graph.nodes if name.startswith(node.name)]
    longest = max(nodes, key=lambda node: len(node.name), default=None)
    return str(longest.meta.get("module") or longest.name) if longest is not None else name
