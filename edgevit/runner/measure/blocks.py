"""Assigns each kernel of an engine, or each node of a graph, to a block of the model.

A block is known by the module paths of the bundle's products: the module with a number that holds
an attention. What is not in a block carries its own module, such as "head". A kernel that spans two
blocks (a residual sum and the next block's LayerNorm) counts to the first one that it names.
"""

from __future__ import annotations

import re
from typing import Any, Iterable, Mapping, Sequence

_ATTENTION_KINDS = ("qk", "pv")
OTHER = "other"


def block_names(products: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return name of a product -> its block, in the order of the products.

    Args:
        products: Rows of `manifest["layers"]`.
    """
    attention = [str(row["module"]) for row in products if row.get("kind") in _ATTENTION_KINDS]
    blocks = {path for path in map(_numbered, attention) if path}
    return {str(row["name"]): _block(str(row.get("module", "")), blocks) for row in products}


def kernel_blocks(
    nodes: Sequence[Iterable[str]], products: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the block of each kernel.

    Args:
        nodes: For each kernel, in execution order, the ONNX nodes that it computes.
        products: Rows of `manifest["layers"]`.
    """
    by_node = _by_node(products)
    found: list[str | None] = []
    for names in nodes:
        named = [by_node[name] for name in map(plain_name, names) if name in by_node]
        found.append(min(named)[1] if named else None)
    return _filled(found)


def _by_node(products: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, str]]:
    """Return plain node name -> (place of its product, block)."""
    blocks, found = block_names(products), {}
    for place, row in enumerate(products):
        name = str(row["name"])
        forms = (name, f"{name}_product", f"{name}_2d", str(row.get("tensor") or name))
        for form in forms:
            found[plain_name(form)] = (place, blocks[name])
    return found


def _filled(found: Sequence[str | None]) -> list[str]:
    """Give what names no product the block of the next one that does, at the end of the last."""
    following: str | None = None
    filled: list[str | None] = list(found)
    for at in range(len(filled) - 1, -1, -1):
        following = filled[at] or following
        filled[at] = following
    last = next((name for name in reversed(found) if name), OTHER)
    return [name or last for name in filled]


def _numbered(module: str) -> str:
    """Return "blocks.0" for "blocks.0.attn.qk": up to the last part that ends with a number."""
    parts = module.split(".")
    ends = [at for at, part in enumerate(parts[:-1]) if re.search(r"[0-9]\Z", part)]
    return ".".join(parts[: ends[-1] + 1]) if ends else ""


def _block(module: str, blocks: Iterable[str]) -> str:
    inside = [path for path in blocks if module.startswith(f"{path}.")]
    if inside:
        return max(inside, key=len)
    return module.rpartition(".")[0] or module or OTHER


def plain_name(name: str) -> str:
    """Return a node's name as an engine may have changed it."""
    return re.sub(r"[^0-9a-zA-Z]+", "_", name).strip("_")
