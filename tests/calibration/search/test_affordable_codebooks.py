"""Codebooks go where they save most for their time, and no further than the budget."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from edgevit.calibration.methods import METHODS
from edgevit.calibration.methods.edgevit import CHOICES, plan_calibration
from edgevit.calibration.run import Run, calibrate
from edgevit.calibration.search.sequential import walk
from edgevit.graph.shapes import at_batch, shape_of
from edgevit.graph.sharing import shared_grid_sites
from edgevit.quantizers.codebook import CodebookGrid
from edgevit.quantizers.twin import TwinGrid
from edgevit.targets.registry import target_named

BITS = {"weight_bits": 4, "act_bits": 4}


def grids_of(quantized):
    """Return the first site of each tensor -> its grid."""
    leader, found = shared_grid_sites(quantized.graph), {}
    for gemm in quantized.graph.gemms:
        layer = quantized.layers[gemm.name]
        for site, grid in zip((gemm.left, gemm.right), layer.input_grids, strict=False):
            found.setdefault(leader[site.name], grid)
    return found


def looked_up(quantized):
    """Return which share of the elements of all activations goes through tables."""
    nodes = {node.name: node for node in quantized.graph.module.graph.nodes}
    sizes, tables = 0, 0
    for name, grid in grids_of(quantized).items():
        size = prod(at_batch(shape_of(nodes[quantized.graph.site(name).producer]), 1))
        sizes += size
        tables += size * isinstance(grid, CodebookGrid)
    return tables / sizes


@pytest.fixture(scope="module")
def quantized(split_vit, images):
    target = target_named("cpu")
    return calibrate(split_vit, target.place(split_vit, **BITS), images, METHODS["edgevit"])


def test_half_of_the_elements_and_no_twin(quantized):
    kinds = {type(grid) for grid in grids_of(quantized).values()}
    assert CodebookGrid in kinds
    assert TwinGrid not in kinds  # cpu offers a codebook wherever it offers a twin
    assert 0.25 < looked_up(quantized) <= CHOICES.codebook_share


def test_a_target_without_codebooks_keeps_its_twins(split_vit, images):
    placement = target_named("cpu").place(split_vit, **BITS)
    options = {
        name: tuple(spec for spec in specs if spec.kind not in CodebookGrid.kinds)
        for name, specs in placement.options.items()
    }
    found = calibrate(split_vit, replace(placement, options=options), images, METHODS["edgevit"])
    kinds = {type(grid) for grid in grids_of(found).values()}
    assert TwinGrid in kinds
    assert CodebookGrid not in kinds


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_budget_is_kept(split_vit, images, share):
    placement = target_named("cpu").place(split_vit, **BITS)
    run = Run(graph=split_vit.clone(), placement=placement, images=images)
    plan = plan_calibration(run, replace(CHOICES, codebook_share=share))
    walk(run, plan.quantized, plan.decide, "layers")
    found = looked_up(plan.quantized)
    assert found <= share
    assert found >= share / 2
