"""What lies between products is cut into parts with one result each, which run in its place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgevit.graph.capture import graph_from_module
from edgevit.graph.interpret import Part, run_graph, run_nodes
from edgevit.graph.model import Graph
from edgevit.graph.regions import float_regions, reads_of


class Norms(nn.Module):
    """A LayerNorm written by hand between two linears, and a sum beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(48, 16), nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image.flatten(1))
        away = x - x.mean(1, keepdim=True)
        spread = (away * away).mean(1, keepdim=True)
        shared = torch.relu(away / torch.sqrt(spread + 1e-5))
        return self.head(shared) + self.head(torch.tanh(shared))


def parts_of(graph: Graph) -> list[tuple[list[str], list[str]]]:
    products = {gemm.name for gemm in graph.gemms}
    return [
        ([str(node.target).split(".")[1] for node in part], [node.name for node in reads_of(part)])
        for part in float_regions(graph, products)
    ]


def test_a_part_holds_what_leads_to_its_result_alone() -> None:
    graph = graph_from_module(Norms().eval(), (3, 4, 4))
    stem = graph.gemms[0].name
    found = {tuple(names): reads for names, reads in parts_of(graph)}
    spread = ("mean", "reshape", "sub", "mul", "mean", "reshape", "add", "sqrt")
    assert found[(*spread, "div", "relu")] == [stem]  # `away` is read twice, but by nothing outside
    assert found[("tanh",)] == [next(n.name for n in graph.module.graph.nodes if "relu" in n.name)]
    assert found[("add",)] == [gemm.name for gemm in graph.gemms[1:]]


def test_every_operator_is_in_one_part(small: tuple[nn.Module, Graph]) -> None:
    graph = small[1]
    products = {gemm.name for gemm in graph.gemms}
    parts = float_regions(graph, products)
    names = [node.name for part in parts for node in part]
    nodes = [node for node in graph.module.graph.nodes if node.op == "call_function"]
    assert sorted(names) == sorted(node.name for node in nodes if node.name not in products)
    for part in parts:
        users = {user for node in part[:-1] for user in node.users}
        assert users <= set(part)


def test_parts_run_in_place_of_their_nodes(small: tuple[nn.Module, Graph], images: Tensor) -> None:
    graph = small[1]

    def part(nodes: tuple[torch.fx.Node, ...]) -> Part:
        reads = tuple(node.name for node in reads_of(nodes))

        def compute(*values: Tensor) -> Tensor:
            constants = [c for node in nodes for c in node.all_input_nodes if c.op == "get_attr"]
            return run_nodes(graph, [*constants, *nodes], dict(zip(reads, values, strict=True)))

        return Part(inner=tuple(n.name for n in nodes[:-1]), reads=reads, compute=compute)

    regions = float_regions(graph, {gemm.name for gemm in graph.gemms})
    parts = {nodes[-1].name: part(nodes) for nodes in regions}
    seen: list[str] = []
    found = run_graph(graph, images, parts=parts, observe=lambda name, _: seen.append(name))
    assert torch.equal(found, graph.forward(images))
    inner = {name for one in parts.values() for name in one.inner}
    assert inner
    assert not inner.intersection(seen)


def test_a_rewrite_is_counted(vit: Graph) -> None:
    before = vit.version
    vit.set_bias(vit.gemms[0], vit.bias(vit.gemms[0]) + 1)
    assert vit.version > before
    before = vit.version
    vit.refresh()
    assert vit.version > before
