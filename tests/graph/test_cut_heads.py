"""q, k and v as slices along heads: the same function, whatever wrote the attention."""

import pytest
import torch

from edgevit.graph.capture import graph_from_module
from edgevit.graph.cut_heads import with_cut_heads
from edgevit.graph.operators import aten
from edgevit.targets.onnx.row_gather import with_rows_before_norms


def timm_vit():
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=10
    )


def timm_swin():
    from timm.models.swin_transformer import SwinTransformer

    sizes = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 32}
    return SwinTransformer(**sizes, depths=(2,), num_heads=(2,), num_classes=10)


def torchvision_vit():
    from torchvision.models.vision_transformer import VisionTransformer

    sizes = {"image_size": 32, "patch_size": 8, "hidden_dim": 32, "mlp_dim": 64}
    return VisionTransformer(**sizes, num_layers=2, num_heads=2, num_classes=10)


def separate_vit():
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
    config = ViTConfig(
        **sizes, num_hidden_layers=2, num_attention_heads=2, attn_implementation="eager"
    )
    return ViTForImageClassification(config)


def separate_swin():
    from transformers import SwinConfig, SwinForImageClassification

    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 32, "window_size": 4}
    return SwinForImageClassification(SwinConfig(**sizes, depths=[2], num_heads=[2]))


def captured(make):
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return graph_from_module(model, (3, 32, 32))


def count(graph, target):
    return sum(node.target is target for node in graph.module.graph.nodes)


@pytest.mark.parametrize(
    "make", [timm_vit, timm_swin, torchvision_vit, separate_vit, separate_swin]
)
def test_heads_are_cut_and_nothing_else_changes(make):
    graph = captured(make)
    cut = with_cut_heads(graph)
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(graph.forward(images), cut.forward(images))
    assert count(cut, aten.slice.Tensor) == 6  # q, k, v in two blocks
    assert count(cut, aten.cat.default) == (2 if make in (separate_vit, separate_swin) else 0)
    kept = [(gemm.name, gemm.module, gemm.left.name, gemm.left.role) for gemm in graph.gemms]
    assert kept == [(gemm.name, gemm.module, gemm.left.name, gemm.left.role) for gemm in cut.gemms]


def test_products_kept_apart_are_not_put_side_by_side():
    """They may be in float32 where the others are in float16."""
    graph = captured(separate_vit)
    first = next(gemm.name for gemm in graph.gemms if gemm.kind == "qk")
    linear = graph.gemms[[gemm.name for gemm in graph.gemms].index(first) - 2].name
    cut = with_cut_heads(graph, apart={linear})
    assert count(cut, aten.slice.Tensor) == 3  # the second block only
    fused = captured(timm_vit)
    everything = {gemm.name for gemm in fused.gemms}
    assert count(with_cut_heads(fused, apart=everything), aten.slice.Tensor) == 6


def test_heads_that_are_scaled_on_the_way_stay_as_they_are():
    graph = captured(timm_vit)
    site = next(gemm.left for gemm in graph.gemms if gemm.kind == "qk")
    node = next(n for n in graph.module.graph.nodes if n.name == site.producer)
    with graph.module.graph.inserting_after(node):
        from edgevit.graph.rewrite import call, replace

        replace(node, call(node, aten.mul.Tensor, node, 0.5))
    graph.refresh()
    cut = with_cut_heads(graph)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(graph.forward(images), cut.forward(images))
    assert count(cut, aten.slice.Tensor) == 3


@pytest.mark.parametrize("make", [timm_swin, separate_swin])
def test_rows_are_moved_before_norms(make):
    graph = captured(make)
    moved = with_rows_before_norms(graph)
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(graph.forward(images), moved.forward(images))
    norms = [n for n in moved.module.graph.nodes if n.target is aten.layer_norm.default]
    behind_a_gather = [n for n in norms if n.args[0].target is aten.index_select.default]
    assert len(behind_a_gather) == 2  # windows, and shifted windows
    names = [n.name for n in graph.module.graph.nodes if n.target is aten.layer_norm.default]
    assert [n.name for n in norms] == names


def test_a_model_without_windows_keeps_its_norms():
    moved = with_rows_before_norms(captured(timm_vit))
    assert count(moved, aten.index_select.default) == 0


class Late(torch.nn.Module):
    """An attention whose v is projected behind the first product, and read by two softmaxes."""

    def __init__(self, twice):
        super().__init__()
        torch.manual_seed(0)
        self.twice = twice
        self.stem = torch.nn.Conv2d(3, 32, 8, 8)
        self.q, self.k, self.v = (torch.nn.Linear(32, 32) for _ in range(3))
        self.head = torch.nn.Linear(32, 5)

    def heads(self, x):
        return x.reshape(-1, 16, 2, 16).transpose(1, 2)

    def forward(self, image):
        x = self.stem(image).flatten(2).transpose(1, 2)
        scores = self.heads(self.q(x)) @ self.heads(self.k(x)).transpose(-1, -2)
        v = self.heads(self.v(x))
        out = scores.softmax(-1) @ v
        if self.twice:
            out = out + (scores * 2).softmax(-1) @ v
        return self.head(out.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize("twice", [False, True])
def test_projections_behind_the_first_product_are_left_where_they_are(twice):
    graph = graph_from_module(Late(twice).eval(), (3, 32, 32))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(with_cut_heads(graph).forward(images), graph.forward(images))
