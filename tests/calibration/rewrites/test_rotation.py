"""A rotated stream computes what it computed before, and is rotated only where that pays."""

from __future__ import annotations

import pytest
import torch

from edgevit.calibration.rewrites import rotation
from edgevit.calibration.rewrites.rotation import (
    find_values,
    mean_keeping_rotation,
    rotate,
    rotate_where_it_pays,
)
from edgevit.calibration.run import Run
from edgevit.data import open_images
from edgevit.graph.capture import graph_from_module
from edgevit.graph.stream import Stream, find_streams
from edgevit.targets.registry import target_named
from edgevit.zoo import load_model, reference_images


@pytest.mark.parametrize("channels", [1, 2, 7, 192, 384])
def test_a_rotation_is_orthogonal_and_keeps_the_mean(channels):
    turned = mean_keeping_rotation(channels, seed=3)
    identity = torch.eye(channels, dtype=torch.float64)
    torch.testing.assert_close(turned @ turned.T, identity, atol=1e-12, rtol=0)
    ones = torch.ones(channels, dtype=torch.float64)
    torch.testing.assert_close(turned @ ones, ones, atol=1e-12, rtol=0)
    assert torch.equal(turned, mean_keeping_rotation(channels, seed=3))


def test_it_mixes_every_channel_with_many():
    assert (
        float(mean_keeping_rotation(192, seed=0).abs().max()) < 0.5
    )  # no channel stays what it was


def test_the_function_stays_the_same(graph, images):
    turned = graph.clone()
    streams, values = find_streams(turned), find_values(turned)
    assert streams
    assert len(values) == sum(gemm.kind == "pv" for gemm in graph.gemms)
    for each in (*streams, *values):
        rotate(turned, each, mean_keeping_rotation(each.channels, seed=0))
    wanted = graph.forward(images)
    torch.testing.assert_close(turned.forward(images), wanted, atol=2e-5, rtol=1e-4)
    written = {name for stream in streams for name in stream.writers}
    written |= {one.writer for one in values}
    for name in written:
        assert not torch.equal(turned.weight(turned.gemm(name)), graph.weight(graph.gemm(name)))


def test_it_is_rotated_where_outliers_are_no_channels_of_their_own():
    loaded = load_model("vit_cifar10")
    graph = target_named("cpu").prepare(graph_from_module(loaded.model, (3, 32, 32)))
    streams = find_streams(graph)
    pixels, _, _ = next(
        iter(
            open_images(reference_images("calibration"))
            .subset(8, 0)
            .batches(loaded.preprocessing, 8)
        )
    )
    images = torch.from_numpy(loaded.preprocessing.normalize(pixels))
    placement = target_named("cpu").place(graph, weight_bits=4, act_bits=4)
    run = Run(graph=graph.clone(), placement=placement, images=images)
    found = rotate_where_it_pays(run)
    assert [one.writers for one in found if isinstance(one, Stream)] == [streams[0].writers]
    torch.testing.assert_close(
        run.graph.forward(images), graph.forward(images), atol=1e-4, rtol=1e-4
    )


def test_what_gains_nothing_is_left_as_it_is(split_vit, images, monkeypatch):
    noise = {gemm.name: 1.0 for gemm in split_vit.gemms}
    monkeypatch.setattr(rotation, "_noises", lambda run: noise)
    placement = target_named("cpu").place(split_vit, weight_bits=4, act_bits=4)
    run = Run(graph=split_vit.clone(), placement=placement, images=images)
    assert rotate_where_it_pays(run) == []
    assert torch.equal(run.graph.forward(images), split_vit.forward(images))
