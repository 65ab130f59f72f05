"""Small models whose attention is none of q k^T, softmax and P V alone, as families write it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIDE, WIDTH, HEADS, CLASSES = 16, 16, 2, 5
GRID = SIDE // 4  # tokens along one side


class RelativePositions(nn.Module):
    """Positions along both sides times tables, added to the scores: SAM, ViTDet, MViTv2."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        size = WIDTH // HEADS
        self.rows, self.columns = (nn.Parameter(torch.randn(2 * GRID - 1, size)) for _ in "ab")
        ids = torch.arange(GRID)
        self.register_buffer("index", ids[:, None] - ids[None, :] + GRID - 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.reshape(3, batch * HEADS, tokens, -1).unbind(0)  # [B H, N, D]
        image = q.reshape(batch * HEADS, GRID, GRID, -1)
        down = torch.einsum("bhwc,hkc->bhwk", image, self.rows[self.index])
        right = torch.einsum("bhwc,wkc->bhwk", image, self.columns[self.index])
        bias = (down[..., :, None] + right[..., None, :]).reshape(-1, tokens, tokens)
        scores = (q * (width // HEADS) ** -0.5) @ k.transpose(-1, -2) + bias
        out = (scores.softmax(-1) @ v).reshape(batch, HEADS, tokens, -1)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))


class TalkingHeads(nn.Module):
    """A linear over the heads on both sides of the softmax: CaiT."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.before, self.behind = nn.Linear(HEADS, HEADS), nn.Linear(HEADS, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-1, -2)).permute(0, 2, 3, 1)
        weights = self.behind(self.before(scores).softmax(2)).permute(0, 3, 1, 2)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class LinearAttention(nn.Module):
    """No softmax; a column of ones makes what it is divided by: EfficientViT."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        v = torch.nn.functional.pad(v, (0, 1), value=1.0)
        out = q.relu() @ (k.relu().transpose(-1, -2) @ v)
        out = out[..., :-1] / (out[..., -1:] + 1e-5)
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, width))


class TurnedAttention(nn.Module):
    """Tokens in the columns, probabilities on the right: EfficientViT-M, SHViT."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).transpose(1, 2).chunk(3, 1)  # [B, C, N]
        weights = (q.transpose(1, 2) @ k * WIDTH**-0.5).softmax(-1)
        return self.proj((v @ weights.transpose(-1, -2)).transpose(1, 2))


class HeadMatrices(nn.Module):
    """A matrix of its own for every head, tokens mixed by a constant on the left, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        size = WIDTH // HEADS
        self.heads = nn.Parameter(torch.randn(HEADS, size, size) * size**-0.5)
        self.mix = nn.Parameter(torch.randn(HEADS, GRID**2, GRID**2) / GRID)
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        apart = x.reshape(batch, tokens, HEADS, -1).transpose(1, 2)  # [B, H, N, D]
        mixed = self.mix @ (apart @ self.heads)
        return mixed.transpose(1, 2).reshape(batch, tokens, width) * self.gate(x).sigmoid()


KINDS = (RelativePositions, TalkingHeads, LinearAttention, TurnedAttention, HeadMatrices)


class Paired(nn.Module):
    """A patch embedding, one block of a kind or of each, and a head."""

    def __init__(self, *kinds: type[nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.blocks = nn.ModuleList(kind() for kind in kinds or KINDS)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in self.blocks)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.head(x.mean(1))


def paired(*kinds: type[nn.Module]) -> nn.Module:
    """Return a model with seeded weights."""
    torch.manual_seed(0)
    return Paired(*kinds).eval()


def photographs(count: int) -> Tensor:
    """Return float32 [count, 3, SIDE, SIDE]."""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
