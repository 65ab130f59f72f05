"""Renumbers the graph, so that names depend on nothing but the model.

Rules:
1. Nodes are named after their operator and counted in execution order: linear, linear_1, ...
2. A constant is named after the parameter it comes from and stands in front of its first user.
"""

from __future__ import annotations

from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from edgevit.graph.rewrite import constant_name
from edgevit.graph.shapes import operator_name
from edgevit.graph.tracing import constant_of

_KEPT = ("module", "shape", "size", "fqn", "dtype")


def tidy(module: GraphModule) -> int:
    """Return how many nodes the graph has."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    constants: dict[str, Tensor] = {}

    def copy(node: Node) -> None:
        for source in node.all_input_nodes:
            if source not in copies:
                copy(source)
        target, name = node.target, None
        if node.op == "get_attr":
            target = constant_name(node.meta["fqn"], constants)
            constants[target] = constant_of(module, node)
        elif node.op == "call_function":
            name = operator_name(node)
        args, kwargs = map_arg((node.args, node.kwargs), copies.__getitem__)
        new = graph.create_node(node.op, target, args, kwargs, name=name)
        new.meta = {key: node.meta[key] for key in _KEPT if key in node.meta}
        new.meta.setdefault("module", "")
        copies[node] = new

    for node in module.graph.nodes:
        if node.op != "get_attr":
            copy(node)
    for name in [name for name, _ in module.named_buffers()]:
        delattr(module, name)
    for name, value in constants.items():
        module.register_buffer(name, value)
    module.graph = graph
    return len(graph.nodes)
