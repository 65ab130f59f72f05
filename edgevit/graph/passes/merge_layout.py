"""Merges chains of reshapes and permutes into the fewest operators.

Rules:
1. A chain is replaced by its shortest form (`graph.rearrange`) when that costs less than the
   operators that die with it; a permute copies a tensor and costs more than a reshape.
2. A chain that changes nothing disappears.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from edgevit.graph.rearrange import Rearrangement, chain_cost, is_rearranging
from edgevit.graph.rewrite import replace
from edgevit.graph.shapes import args_of, shape_of


def merge_layout(module: GraphModule) -> int:
    """Return how many chains were shortened."""
    changed = 0
    for node in reversed(list(module.graph.nodes)):
        if is_rearranging(node) and node.users:
            changed += _shorten(module, node)
    return changed


def _shorten(module: GraphModule, node: Node) -> int:
    chain = _chain(node)
    for length in range(len(chain), 0, -1):
        part = chain[-length:]  # execution order
        source: Any = args_of(part[0])[0]
        rearrangement = Rearrangement(shape_of(source))
        if not all(rearrangement.follow(each) for each in part):
            continue
        if rearrangement.cost() < chain_cost(_dying(part)):
            with module.graph.inserting_before(node):
                replace(node, rearrangement.apply(source))
            return 1
    return 0


def _chain(node: Node) -> list[Node]:
    """Return the reshapes and permutes that end in `node`, in execution order."""
    chain: list[Any] = [node]
    while is_rearranging(args_of(chain[0])[0]):
        chain.insert(0, args_of(chain[0])[0])
    return chain


def _dying(chain: list[Node]) -> list[Node]:
    """Return the nodes of a chain that nobody needs once its last node is replaced."""
    dying = [chain[-1]]
    for node in reversed(chain[:-1]):
        if len(node.users) > 1:
            break
        dying.append(node)
    return dying
