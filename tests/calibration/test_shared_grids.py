"""One grid per tensor, the products of a run, and their weights and biases by name."""

import pytest
import torch

from edgevit.calibration.run import Run
from edgevit.calibration.search.shared_grids import GridChooser
from edgevit.targets.registry import target_named


@pytest.fixture
def chooser(split_vit):
    asked = []

    def choose(site):
        asked.append(site.name)
        return f"grid {len(asked)}"

    found = GridChooser(split_vit, choose)
    found.asked = asked
    return found


def readers_of_one_tensor(graph):
    """The inputs of q, k and v of the first block, which read one LayerNorm."""
    first = next(gemm.left for gemm in graph.gemms if gemm.left.role.value == "ln_out")
    return [gemm.left for gemm in graph.gemms if gemm.left.producer == first.producer]


def test_layers_that_read_one_tensor_get_one_grid(split_vit, chooser):
    sites = readers_of_one_tensor(split_vit)
    assert len(sites) == 3
    assert [chooser.grid(site) for site in sites] == ["grid 1"] * 3
    assert chooser.asked == [sites[0].name]
    assert chooser.share(*sites[:2])


def test_operands_of_attention_have_grids_of_their_own(split_vit, chooser):
    product = next(gemm for gemm in split_vit.gemms if gemm.kind == "qk")
    assert chooser.grid(product.left) != chooser.grid(product.right)
    assert not chooser.share(product.left, product.right)


def test_a_proposal_settles_nothing(split_vit, chooser):
    first, second, _ = readers_of_one_tensor(split_vit)
    assert chooser.proposed(first) == "grid 1"
    assert first not in chooser
    chooser.keep(first, "better")
    assert second in chooser
    assert chooser.proposed(second) == chooser.grid(second) == "better"


@pytest.mark.parametrize(("target", "attention"), [("cpu", True), ("jetson-orin-nano", False)])
def test_the_gemms_of_a_run_are_those_with_grids_on_offer(target, attention, vit, images):
    placement = target_named(target).place(vit, weight_bits=6, act_bits=6)
    run = Run(graph=vit, placement=placement, images=images)
    sites = {site.name for gemm in run.gemms for site in (gemm.left, gemm.right)}
    assert sites == set(placement.options)
    assert any(gemm.kind == "qk" for gemm in run.gemms) == attention
    assert run.gemms == [gemm for gemm in vit.gemms if gemm in run.gemms]


def test_weight_and_bias_of_a_linear_and_of_a_product_of_activations(vit):
    graph = vit.clone()
    linear = next(gemm for gemm in graph.gemms if gemm.kind == "linear")
    product = next(gemm for gemm in graph.gemms if gemm.kind == "qk")
    assert torch.equal(graph.weight(linear), graph.constant(linear.weight))
    graph.set_weight(linear, 2 * graph.weight(linear))
    graph.set_bias(linear, graph.bias(linear) + 1)
    assert torch.equal(graph.weight(linear), 2 * vit.weight(linear))
    assert torch.equal(graph.bias(linear), vit.bias(linear) + 1)
    with pytest.raises(ValueError, match="without a weight"):
        graph.bias(product)
