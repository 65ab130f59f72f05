"""Reshapes and permutes as one algebraic object, reduced to the fewest operators.

A tensor's dimensions are split into *atoms*, the smallest blocks that any reshape of the chain
ever cuts; a reshape regroups atoms, a permute reorders groups. The batch is one atom whose size is
a prime, so that it never merges with anything.
"""

from __future__ import annotations

import itertools
import math

from torch.fx import Node

from edgevit.graph.operators import aten
from edgevit.graph.rewrite import permute, reshape
from edgevit.graph.shapes import Shape, args_of, at_batch, shape_of

_B = 1_000_003  # stands for the batch size
_PERMUTE_COST, _RESHAPE_COST = 10, 1  # a permute copies the tensor, a reshape costs nothing


class Rearrangement:
    """A chain of reshapes and permutes of one tensor.

    Args:
        shape: The tensor's shape in the notation of `graph.shapes`.
    """

    def __init__(self, shape: Shape) -> None:
        ids = itertools.count()
        self._ids = ids
        self.sizes: dict[int, int] = {}
        self.source: list[list[int]] = []
        for size in at_batch(shape, _B):
            self.source.append([] if size == 1 else [self._atom(size)])
        self.groups = [list(group) for group in self.source]
        self.source_shape = shape

    def _atom(self, size: int) -> int:
        atom = next(self._ids)
        self.sizes[atom] = size
        return atom

    def follow(self, node: Node) -> bool:
        """Append one reshape or permute node; False (and unusable) if it cuts across atoms."""
        if node.target is aten.permute.default:
            self.groups = [self.groups[d] for d in args_of(node)[1]]
            return True
        return self._regroup(shape_of(node))

    def _regroup(self, shape: Shape) -> bool:
        left = [atom for group in self.groups for atom in group]
        groups: list[list[int]] = []
        for size in at_batch(shape, _B):
            group: list[int] = []
            while size > 1:
                if not left:
                    return False
                common = math.gcd(size, self.sizes[left[0]])
                if common == 1:
                    return False
                if common < self.sizes[left[0]]:
                    left[:1] = self._split(left[0], common)
                group.append(left.pop(0))
                size //= common
            groups.append(group)
        self.groups = groups
        return not left

    def _split(self, atom: int, outer: int) -> list[int]:
        """Split an atom into one of size `outer` and the rest, wherever it stands."""
        parts = [self._atom(outer), self._atom(self.sizes.pop(atom) // outer)]
        for groups in (self.source, self.groups):
            for group in groups:
                if atom in group:
                    at = group.index(atom)
                    group[at : at + 1] = parts
        return parts

    def size(self, atoms: list[int]) -> int:
        """Return the dimension (`graph.shapes` notation) that these atoms make."""
        size = math.prod(self.sizes[atom] for atom in atoms)
        return size if size % _B else -(size // _B)

    def shape(self) -> Shape:
        """Return the shape at the end of the chain."""
        return tuple(self.size(group) for group in self.groups)

    def has_batch(self, atom: int) -> bool:
        """Return whether the atom holds the batch."""
        return self.sizes[atom] % _B == 0

    def steps(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the fewest ("reshape", shape) and ("permute", dims) steps of the whole chain."""
        start = [a for group in self.source for a in group]
        end = [a for group in self.groups for a in group]
        if start == end:
            return [] if self.shape() == self.source_shape else [("reshape", self.shape())]
        by_source = _block_order(self.source, end, [not group for group in self.groups])
        if by_source is not None:
            shape = tuple(self.source_shape[d] for d in by_source)
            tail = [] if shape == self.shape() else [("reshape", self.shape())]
            return [("permute", tuple(by_source)), *tail]
        blocks = self._blocks(start, end)
        order = sorted(range(len(blocks)), key=lambda i: start.index(blocks[i][0]))
        split = tuple(self.size(blocks[i]) for i in order)
        dims = tuple(order.index(i) for i in range(len(blocks)))
        steps = [("reshape", split), ("permute", dims)]
        shape = tuple(self.size(block) for block in blocks)
        return steps if shape == self.shape() else [*steps, ("reshape", self.shape())]

    def _blocks(self, start: list[int], end: list[int]) -> list[list[int]]:
        """Return the blocks to permute in their final order: whole final groups, or smallest."""
        following = dict(itertools.pairwise(start))
        whole = [group for group in self.groups if group]
        if all(following.get(a) == b for group in whole for a, b in itertools.pairwise(group)):
            return self.groups if len(whole) == len(self.groups) else whole
        blocks: list[list[int]] = []
        for atom in end:
            if blocks and following.get(blocks[-1][-1]) == atom:
                blocks[-1].append(atom)
            else:
                blocks.append([atom])
        return blocks

    def cost(self) -> int:
        """Return the cost of `steps`."""
        return sum(
            _PERMUTE_COST if kind == "permute" else _RESHAPE_COST for kind, _ in self.steps()
        )

    def apply(self, node: Node) -> Node:
        """Add the steps behind `node` at the graph's insertion point; return the last one."""
        for kind, numbers in self.steps():
            node = permute(node, list(numbers)) if kind == "permute" else reshape(node, numbers)
        return node


def chain_cost(nodes: list[Node]) -> int:
    """Return the cost of reshape and permute nodes as they stand."""
    permutes = sum(node.target is aten.permute.default for node in nodes)
    return permutes * _PERMUTE_COST + (len(nodes) - permutes) * _RESHAPE_COST


def is_rearranging(node: object) -> bool:
    """Return whether this is a reshape or a permute node."""
    targets = {aten.reshape.default, aten.permute.default}
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


def _block_order(source: list[list[int]], end: list[int], empty: list[bool]) -> list[int] | None:
    """Return the order in which whole source groups give `end`; None if they don't.

    Dimensions of size 1 go where the final shape has them, else to the back.
    """
    heads = {group[0]: d for d, group in enumerate(source) if group}
    ones = [d for d, group in enumerate(source) if not group]
    full: list[int] = []
    at = 0
    while at < len(end):
        d = heads.get(end[at])
        if d is None or end[at : at + len(source[d])] != source[d]:
            return None
        full.append(d)
        at += len(source[d])
    if len(empty) - sum(empty) != len(full):
        return full + ones
    order: list[int] = []
    for is_one in empty:
        if is_one and ones:
            order.append(ones.pop(0))
        elif not is_one:
            order.append(full.pop(0))
    return order + full + ones
