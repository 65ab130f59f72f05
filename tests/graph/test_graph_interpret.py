"""The interpreter computes what the module computes, frees tensors and can be hooked into."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import Tensor, nn

from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Gemm, Graph


def _product(graph: Graph, gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
    if right is not None:
        return left @ right
    return nn.functional.linear(left, graph.weight(gemm), graph.bias(gemm))


def _convolution(graph: Graph, gemm: Gemm, x: Tensor) -> Tensor:
    assert gemm.window is not None
    weight, bias = graph.constant(str(gemm.weight)), graph.bias(gemm)
    window = gemm.window
    return nn.functional.conv2d(x, weight, bias, window.stride, window.padding, window.dilation)


def test_same_bits_as_the_module(small: tuple[nn.Module, Graph], images: Tensor) -> None:
    graph = small[1]
    expected = graph.forward(images)
    assert torch.equal(run_graph(graph, images), expected)
    order: list[Gemm] = []

    def compute(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        order.append(gemm)
        return _product(graph, gemm, left, right)

    def convolve(gemm: Gemm, x: Tensor) -> Tensor:
        order.append(gemm)
        return _convolution(graph, gemm, x)

    assert torch.equal(run_graph(graph, images, gemm=compute, conv=convolve), expected)
    assert tuple(order) == graph.gemms


def test_a_replaced_gemm_changes_the_logits(vit: Graph, images: Tensor) -> None:
    def compute(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        output = _product(vit, gemm, left, right)
        return output + 1.0 if gemm is vit.gemms[-1] else output

    torch.testing.assert_close(run_graph(vit, images, gemm=compute), vit.forward(images) + 1.0)


def test_observer_sees_every_operator_once(swin: Graph, images: Tensor) -> None:
    seen: list[str] = []
    run_graph(swin, images, observe=lambda name, value: seen.append(name))
    nodes = swin.module.graph.nodes
    assert seen == [n.name for n in nodes if n.op in {"placeholder", "call_function"}]


def test_shapes_in_the_graph_are_those_that_run(
    small: tuple[nn.Module, Graph], images: Tensor
) -> None:
    from edgevit.graph.shapes import at_batch

    graph = small[1]
    shapes = {n.name: n.meta.get("shape") for n in graph.module.graph.nodes}

    def look(name: str, value: Tensor) -> None:
        assert at_batch(shapes[name], len(images)) == tuple(value.shape)

    run_graph(graph, images, observe=look)


def test_tensors_are_freed_after_their_last_use(vit: Graph, images: Tensor) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def look(name: str, value: Tensor) -> None:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(value))

    with torch.no_grad():
        run_graph(vit, images, observe=look)
    gc.collect()
    assert most < 8 < len(alive)


def test_gradients_reach_image_and_intermediate_tensors(vit: Graph, images: Tensor) -> None:
    outputs: dict[str, Tensor] = {}

    def compute(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        outputs[gemm.name] = _product(vit, gemm, left, right)
        outputs[gemm.name].retain_grad()
        return outputs[gemm.name]

    image = images.clone().requires_grad_()
    run_graph(vit, image, gemm=compute).square().sum().backward()
    assert image.grad is not None
    assert bool(image.grad.any())
    assert all(value.grad is not None for value in outputs.values())
    assert all(not value.requires_grad for value in vit.module.buffers())
    image.grad = None
    vit.forward(image).sum().backward()
    assert bool(image.grad.any())


def test_rewriting_a_clone_leaves_the_original(vit: Graph, images: Tensor) -> None:
    before, count = vit.forward(images), len(vit.module.graph.nodes)
    other = vit.clone()
    assert other.gemms == vit.gemms
    assert [n.meta for n in other.module.graph.nodes] == [n.meta for n in vit.module.graph.nodes]
    for name, value in list(other.module.named_buffers()):
        other.set_constant(name, torch.zeros_like(value))
    other.module.graph.erase_node(next(iter(reversed(other.module.graph.nodes))))
    assert len(vit.module.graph.nodes) == count
    assert torch.equal(vit.forward(images), before)
