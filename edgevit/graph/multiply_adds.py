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


def multiply_adds(graph: Graph) -> int:
    """Return the multiply-adds of one image."""
    counted = PRODUCTS | {aten.conv2d.default}
    return sum(_of(node) for node in graph.module.graph.nodes if node.target in counted)


def _of(node: Node) -> int:
    """Return the elements of the output times the length of the sum behind each."""
    source: Node = args_of(node)[0]
    if node.target is aten.conv2d.default:
        weight: Node = args_of(node)[1]
        length = prod(shape_of(weight)[1:])  # [out, in / groups, kernel height, kernel width]
    else:
        length = abs(shape_of(source)[-1])
    return length * prod(abs(size) for size in shape_of(node))  # -k is k times the batch
