"""Finds the gemms of a canonical graph, names their sites and says which role each plays.

Roles look through pure layout operators; attention is recognised by its shape alone.
"""

from __future__ import annotations

import re
from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.attention import find_attention
from edgevit.graph.operators import aten
from edgevit.graph.roles import Gemm, Kind, Role, Site
from edgevit.graph.shapes import args_of
from edgevit.graph.tracing import MOVING, sources_of
from edgevit.graph.window import window_of

__all__ = ["Gemm", "Role", "Site", "find_gemms"]

_OPERANDS: dict[Kind, tuple[str, str]] = {
    "linear": ("input", "weight"),
    "conv": ("input", "weight"),
    "qk": ("query", "key"),
    "pv": ("softmax", "value"),
    "matmul": ("left", "right"),
}
_WITH_WEIGHT = ("linear", "conv")
_ATTENTION_ROLES = {"qk": (Role.QUERY, Role.KEY), "pv": (Role.SOFTMAX_OUT, Role.VALUE)}
_PRODUCER_ROLES: dict[Any, Role] = {
    aten.layer_norm.default: Role.LN_OUT,
    aten.gelu.default: Role.GELU_OUT,
    aten.add.Tensor: Role.RESIDUAL,
}
_AVERAGING = {aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor} | MOVING


def find_gemms(module: GraphModule) -> tuple[Gemm, ...]:
    """Return all products of the graph in execution order."""
    kinds: dict[Node, Kind] = {}
    paths: dict[Node, str] = {}
    for attention in find_attention(module):
        path = _common_path(attention.scores, attention.output)
        for node, kind in ((attention.scores, "qk"), (attention.output, "pv")):
            kinds[node] = "qk" if kind == "qk" else "pv"
            paths[node] = f"{path}.{kind}".removeprefix(".")
    gemms: list[Gemm] = []
    taken: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.target is aten.linear.default and args_of(node)[1].op == "get_attr":
            kinds[node], paths[node] = "linear", weight_owner(node)
        elif node.target is aten.conv2d.default and window_of(node) is not None:
            kinds[node], paths[node] = "conv", weight_owner(node)
        elif node.target is aten.matmul.default and node not in kinds:
            kinds[node], paths[node] = "matmul", f"{node.meta['module']}.matmul".removeprefix(".")
        if node in kinds:
            gemms.append(_gemm(node, kinds, _unique(paths[node], taken)))
    return tuple(gemms)


def _unique(path: str, taken: dict[str, int]) -> str:
    taken[path] = taken.get(path, 0) + 1
    return path if taken[path] == 1 else f"{path}.{taken[path]}"


def _common_path(first: Node, second: Node) -> str:
    shared: list[str] = []
    paths = [n.meta["module"].split(".") for n in (first, second)]
    for a, b in zip(*paths, strict=False):
        if a != b:
            break
        shared.append(a)
    return ".".join(shared)


def weight_owner(node: Node) -> str:
    """Return the path of a weight's owner; functional calls know only the module around it."""
    weight: Any = args_of(node)[1]
    owner = re.sub(r"[._]?weight$", "", weight.meta.get("fqn", ""))
    return owner or node.meta["module"] or node.name


def _gemm(node: Node, kinds: dict[Node, Kind], path: str) -> Gemm:
    kind = kinds[node]
    sites = [
        Site(
            name=f"{path}:{_OPERANDS[kind][at]}",
            role=_role(node, kinds, at),
            gemm=node.name,
            operand=at,
            producer=args_of(node)[at].name,
        )
        for at in (0, 1)
    ]
    has_weight = kind in _WITH_WEIGHT
    constants: list[Any] = list(args_of(node)[1:3]) if has_weight else [None, None]
    names = [str(c.target) if isinstance(c, Node) else None for c in (*constants, None)[:2]]
    return Gemm(
        name=node.name,
        module=path,
        kind=kind,
        left=sites[0],
        right=sites[1],
        weight=names[0],
        bias=names[1],
        window=window_of(node) if kind == "conv" else None,
    )


def _role(node: Node, kinds: dict[Node, Kind], operand: int) -> Role:
    kind = kinds[node]
    if kind in _ATTENTION_ROLES:
        return _ATTENTION_ROLES[kind][operand]
    if kind in _WITH_WEIGHT and operand == 1:
        return Role.WEIGHT
    if kind == "linear" and _makes_logits(node):
        return Role.HEAD_IN
    sources = sources_of(args_of(node)[operand])
    if len(sources) != 1:
        return Role.LINEAR_IN
    producer = sources.pop()
    if producer.op == "placeholder":
        return Role.PATCH_IN
    if kinds.get(producer) == "pv":
        return Role.ATTN_OUT
    role = _PRODUCER_ROLES.get(producer.target, Role.LINEAR_IN)
    activations = [n for n in producer.all_input_nodes if n.op != "get_attr"]
    return Role.LINEAR_IN if role is Role.RESIDUAL and len(activations) < 2 else role


def _makes_logits(node: Node) -> bool:
    """Return whether a linear's output is the logits, or is averaged with others to give them."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op == "output":
            return True
        activations = [n for n in node.all_input_nodes if n.op != "get_attr"]
        averages = all(n.target is aten.linear.default for n in activations)
        if node.target not in _AVERAGING or (len(activations) > 1 and not averages):
            return False
    return False
