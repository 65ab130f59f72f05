"""A convolution in integers on the CPU: its patches as rows of 8-bit codes, and rows as an image.

Codes are moved, not values: transposed to [H, W, C], padded with what zero is rounded to and
gathered, a row of channels for each tap. ONNX Runtime's own ConvInteger takes 1.3 to 1.9 times as
long as the float convolution (docs/log.md); this takes 0.2 to 0.9 of it from 24 channels on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from edgevit.graph.shapes import at_batch, shape_of
from edgevit.graph.window import Window
from edgevit.targets.onnx.context import Lowering

aten = torch.ops.aten
_LAYOUT = {aten.reshape.default, aten.permute.default}


def write_patches(
    context: Lowering, codes: str, padding: str, operand: fx.Node, window: Window, stem: str
) -> str:
    """Emit the patches [B H' W', kh kw C] of codes [B, C, H, W]; return their name.

    Args:
        padding: What the number 0 is rounded to; a codebook need not have a level there.
        operand: The node whose codes they are.
    """
    add, integers = context.builder.add, context.integers
    channels = context.shapes[operand.name][1]
    codes = add("Transpose", [codes], f"{stem}_pixels", perm=[0, 2, 3, 1])  # [B, H, W, C]
    if any(window.padding):
        ends = [0, *window.padding, 0]
        codes = add("Pad", [codes, integers("pads", ends * 2), padding], f"{stem}_padded")
    high, wide = window.padded
    flat = integers("shape", [-1, high * wide, channels])
    codes = add("Reshape", [codes, flat], f"{stem}_places")  # [B, Hp Wp, C]
    index = window.positions().numpy().astype(np.int32)
    positions = context.builder.constant(f"{stem}_positions", index)
    taken = add("Gather", [codes, positions], f"{stem}_taps", axis=1)  # [B, H' W' kh kw, C]
    length = window.kernel[0] * window.kernel[1] * channels
    return add("Reshape", [taken, integers("shape", [-1, length])], f"{stem}_patches")


def lay_out_rows(context: Lowering, node: fx.Node, rows: str) -> None:
    """Emit the output [B, O, H', W'] of a convolution from its rows [B H' W', O].

    Where the layout behind it brings the rows back, they are what is read there.
    """
    add, name = context.builder.add, node.name
    channels, high, wide = context.shapes[name][1:]
    grid = context.integers("shape", [-1, high, wide, channels])
    image = add("Reshape", [rows, grid], f"{name}_grid")  # [B, H', W', O]
    add("Transpose", [image], name, perm=[0, 3, 1, 2])
    for reader in _readers_of_rows(node):
        context.flats[reader.name] = rows
        context.unshaped.add(reader.name)


def _readers_of_rows(node: fx.Node) -> list[fx.Node]:
    """Return the layout nodes behind a convolution whose output has its rows in their order."""
    batch, channels, high, wide = at_batch(shape_of(node), 2)
    order = torch.arange(batch * high * wide * channels)
    image = order.reshape(batch, high, wide, channels).permute(0, 3, 1, 2)
    found, todo = [], [(node, image)]
    while todo:
        current, value = todo.pop()
        for user in current.users:
            if user.target not in _LAYOUT:
                continue
            target: Any = user.target
            moved = target(value, *_at_two_images(user))
            if moved.shape[-1] == channels and torch.equal(moved.reshape(-1), order):
                found.append(user)
            todo.append((user, moved))
    return found


def _at_two_images(node: fx.Node) -> tuple[Any, ...]:
    """Return the arguments of a layout node behind its input, for two images."""
    if node.target is aten.reshape.default:
        return (at_batch(shape_of(node), 2),)
    return node.args[1:]
