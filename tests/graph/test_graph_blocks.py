"""Blocks: found in every library, closed, and run on their own they give the same output."""

from __future__ import annotations

import pytest
import torch
from small_models import captured, randomise
from torch import Tensor, nn

from edgevit.graph.blocks import Block, block_nodes, blocks_of
from edgevit.graph.capture import graph_from_module
from edgevit.graph.interpret import run_graph, run_nodes
from edgevit.graph.model import Gemm, Graph
from edgevit.targets.cpu.target import CpuTarget

BETWEEN = ("embed", "conv_proj", "features.0", "reduction", "head", "classifier")
NAMES = {
    "timm_vit": ["blocks.0", "blocks.1"],
    "timm_distilled": ["blocks.0"],
    "torchvision_vit": ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"],
    "transformers_vit": ["vit.layers.0", "vit.layers.1"],
    "timm_swin": [f"layers.{stage}.blocks.{at}" for stage in (0, 1) for at in (0, 1)],
    "torchvision_swin": [f"features.{stage}.{at}" for stage in (1, 3) for at in (0, 1)],
    "transformers_swin": [
        f"swin.encoder.layers.{stage}.blocks.{at}" for stage in (0, 1) for at in (0, 1)
    ],
}


def _outputs(graph: Graph, images: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    run_graph(graph, images, observe=lambda name, value: found.update({name: value.clone()}))
    return found


def run_block(graph: Graph, block: Block, value: Tensor) -> Tensor:
    return run_nodes(graph, block_nodes(graph, block), {block.input: value})


def test_every_attention_is_in_one_block(small: tuple[nn.Module, Graph]) -> None:
    graph = small[1]
    blocks = blocks_of(graph)
    inside = [name for block in blocks for name in block.gemms]
    assert len(inside) == len(set(inside))
    attention = {gemm.name for gemm in graph.gemms if gemm.kind in {"qk", "pv"}}
    assert attention <= set(inside)
    kinds = [[graph.gemm(name).kind for name in block.gemms] for block in blocks]
    for found in kinds:
        assert (found.count("qk"), found.count("pv")) == (1, 1)
        assert found.count("linear") in {4, 6}  # qkv as one or three, projection, two of the MLP
    outside = [gemm.module for gemm in graph.gemms if gemm.name not in inside]
    for module in outside:
        assert any(word in module for word in BETWEEN), module


@pytest.mark.parametrize("name", sorted(NAMES))
def test_names_are_module_paths(name: str) -> None:
    assert [block.name for block in blocks_of(captured(name)[1])] == NAMES[name]


def test_a_block_alone_gives_its_output(small: tuple[nn.Module, Graph], images: Tensor) -> None:
    graph = small[1]
    values = _outputs(graph, images)
    for block in blocks_of(graph):
        assert torch.equal(run_block(graph, block, values[block.input]), values[block.output])
        names = {node.name for node in block_nodes(graph, block)}
        assert block.input not in names
        assert set(block.gemms) <= names


def test_blocks_of_one_stage_meet(vit: Graph) -> None:
    first, second = blocks_of(vit)
    assert first.output == second.input


def test_split_q_k_v_belong_to_the_block(vit: Graph, images: Tensor) -> None:
    graph = CpuTarget().prepare(vit)
    values = _outputs(graph, images)
    for block in blocks_of(graph):
        assert len(block.gemms) == 8
        assert torch.equal(run_block(graph, block, values[block.input]), values[block.output])


def test_one_block_per_stage_leaves_the_merging_out() -> None:
    from timm.models.swin_transformer import SwinTransformer

    options = {"img_size": 32, "patch_size": 4, "window_size": 4, "num_classes": 5}
    model = SwinTransformer(embed_dim=16, depths=(1, 1), num_heads=(2, 4), **options)
    graph = graph_from_module(randomise(model), (3, 32, 32))
    assert [block.name for block in blocks_of(graph)] == ["layers.0.blocks.0", "layers.1.blocks.0"]


def test_known_values_are_not_computed_again(vit: Graph, images: Tensor) -> None:
    """The rest of a block can be run for another output of one of its products."""
    values, block = _outputs(vit, images), blocks_of(vit)[0]
    changed = block.gemms[-1]
    known = {block.input: values[block.input], changed: values[changed] + 1}
    called: list[str] = []

    def product(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        called.append(gemm.name)
        return values[gemm.name]

    output = run_nodes(vit, block_nodes(vit, block), known, gemm=product)
    torch.testing.assert_close(output, values[block.output] + 1)
    assert called == list(block.gemms[:-1])


def test_gradients_flow_through_a_block(vit: Graph, images: Tensor) -> None:
    block = blocks_of(vit)[0]
    value = _outputs(vit, images)[block.input].detach().requires_grad_(True)
    run_block(vit, block, value).square().sum().backward()
    assert value.grad is not None
    assert float(value.grad.norm()) > 0


class _NoResidual(nn.Module):
    """An attention without a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(64, 8), nn.Linear(8, 5)
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image.reshape(-1, 48, 64))
        scores = self.q(x) @ self.k(x).transpose(-1, -2)
        x = scores.softmax(-1) @ self.v(x)
        return self.head(x.mean(1))


def test_an_attention_without_a_stream_is_no_block() -> None:
    assert blocks_of(graph_from_module(randomise(_NoResidual()), (3, 32, 32))) == ()
