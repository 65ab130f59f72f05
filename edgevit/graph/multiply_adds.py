"""The multiply-adds of a canonical graph: what the literature on vision transformers calls FLOPs.

Counted are linear layers, matrix products and convolutions; biases, normalisations, softmax and
activations are not, as in Touvron et al., DeiT (arXiv:2012.12877) and Liu et al., Swin
(arXiv:2103.14030). A program that counts additions apart, such as torch's, says twice as much.
"""

from __future__ import annotations

from math import prod

from torch.fx import Node

from edgevit.graph.model import Graph
from edgevit.graph.operators import PRODUCTS, aten
from edgevit.graph.shapes import args_of, shape_of

_WITH_KERNELS = frozenset({aten.conv2d.default, aten.conv_transpose2d.input})
COUNTED = PRODUCTS | _WITH_KERNELS
"""Operators that multiply and add."""


def multiply_adds(graph: Graph) -> int:
    """Return the multiply-adds of one image."""
    return sum(multiply_adds_of(node) for node in counted_nodes(graph))


def counted_nodes(graph: Graph) -> list[Node]:
    """Return the nodes whose multiply-adds are counted, in execution order."""
    return [node for node in graph.module.graph.nodes if node.target in COUNTED]


def multiply_adds_of(node: Node) -> int:
    """Return the multiply-adds of a counted node for one image.

    They are the elements of the output times the length of the sum behind each; a transposed
    convolution adds each element of its input to as many outputs as its kernel has.
    """
    source: Node = args_of(node)[0]
    walked = source if node.target is aten.conv_transpose2d.input else node
    if node.target in _WITH_KERNELS:
        weight: Node = args_of(node)[1]
        length = prod(shape_of(weight)[1:])  # of both: what axis 0 is not, kernel included
    else:
        length = abs(shape_of(source)[-1])
    return length * prod(abs(size) for size in shape_of(walked))  # -k is k times the batch
