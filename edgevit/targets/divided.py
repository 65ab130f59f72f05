"""Products that no target quantizes: their result is divided by a part of itself.

Where the divisor is small the division magnifies what rounding did. EfficientViT-B0 (untrained,
8 bits, one step a tensor): the sums differ from float by 1/100 of their size (37 to 44 dB), their
quotients by 1/13 (22 to 31 dB); these products are 1.5 % of its multiply-adds.
"""

from __future__ import annotations

from edgevit.graph.attention import find_self_divided
from edgevit.graph.model import Graph

SELF_DIVIDED = "its result is divided by a part of itself, which magnifies rounding errors"


def self_divided(graph: Graph) -> set[str]:
    """Return the names of these products."""
    return {node.name for node in find_self_divided(graph.module)}
