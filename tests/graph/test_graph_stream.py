"""Residual streams are found where one matrix can rotate them, and nowhere else."""

from __future__ import annotations

import torch
from torch import nn

from edgevit.graph.capture import graph_from_module
from edgevit.graph.stream import find_streams


class Small(nn.Module):
    """Two residual linears behind a patch embedding; `between` does something to the stream."""

    def __init__(self, between) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.one, self.head = nn.Linear(8, 8), nn.Linear(8, 5)
        self.between = between

    def forward(self, image):
        x = self.embed(image).flatten(2).transpose(1, 2)  # [B, N, 8]
        x = self.between(x + self.one(self.norm1(x)))
        return self.head(self.norm2(x).mean(1))


def streams_of(between):
    torch.manual_seed(0)
    return find_streams(graph_from_module(Small(between).eval(), (3, 16, 16)))


def test_a_vit_has_one_stream_of_all_its_writers(vit):
    (stream,) = find_streams(vit)
    writers = {vit.gemm(name).module for name in stream.writers}
    kinds = ("patch_embed.proj", "attn.proj", "mlp.fc2")
    assert writers == {gemm.module for gemm in vit.gemms if gemm.module.endswith(kinds)}
    norms = [node for node in vit.module.graph.nodes if node.name.startswith("layer_norm")]
    assert [feed.ln for feed in stream.feeds] == [node.name for node in norms]
    assert stream.readers == ()
    assert len(stream.tables) == 1


def test_swin_has_one_from_each_merging_on(swin):
    streams = find_streams(swin)
    first = [swin.gemm(stream.writers[0]).module for stream in streams]
    merging = [gemm.module for gemm in swin.gemms if gemm.module.endswith("reduction")]
    assert first == merging  # the first stage begins with a LayerNorm, which can't be turned


def test_layout_along_tokens_is_no_hindrance():
    (stream,) = streams_of(lambda x: x.roll(1, 1)[:, 1:])
    assert len(stream.writers) == 2
    assert len(stream.feeds) == 2


def test_what_mixes_or_bends_channels_is_none():
    for between in (
        lambda x: x.roll(1, -1),
        lambda x: x.relu(),
        lambda x: x * x,
        lambda x: x.reshape(-1, 8, 4).transpose(1, 2),
    ):
        assert all(len(stream.feeds) < 2 for stream in streams_of(between))
