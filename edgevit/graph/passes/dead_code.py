"""Removes nodes nobody uses, then constants no node uses.

Rules:
1. A node without users goes, unless it is the image or the output.
2. A buffer without a get_attr node goes.
"""

from __future__ import annotations

from torch.fx import GraphModule


def dead_code(module: GraphModule) -> int:
    """Return how many nodes and constants were removed."""
    changed = 0
    for node in reversed(module.graph.nodes):
        if not node.users and node.op not in {"placeholder", "output"}:
            module.graph.erase_node(node)
            changed += 1
    used = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in module.named_buffers() if name not in used]:
        delattr(module, name)
        changed += 1
    return changed
