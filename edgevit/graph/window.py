"""The window of a convolution: the elements of an image that each of its outputs reads.

A convolution is a linear layer of its patches (Chellapilla et al., "High performance convolutional
neural networks for document processing", 2006): `unfold` lays the patches out as rows, taps outside
and channels inside, so that engines which gather whole rows of channels read them in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from edgevit.graph.shapes import arguments_of, shape_of

PATCH_BYTES = 1 << 27
"""What the patches of the images that `in_parts` takes at once may take."""
_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window that slides over an image; each pair is of height and width.

    Args:
        kernel: Taps.
        stride: Steps.
        padding: Zeros at both ends.
        dilation: Distance of taps.
        size: Of the input, (H, W).
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    size: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the input with its zeros."""
        return self.size[0] + 2 * self.padding[0], self.size[1] + 2 * self.padding[1]

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output, H' and W'."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        room = zip(self.padded, reach, self.stride, strict=True)
        high, wide = ((size - need) // step + 1 for size, need, step in room)
        return high, wide

    def positions(self) -> Tensor:
        """Return int64 [H' W' kh kw]: the places in the padded image that each patch reads."""
        down, along = (
            torch.arange(count)[:, None] * step + torch.arange(taps) * apart
            for count, step, taps, apart in zip(
                self.output, self.stride, self.kernel, self.dilation, strict=True
            )
        )  # [H', kh] and [W', kw]
        found = down[:, None, :, None] * self.padded[1] + along[None, :, None, :]
        return found.reshape(-1)  # [H', W', kh, kw]

    def unfold(self, x: Tensor) -> Tensor:
        """Return patches [B, H' W', kh kw C] of images [B, C, H, W]."""
        high, wide = self.padding
        x = F.pad(x, (wide, wide, high, high)) if any(self.padding) else x
        pixels = x.flatten(2).transpose(1, 2).contiguous()  # [B, Hp Wp, C]
        taken = pixels.index_select(1, self.positions().to(x.device))  # [B, H' W' kh kw, C]
        length = self.kernel[0] * self.kernel[1] * x.shape[1]
        return taken.reshape(len(x), -1, length)  # [B, H' W', kh kw C]

    def fold(self, rows: Tensor) -> Tensor:
        """Return images [B, O, H', W'] of rows [B, H' W', O]."""
        shape = (len(rows), rows.shape[-1], *self.output)
        return rows.transpose(1, 2).reshape(shape)

    def in_parts(self, x: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        """Return [B, O, H', W'] of images [B, C, H, W], a few of them unfolded at once.

        Args:
            product: [b, H' W', kh kw C] -> [b, H' W', O], of each image alone.
        """
        length = self.kernel[0] * self.kernel[1] * x.shape[1]
        at_once = max(1, PATCH_BYTES // (_FLOAT_BYTES * math.prod(self.output) * length))
        parts = [
            self.fold(product(self.unfold(x[start : start + at_once])))
            for start in range(0, len(x), at_once)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def window_of(node: Node) -> Window | None:
    """Return the window of a convolution with constants in one group; None for anything else."""
    x, weight, bias, stride, padding, dilation, groups = convolution_arguments(node)
    constant = all(isinstance(c, Node) and c.op == "get_attr" for c in (weight, bias))
    if not constant or groups != 1:
        return None
    return Window(
        kernel=_pair(shape_of(weight)[2:]),
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        size=_pair(shape_of(x)[2:]),
    )


def convolution_arguments(node: Node) -> tuple[Any, ...]:
    """Return input, weight, bias, stride, padding, dilation and groups of an aten.conv2d."""
    return tuple(
        arguments_of(
            node,
            input=None,
            weight=None,
            bias=None,
            stride=[1, 1],
            padding=[0, 0],
            dilation=[1, 1],
            groups=1,
        )
    )


def rows_of(weight: Tensor) -> Tensor:
    """Return the weight of a convolution [O, C, kh, kw] as that of a linear [O, kh kw C]."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def kernels_of(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return rows [O, kh kw C] as the weight of a convolution, of a shape (O, C, kh, kw)."""
    out, channels, high, wide = shape
    return rows.reshape(out, high, wide, channels).permute(0, 3, 1, 2).contiguous()


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = value
    return int(first), int(rest[0] if rest else first)
