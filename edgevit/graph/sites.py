"""Finds the gemms of a canonical graph, names their sites and says which role each plays.

Roles look through pure layout operators; attention is recognised by its shape alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule, Node

from edgevit.graph.attention import find_attention
from edgevit.graph.operators import LAYOUT, aten
from edgevit.graph.roles import Gemm, Kind, Role, Site
from edgevit.graph.shapes import args_of, shape_of

if TYPE_CHECKING:
    from edgevit.graph.model import Graph

__all__ = ["Gemm", "LayerNormFeed", "Role", "Site", "find_gemms", "ln_of"]

_OPERANDS: dict[Kind, tuple[str, str]] = {
    "linear": ("input", "weight"),
    "qk": ("query", "key"),
    "pv": ("softmax", "value"),
    "matmul": ("left", "right"),
}
_ATTENTION_ROLES = {"qk": (Role.QUERY, Role.KEY), "pv": (Role.SOFTMAX_OUT, Role.VALUE)}
_PRODUCER_ROLES: dict[Any, Role] = {
    aten.layer_norm.default: Role.LN_OUT,
    aten.gelu.default: Role.GELU_OUT,
    aten.add.Tensor: Role.RESIDUAL,
}


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
            kinds[node], paths[node] = "linear", _linear_path(node)
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


def _linear_path(node: Node) -> str:
    """Return the weight's owner; functional calls know only the module around it."""
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
    constants: list[Any] = list(args_of(node)[1:3]) if kind == "linear" else [None, None]
    names = [str(c.target) if isinstance(c, Node) else None for c in (*constants, None)[:2]]
    return Gemm(
        name=node.name,
        module=path,
        kind=kind,
        left=sites[0],
        right=sites[1],
        weight=names[0],
        bias=names[1],
    )


def _role(node: Node, kinds: dict[Node, Kind], operand: int) -> Role:
    kind = kinds[node]
    if kind in _ATTENTION_ROLES:
        return _ATTENTION_ROLES[kind][operand]
    if kind == "linear" and operand == 1:
        return Role.WEIGHT
    if kind == "linear" and _makes_logits(node):
        return Role.HEAD_IN
    producer = producer_of(args_of(node)[operand])
    if producer is None:
        return Role.LINEAR_IN
    if producer.op == "placeholder":
        return Role.PATCH_IN
    if kinds.get(producer) == "pv":
        return Role.ATTN_OUT
    role = _PRODUCER_ROLES.get(producer.target, Role.LINEAR_IN)
    activations = [n for n in producer.all_input_nodes if n.op != "get_attr"]
    return Role.LINEAR_IN if role is Role.RESIDUAL and len(activations) < 2 else role


def _makes_logits(node: Node) -> bool:
    """Whether a linear's output is the logits, or is averaged with others to give them."""
    passing = {aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.reshape.default}
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op == "output":
            return True
        if node.target not in passing:
            return False
    return False


def producer_of(node: Any) -> Node | None:
    """Return the operator (or image) a tensor is laid out from, None if there are several."""
    found: set[Node] = set()
    todo: list[Node] = [node]
    while todo:
        current = todo.pop()
        if current.target in LAYOUT:
            todo += [n for n in current.all_input_nodes if n.op != "get_attr"]
        else:
            found.add(current)
    return found.pop() if len(found) == 1 else None


@dataclass(frozen=True, kw_only=True)
class LayerNormFeed:
    """A LayerNorm whose affine can be rescaled together with the columns of what it feeds.

    Args:
        ln: fx node name of the LayerNorm.
        weight, bias: Constant names of its affine, [C] each.
        linears: fx node names of all linears it feeds; nothing else reads its output.
    """

    ln: str
    weight: str
    bias: str
    linears: tuple[str, ...]


_TOKEN_LAYOUT = LAYOUT - {aten.constant_pad_nd.default, aten.cat.default}


def ln_of(graph: Graph, gemm: Gemm) -> LayerNormFeed | None:
    """Return the LayerNorm that feeds a linear and only linears, with channels in order.

    Roll, window and token selection and a mean over tokens may stand in between; a pad may not
    (its zeros would need the shift). None when there is no such LayerNorm.
    """
    nodes = {node.name: node for node in graph.module.graph.nodes}
    source: Any = nodes[gemm.left.producer]
    while _keeps_channels(source):
        source = args_of(source)[0]
    if source.target is not aten.layer_norm.default or len(args_of(source)) < 4:
        return None
    weight, bias = args_of(source)[2:4]
    if weight is None or bias is None or len(args_of(source)[1]) != 1:
        return None
    linears = list(_linears_behind(source))
    if None in linears or gemm.name not in linears:
        return None
    names = tuple(name for name in linears if name is not None)
    return LayerNormFeed(
        ln=source.name, weight=str(weight.target), bias=str(bias.target), linears=names
    )


def _linears_behind(node: Node) -> Iterator[str | None]:
    """Yield the linears that read a tensor's channels in order, None for any other reader."""
    for user in node.users:
        if user.target is aten.linear.default and args_of(user)[0] is node:
            yield user.name
        elif _keeps_channels(user):
            yield from _linears_behind(user)
        else:
            yield None


def _keeps_channels(node: Node) -> bool:
    """Whether an operator only moves or averages tokens and leaves the last dimension alone."""
    if node.target not in _TOKEN_LAYOUT and node.target is not aten.mean.dim:
        return False
    source, *rest = args_of(node)
    last = len(shape_of(source)) - 1
    if node.target is aten.reshape.default:
        return shape_of(source)[-1] == shape_of(node)[-1]
    if node.target is aten.permute.default:
        return bool(rest[0][-1] == last)
    if node.target is aten.mean.dim:
        return last not in rest[0]
    if node.target is aten.roll.default:
        return last not in rest[1]
    if node.target is aten.index.Tensor:
        return len(rest[0]) <= last or rest[0][last] is None
    return bool(rest[0] != last)  # select, slice, index_select
