"""A small hybrid of convolutions and tokens, with every kind of convolution that has rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZE = (3, 32, 32)
MULTIPLY_ADDS = {
    "stem": 32 * 16 * 16 * 3 * 9,
    "wide": 48 * 16 * 16 * 32 * 9,
    "depthwise": 48 * 16 * 16 * 9,
    "grouped": 48 * 16 * 16 * 12 * 9,
    "point": 32 * 16 * 16 * 48,
    "down": 40 * 7 * 8 * 32 * 3 * 2,
    "mlp": 56 * 40 * 40,
    "head": 40 * 5,
}
"""Of each layer, counted by hand: elements of its output times the length of each sum."""


class Hybrid(nn.Module):
    """A stem, a dilated, a depthwise, a grouped, a 1 x 1 and an uneven convolution, and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(32, 48, 3, padding=2, dilation=2, bias=False)
        self.depthwise = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.grouped = nn.Conv2d(48, 48, 3, padding=1, groups=4)
        self.point = nn.Conv2d(48, 32, 1)
        self.down = nn.Conv2d(32, 40, (3, 2), stride=(2, 2))
        self.norm = nn.LayerNorm(40)
        self.mlp = nn.Linear(40, 40)
        self.head = nn.Linear(40, 5)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, 5] of images [B, 3, 32, 32]."""
        x = torch.nn.functional.relu(self.stem(image))  # [B, 32, 16, 16]
        x = torch.nn.functional.gelu(self.wide(x))
        x = self.grouped(self.depthwise(x))
        x = self.down(torch.nn.functional.silu(self.point(x)))  # [B, 40, 7, 8]
        tokens = self.norm(x.flatten(2).transpose(1, 2))  # [B, 56, 40]
        return self.head((tokens + self.mlp(tokens)).mean(1))


def hybrid() -> nn.Module:
    """Return the model with weights drawn from a fixed seed."""
    torch.manual_seed(0)
    return Hybrid().eval()
