"""Mixed precision: the knapsack is exact, budgets hold, better layers get more bits."""

import itertools
from math import prod

import numpy as np
import pytest
import torch

from edgevit.calibration.methods import METHODS
from edgevit.calibration.mixed.additivity import Additivity
from edgevit.calibration.mixed.allocation import allocate
from edgevit.calibration.mixed.candidates import candidates
from edgevit.calibration.mixed.criteria import fisher_losses, nuclear_losses, nuclear_norm
from edgevit.calibration.mixed.units import activation_units, modules, single_layers, weight_units
from edgevit.calibration.mixed.widths import Budget, choose_widths
from edgevit.calibration.run import Run, calibrate
from edgevit.errors import UsageError
from edgevit.graph.interpret import run_graph
from edgevit.graph.shapes import at_batch, shape_of
from edgevit.graph.sharing import shared_grid_sites
from edgevit.quantizers.quantized_graph import float_product
from edgevit.targets.cpu.target import CpuTarget

TARGET = CpuTarget()
WIDTHS = (2, 3, 4, 8)


def run_of(graph, images, bits=4):
    placement = TARGET.place(graph, weight_bits=bits, act_bits=bits)
    return Run(graph=graph.clone(), placement=placement, images=images)


def place_of(graph, bits=4):
    return lambda layer_bits: TARGET.place(
        graph, weight_bits=bits, act_bits=bits, layer_bits=layer_bits
    )


def mixed(graph, images, budget, criterion="fisher"):
    run = run_of(graph, images)
    return choose_widths(run, place_of(graph), budget, widths=WIDTHS, criterion=criterion)


def exhaustive(losses, costs, budget):
    """The slow twin: all choices."""
    found = None
    for choice in itertools.product(range(losses.shape[1]), repeat=len(losses)):
        cost = sum(costs[u, c] for u, c in enumerate(choice))
        loss = sum(losses[u, c] for u, c in enumerate(choice))
        if cost <= budget and (found is None or loss < found):
            found = loss
    return found


@pytest.mark.parametrize("seed", range(20))
def test_the_knapsack_equals_trying_everything(seed):
    random = np.random.default_rng(seed)
    units, choices = random.integers(1, 6), random.integers(1, 5)
    losses = random.random((units, choices)) ** 3
    costs = random.integers(0, 30, (units, choices)) * random.choice([1, 7])
    for budget in random.uniform(0, costs.max(1).sum() * 1.1, 6):
        chosen = allocate(losses, costs, budget)
        best = exhaustive(losses, costs, budget)
        if best is None:
            assert chosen is None
            continue
        assert sum(costs[u, c] for u, c in enumerate(chosen)) <= budget
        assert sum(losses[u, c] for u, c in enumerate(chosen)) == pytest.approx(best)


def test_rounded_costs_keep_the_budget_and_lose_little():
    random = np.random.default_rng(0)
    losses = np.sort(random.random((40, 4)), 1)[:, ::-1]
    costs = np.sort(random.integers(10_000, 900_000, (40, 4)), 1)
    budget = 0.6 * costs.max(1).sum()
    best, coarse = (allocate(losses, costs, budget, buckets=b) for b in (200_000, 1000))
    spent = [sum(costs[u, c] for u, c in enumerate(chosen)) for chosen in (best, coarse)]
    lost = [sum(losses[u, c] for u, c in enumerate(chosen)) for chosen in (best, coarse)]
    assert max(spent) <= budget
    assert lost[0] <= lost[1] <= 1.05 * lost[0]
    assert allocate(losses, costs, float(costs.min(1).sum()), buckets=10) is not None
    assert allocate(losses, costs, float(costs.min(1).sum()) - 1, buckets=10) is None


def means_by_hand(graph, layer_bits):
    """The slow twin of the mean widths: every weight, every activation value once."""
    nodes, leader = {n.name: n for n in graph.module.graph.nodes}, shared_grid_sites(graph)
    weights, acts = [], []
    for gemm in graph.gemms:
        w, a = layer_bits[gemm.module]
        if gemm.weight is not None:
            weights += [(graph.constant(gemm.weight).numel(), w)]
        for site in (gemm.left,) if gemm.weight is not None else (gemm.left, gemm.right):
            if site.role.value != "patch_in" and leader[site.name] == site.name:
                acts += [(prod(at_batch(shape_of(nodes[site.producer]), 1)), a)]
    return [sum(n * b for n, b in rows) / sum(n for n, _ in rows) for rows in (weights, acts)]


@pytest.mark.parametrize("criterion", ["fisher", "nuclear"])
def test_budgets_hold_and_are_used(graph, images, criterion):
    for average in (3.5, 9.0):
        found = mixed(graph, images, Budget(weight_bits=average, act_bits=average), criterion)
        assert set(found.layer_bits) == {gemm.module for gemm in graph.gemms}
        means = means_by_hand(graph, found.layer_bits)
        assert means == pytest.approx([found.weight_mean, found.act_mean])
        assert min(average, 8) * 0.8 < min(means)
        assert max(means) <= average
        place_of(graph)(found.layer_bits)  # one width for each shared tensor
    assert min(means) > 7  # a twin grid at 6 bits may well lose less than a uniform one at 8


def test_one_budget_leaves_the_other_operand_alone(split_vit, images):
    found = mixed(split_vit, images, Budget(weight_bits=3.0))
    assert {a for _, a in found.layer_bits.values()} == {4}
    assert len({w for w, _ in found.layer_bits.values()}) > 1
    found = mixed(split_vit, images, Budget(act_bits=3.0))
    weights = {split_vit.gemm(g.name).module for g in split_vit.gemms if g.weight is not None}
    assert {found.layer_bits[name][0] for name in weights} == {4}


def test_too_small_a_budget_says_what_is_possible(split_vit, images):
    for value in (1.9, float("nan")):
        with pytest.raises(UsageError, match="EV221") as error:
            mixed(split_vit, images, Budget(weight_bits=value))
        assert "2" in error.value.try_next


def test_modules_are_attentions_and_mlps(graph):
    groups = [{graph.gemm(name).module for name in group} for group in modules(graph)]
    assert sorted(name for group in groups for name in group) == sorted(
        gemm.module for gemm in graph.gemms
    )
    attention = next(group for group in groups if any(name.endswith(".pv") for name in group))
    assert {name.rsplit(".", 1)[1] for name in attention} >= {"qk", "pv", "proj"}
    assert not any("mlp" in name for name in attention)
    assert any({name.rsplit(".", 1)[1] for name in g} == {"fc1", "fc2"} for g in groups)


def test_fisher_losses_equal_a_literal_computation(vit, images):
    """One linear: half of sum g^2 (error of its output)^2, per image, to a factor of two."""
    run = run_of(vit, images)
    found = candidates(run, place_of(vit), (3, 6))
    gemm = next(g for g in found.graph.gemms if g.module == "blocks.1.mlp.fc1")
    from edgevit.calibration.statistics import fisher

    products = fisher.forward_backward(  # the same labels as in the run
        found.graph, images, found.ranges, torch.Generator().manual_seed(0), True
    )
    product = next(p for p in products if p.gemm.name == gemm.name)
    importance, x = product.output.grad.square(), product.left.detach()
    weight = found.graph.weight(gemm)
    for bits in (3, 6):
        rounded = found.weight_grid(gemm, bits).fake_quantize(weight)
        error = x @ (rounded - weight).T
        literal = float((importance * error.square()).sum()) / (2 * len(images))
        assert found.weight_loss(gemm, bits) == pytest.approx(literal, rel=0.5)
        delta = found.grid(gemm.left, bits).fake_quantize(x) - x
        literal = float((importance * (delta @ weight.T).square()).sum()) / (2 * len(images))
        assert found.activation_loss(gemm.left, bits) == pytest.approx(literal, rel=0.7)


@pytest.mark.parametrize("first", ["fc1", "qkv.q"])
def test_nuclear_losses_equal_a_literal_computation(split_vit, images, first):
    """Weights of one MLP, or one attention, rounded, everything else float32."""
    run = run_of(split_vit, images)
    found = candidates(run, place_of(split_vit), (3,))
    groups = modules(found.graph)
    units = weight_units(found.graph, groups, run.sites)
    acts = activation_units(found.graph, groups, run.sites)
    at = next(i for i, u in enumerate(units) if found.graph.gemm(u.gemms[0]).module.endswith(first))
    outputs, maps = {}, []

    def product(rounded):
        def compute(gemm, left, right):
            weight = None if gemm.weight is None else found.graph.weight(gemm)
            output = float_product(found.graph, gemm, left, right)
            if rounded and gemm.name in units[at].gemms:
                weight = found.weight_grid(gemm, 3).fake_quantize(weight)
                bias = found.graph.constant(gemm.bias)
                output = torch.nn.functional.linear(left, weight, bias)
            outputs[gemm.name, rounded] = output
            if gemm.kind == "pv" and not rounded:
                maps.append(left)
            return output

        return compute

    with torch.no_grad():
        for rounded in (False, True):
            run_graph(found.graph, images, gemm=product(rounded))
    exact, rounded = (outputs[units[at].gemms[-1], r] for r in (False, True))
    judged = exact if first == "fc1" else maps[0]  # the first attention, of the first block
    norm = np.linalg.svd(judged.numpy(), compute_uv=False).sum() / len(images)
    expected = norm * float((rounded - exact).square().sum()) / len(images)
    tables = nuclear_losses(found, units, acts, (3,))
    assert tables.weights[at, 0] == pytest.approx(expected, rel=1e-3)
    assert nuclear_norm(judged, len(images)) == pytest.approx(norm, rel=1e-3)
    assert (tables.weights > 0).all()
    assert (tables.activations > 0).all()


def test_fewer_bits_lose_more(split_vit, images):
    run = run_of(split_vit, images)
    found = candidates(run, place_of(split_vit), (2, 4, 8))
    groups = single_layers(found.graph)
    units = weight_units(found.graph, groups, run.sites)
    acts = activation_units(found.graph, groups, run.sites)
    tables = fisher_losses(found, units, acts, (2, 4, 8))
    for table in (tables.weights, tables.activations):
        assert (table[:, 0] > table[:, 1]).all()
        assert (table[:, 1] > table[:, 2]).all()


def test_the_choice_is_predicted_to_be_better_than_uniform_and_repeats(split_vit, images):
    budget = Budget(weight_bits=4.0, act_bits=4.0)
    first, again = (mixed(split_vit, images, budget) for _ in range(2))
    assert first == again
    placement = place_of(split_vit)(first.layer_bits)
    quantized = calibrate(split_vit, placement, images, METHODS["edgevit"])
    assert set(quantized.layers) == {gemm.name for gemm in split_vit.gemms}


def test_layers_in_float_take_no_part(split_vit, images):
    def place(layer_bits):
        return TARGET.place(
            split_vit,
            weight_bits=4,
            act_bits=4,
            float_layers=("blocks.0.*", "head"),
            layer_bits=layer_bits,
        )

    run = Run(graph=split_vit.clone(), placement=place({}), images=images)
    budget = Budget(weight_bits=4.0, act_bits=4.0)
    found = choose_widths(run, place, budget, widths=WIDTHS, criterion="fisher")
    assert not any(name == "head" or name.startswith("blocks.0") for name in found.layer_bits)
    assert "blocks.1.mlp.fc1" in found.layer_bits


def test_correlation():
    assert Additivity(predicted=(1, 2, 3), true=(2, 4, 6)).correlation == pytest.approx(1)
    assert Additivity(predicted=(1, 2, 3), true=(3, 2, 1)).correlation == pytest.approx(-1)
    assert Additivity(predicted=(1, 1), true=(1, 2)).correlation == 0


def test_means_with_and_without_what_stays_in_float():
    """A budget is about what is quantized: its mean stands apart from that of all products."""
    from edgevit.recipe import Recipe
    from edgevit.verbs.artefact import bits_of

    recipe = Recipe(model="m", weight_bits=4, act_bits=4, method="minmax", target="cpu")
    rows = [
        {"parameters": 100, "weight_bits": 3, "left_bits": 4, "kernel": "QGemm"},
        {"parameters": 300, "weight_bits": 5, "left_bits": 4, "kernel": "QGemm"},
        {"parameters": 100, "float_bits": 16, "kernel": "float16"},
    ]
    found = bits_of(recipe, rows)
    assert found["weight_mean_quantized"] == 4.5
    assert found["weight_mean"] == (300 + 1500 + 1600) / 500
    assert found["act_mean"] == 8
    assert bits_of(recipe, rows[2:])["weight_mean_quantized"] is None
