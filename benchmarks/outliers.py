"""Two more twins: outliers that no factor per channel can even out.

*rotated*: the residual stream is turned by an orthogonal matrix so that its principal directions
become single channels, and all of LayerNorm's affine is given to the linears behind. Moving factors
along pairs of constants (`hardening.py`) is what EdgeViT's own folds undo; this is not.

*massive*: one more token whose residual stream is 100 times the median, as trained transformers
without registers grow them (Sun et al., "Massive activations in large language models", arXiv
2402.17762; Darcet et al., "Vision transformers need registers", arXiv 2309.16588). All other
tokens are kept from reading it, so that it changes no logit: what it does is to stretch the ranges.
Windows leave no room for such a token: there is none of Swin.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgevit.calibration.rewrites.rotation import rotate
from edgevit.graph.interpret import run_part
from edgevit.graph.model import Graph
from edgevit.graph.shapes import args_of
from edgevit.graph.stream import Stream, find_streams
from edgevit.graph.verify import relative_error

TIMES_MEDIAN = 100
HIDDEN = -100.0
"""Added to the scores of the massive token: exp(-100) is 0 beside 1 in float32."""
TOLERANCE = 1e-4


@torch.no_grad()
def rotated(graph: Graph, images: Tensor) -> Graph:
    """Return a graph of the same function whose streams hold their energy in few channels.

    Args:
        graph: Left as it is.
        images: float32 [N, 3, H, W] that principal directions are taken from.

    Raises:
        AssertionError: The logits changed, or nothing can be rotated.
    """
    twin = graph.clone()
    streams = find_streams(twin)
    assert streams, "no stream can be rotated"
    for stream in streams:
        rotate(twin, stream, _gathering(_tokens(graph, stream, images)))
    error = relative_error(twin.forward(images), graph.forward(images))
    assert error <= TOLERANCE, f"the twin's logits differ by {error:.1e}"
    return twin


def _tokens(graph: Graph, stream: Stream, images: Tensor) -> Tensor:
    """Return float64 [T, C]: what the LayerNorms of a stream normalise, each token of norm 1."""
    nodes = {node.name: node for node in graph.module.graph.nodes}
    start = next(node.name for node in nodes.values() if node.op == "placeholder")
    names = {args_of(nodes[feed.ln])[0].name for feed in stream.feeds}
    found = [run_part(graph, start, images, name).double() for name in names]
    rows = torch.cat([tensor.reshape(-1, stream.channels) for tensor in found])
    rows = rows - rows.mean(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _gathering(tokens: Tensor) -> Tensor:
    """Return an orthogonal Q with Q 1 = 1 that turns principal directions into channels."""
    channels = tokens.shape[1]
    ones = torch.ones(channels, 1, dtype=torch.float64)
    _, directions = torch.linalg.eigh(tokens.T @ tokens)  # [C, C], columns, energies ascending
    here = torch.linalg.qr(torch.cat([ones, directions.flip(1)], 1)).Q[:, :channels]
    there = torch.linalg.qr(torch.cat([ones, torch.eye(channels, dtype=torch.float64)], 1)).Q
    signs = torch.ones(channels, dtype=torch.float64)
    signs[0] = torch.sign(here[0, 0] * there[0, 0])  # QR may turn the vector of ones around
    return there[:, :channels] @ (signs[:, None] * here.T)


class WithMassiveToken(nn.Module):
    """A timm ViT with one more token that is large and that no other token reads."""

    def __init__(self, model: nn.Module, token: Tensor) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.token = nn.Parameter(token)  # [1, 1, C]
        count = model.pos_embed.shape[1] + 1
        hidden = torch.zeros(1, 1, count, count)
        hidden[..., :-1, -1] = HIDDEN
        self.register_buffer("hidden", hidden)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of the model: image [B, 3, H, W] -> [B, classes]."""
        model = self.model
        x = model.norm_pre(model._pos_embed(model.patch_embed(image)))  # [B, N, C]
        x = torch.cat([x, self.token.expand(x.shape[0], -1, -1)], 1)
        for block in model.blocks:
            x = block(x, attn_mask=self.hidden)
        logits: Tensor = model.forward_head(model.norm(x)[:, :-1])
        return logits


@torch.no_grad()
def with_massive_token(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the massive twin of a timm ViT.

    Raises:
        AssertionError: The logits changed.
    """
    embedded = model._pos_embed(model.patch_embed(images))  # [B, N, C]
    token = torch.zeros(1, 1, embedded.shape[-1])
    largest = int(model.blocks[0].norm1.weight.abs().argmax())
    token[..., largest] = TIMES_MEDIAN * embedded.abs().median()
    twin = WithMassiveToken(model, token).eval()
    error = relative_error(twin(images), model(images))
    assert error <= TOLERANCE, f"the twin's logits differ by {error:.1e}"
    return twin
