"""Windows: a convolution is a linear layer of the patches that they lay out."""

import pytest
import torch
from convolutional import SIZE, hybrid
from torch import nn

from edgevit.calibration.run import Run
from edgevit.calibration.statistics.ranges import images_per_batch, images_whose_patches_fit
from edgevit.graph import window as windows
from edgevit.graph.capture import graph_from_module
from edgevit.graph.interpret import run_graph
from edgevit.graph.window import Window, kernels_of, rows_of
from edgevit.quantizers.quantized_graph import float_product
from edgevit.quantizers.spec import Placement

CASES = [
    ((3, 3), (1, 1), (1, 1), (1, 1)),
    ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((1, 1), (2, 2), (0, 0), (1, 1)),
    ((7, 7), (4, 4), (3, 3), (1, 1)),
    ((2, 3), (3, 1), (0, 2), (2, 1)),
    ((1, 5), (1, 2), (0, 4), (1, 2)),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), CASES)
def test_a_convolution_is_a_linear_of_its_patches(kernel, stride, padding, dilation):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 8, (2, 4, 11, 13), generator=generator).double()
    weight = torch.randint(-8, 8, (5, 4, *kernel), generator=generator).double()
    window = Window(kernel=kernel, stride=stride, padding=padding, dilation=dilation, size=(11, 13))
    rows = window.unfold(x) @ rows_of(weight).T  # [B, H' W', O]
    wanted = nn.functional.conv2d(x, weight, None, stride, padding, dilation)
    assert tuple(wanted.shape[2:]) == window.output
    assert torch.equal(window.fold(rows), wanted)
    assert torch.equal(kernels_of(rows_of(weight), tuple(weight.shape)), weight)


def test_images_are_unfolded_a_few_at_a_time(monkeypatch):
    window = Window(kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), size=(8, 8))
    x, weight = torch.randn(5, 4, 8, 8), torch.randn(6, 36)
    seen = []

    def product(rows):
        seen.append(len(rows))
        return rows @ weight.T

    whole = window.in_parts(x, product)
    monkeypatch.setattr(windows, "PATCH_BYTES", 2 * 4 * 64 * 36)
    assert torch.equal(window.in_parts(x, product), whole)
    assert seen == [5, 2, 2, 1]


def test_products_see_patches_and_the_graph_goes_on_with_images():
    model = hybrid()
    graph = graph_from_module(model, SIZE)
    convs = {gemm.module: gemm for gemm in graph.gemms if gemm.kind == "conv"}
    assert list(convs) == ["stem", "wide", "down"]  # the 1 x 1 one is a linear, groups are floats
    assert graph.weight(convs["down"]).shape == (40, 3 * 2 * 32)
    seen = {}

    def look(gemm, left, right):
        seen[gemm.module] = tuple(left.shape)
        return float_product(graph, gemm, left, right)

    images = torch.randn(2, *SIZE)
    found = run_graph(graph, images, gemm=look)
    assert torch.allclose(found, model(images), atol=1e-5)
    assert seen["wide"] == (2, 256, 9 * 32)
    assert seen["down"] == (2, 56, 6 * 32)


def test_weights_of_convolutions_can_be_replaced():
    graph = graph_from_module(hybrid(), SIZE)
    gemm = next(g for g in graph.gemms if g.module == "wide")
    before = graph.constant(str(gemm.weight)).clone()
    graph.set_weight(gemm, 2 * graph.weight(gemm))
    assert torch.equal(graph.constant(str(gemm.weight)), 2 * before)


def test_patches_count_as_memory():
    graph = graph_from_module(hybrid(), SIZE)
    largest = 4 * 256 * 9 * 32  # bytes of the patches of one image
    assert images_whose_patches_fit(graph, 10 * largest) == 10
    assert images_per_batch(graph, torch.zeros(1, *SIZE), 3 * largest) < 3
    placement = Placement(target="cpu", weight_bits=8, act_bits=8)
    images = torch.zeros(40, *SIZE)
    run = Run(graph=graph, placement=placement, images=images, memory_bytes=5 * largest)
    assert len(run.images_at_once) == 5
