"""Every small model: same logits, only canonical operators, the right roles and names."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from small_models import SMALL, captured, logits
from torch import Tensor, nn

from edgevit.graph.model import Graph, Role
from edgevit.graph.operators import ALLOWED, aten
from edgevit.graph.verify import relative_error

BLOCK = ("query", "key", "softmax_out", "value", "attn_out", "gelu_out")
EXPECTED = {
    "timm_vit": {"ln_out": 4, "blocks": 2, "head_in": 1},
    "timm_distilled": {"ln_out": 2, "blocks": 1, "head_in": 2},
    "timm_hybrid": {"ln_out": 2, "blocks": 1, "head_in": 1, "linear_in": 2},
    "torchvision_vit": {"ln_out": 4, "blocks": 2, "head_in": 1},
    "transformers_vit": {"ln_out": 8, "blocks": 2, "head_in": 1},
    "transformers_vit_eager": {"ln_out": 8, "blocks": 2, "head_in": 1},
    "timm_swin": {"ln_out": 9, "blocks": 4, "head_in": 1},
    "torchvision_swin": {"ln_out": 9, "blocks": 4, "head_in": 1},
    "transformers_swin": {"ln_out": 17, "blocks": 4, "head_in": 1},
    "transformers_swin_sdpa": {"ln_out": 17, "blocks": 4, "head_in": 1},
}


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_logits_are_the_models(small: tuple[nn.Module, Graph], batch: int) -> None:
    model, graph = small
    images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
    assert relative_error(graph.forward(images), logits(model, images)) < 1e-5


@pytest.mark.parametrize("name", sorted(SMALL))
def test_role_counts(name: str) -> None:
    graph, wanted = captured(name)[1], EXPECTED[name]
    counts = Counter(site.role.value for site in graph.sites)
    assert counts.pop("weight") == sum(g.weight is not None for g in graph.gemms)
    expected = dict.fromkeys(BLOCK, wanted["blocks"])
    expected |= {
        "patch_in": 1,
        "ln_out": wanted["ln_out"],
        "head_in": wanted["head_in"],
        **({"linear_in": wanted["linear_in"]} if "linear_in" in wanted else {}),
    }
    assert counts == expected


def test_only_canonical_operators(small: tuple[nn.Module, Graph]) -> None:
    for node in small[1].module.graph.nodes:
        if node.op == "call_function":
            assert node.target in ALLOWED
            assert any(source.op != "get_attr" for source in node.all_input_nodes)
        if node.target is aten.reshape.default:
            assert sum(size == -1 for size in node.args[1]) <= 1
            assert all(isinstance(size, int) for size in node.args[1])


def test_one_image_in_logits_out(small: tuple[nn.Module, Graph]) -> None:
    nodes = list(small[1].module.graph.nodes)
    assert [n.name for n in nodes if n.op == "placeholder"] == ["image"]
    (output,) = (n for n in nodes if n.op == "output")
    assert output.args[0].meta["shape"][0] == -1
    assert all("module" in n.meta and "shape" in n.meta for n in nodes if n.op != "output")


def test_constants_are_plain_buffers(small: tuple[nn.Module, Graph]) -> None:
    module = small[1].module
    assert not list(module.parameters())
    assert not module.training
    for name, value in module.named_buffers():
        assert not value.requires_grad, name
        assert value.dtype == torch.float32, name
        assert value.is_contiguous(), name


def test_every_linear_has_its_own_weight_and_bias(small: tuple[nn.Module, Graph]) -> None:
    kinds = {"linear", "conv"}
    names = [name for g in small[1].gemms if g.kind in kinds for name in (g.weight, g.bias)]
    assert None not in names
    assert len(set(names)) == len(names)
    assert all(g.weight is None for g in small[1].gemms if g.kind not in kinds)


def test_site_names_are_unique_and_resolve(small: tuple[nn.Module, Graph]) -> None:
    graph = small[1]
    names = {node.name for node in graph.module.graph.nodes}
    assert len({site.name for site in graph.sites}) == len(graph.sites)
    for site in graph.sites:
        assert site.producer in names
        assert graph.gemm(site.gemm).name == site.gemm
        assert graph.site(site.name) == site
        assert site.name.startswith(graph.gemm(site.gemm).module + ":")


def test_module_paths_are_those_of_the_model(small: tuple[nn.Module, Graph]) -> None:
    model, graph = small
    paths = dict(model.named_modules()) | {"": model}
    for node in graph.module.graph.nodes:
        if node.op == "call_function":
            assert node.meta["module"] in paths
    for gemm in graph.gemms:
        owner = gemm.module.removesuffix(".qk").removesuffix(".pv")
        assert owner in paths or f"{owner}_weight" in dict(model.named_parameters())


def test_names_of_a_vit(vit: Graph) -> None:
    assert [g.module for g in vit.gemms[:5]] == [
        "patch_embed.proj",
        "blocks.0.attn.qkv",
        "blocks.0.attn.qk",
        "blocks.0.attn.pv",
        "blocks.0.attn.proj",
    ]
    assert vit.gemms[2].left.name == "blocks.0.attn.qk:query"
    assert vit.gemms[3].right.name == "blocks.0.attn.pv:value"
    assert vit.gemms[1].weight == "blocks_0_attn_qkv_weight"
    assert vit.gemms[1].bias == "blocks_0_attn_qkv_bias"
    assert vit.gemms[-1].left.role is Role.HEAD_IN


def test_capture_is_deterministic() -> None:
    from edgevit.graph.capture import graph_from_module

    model, first = captured("timm_vit")
    second = graph_from_module(model, (3, 32, 32), check=False)
    assert str(first.module.graph) == str(second.module.graph)
    assert first.gemms == second.gemms


def test_model_is_left_as_it_was(images: Tensor) -> None:
    from edgevit.graph.capture import graph_from_module

    model = SMALL["timm_vit"]()
    model.train()
    model.blocks[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = graph_from_module(model, (3, 32, 32), check=False)
    assert model.training
    assert not model.blocks[0].training
    for name in list(dict(graph.module.named_buffers())):
        graph.constant(name).zero_()  # the graph owns its constants
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(p.requires_grad for p in model.parameters())


def test_half_precision_model_is_captured_in_float32(images: Tensor) -> None:
    from edgevit.graph.capture import graph_from_module

    model = SMALL["timm_vit"]().to(torch.bfloat16)
    graph = graph_from_module(model, (3, 32, 32))
    assert next(model.parameters()).dtype is torch.bfloat16
    assert graph.forward(images).dtype is torch.float32


def test_identical_masks_are_stored_once() -> None:
    from timm.models.swin_transformer import SwinTransformer

    from edgevit.graph.capture import graph_from_module

    model = SwinTransformer(
        img_size=32, patch_size=4, embed_dim=16, depths=(4,), num_heads=(2,), window_size=4
    )
    graph = graph_from_module(model, (3, 32, 32))
    masks = [n for n, v in graph.module.named_buffers() if v.shape == (1, 4, 1, 16, 16)]
    assert len(masks) == 1


def test_query_scale_is_folded(small: tuple[nn.Module, Graph]) -> None:
    targets = {node.target for node in small[1].module.graph.nodes}
    assert aten.mul.Tensor not in targets


def test_refresh_and_set_constant(vit: Graph, images: Tensor) -> None:
    head = vit.gemms[-1]
    vit.set_constant(str(head.weight), torch.zeros_like(vit.constant(str(head.weight))))
    expected = vit.constant(str(head.bias)).expand(3, -1)
    torch.testing.assert_close(vit.forward(images), expected)
    with pytest.raises(ValueError, match="can't replace"):
        vit.set_constant(str(head.bias), torch.zeros(3))
