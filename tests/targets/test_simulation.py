"""The simulation target: what it offers beyond cpu, and that nothing can be deployed from it."""

import pytest

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.errors import UnsupportedError
from edgevit.graph.sites import Role
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.registry import target_named

SIMULATION = target_named("simulation")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_it_offers_what_cpu_offers_and_more(graph, bits):
    ours = SIMULATION.place(graph, weight_bits=bits, act_bits=bits)
    cpu = CpuTarget().place(graph, weight_bits=bits, act_bits=bits)
    assert ours.target == "simulation"
    assert set(ours.options) == set(cpu.options)
    for site in graph.sites:
        offered = ours.options[site.name]
        assert offered[0] == cpu.options[site.name][0]
        for spec in cpu.options[site.name]:
            match = [s for s in offered if s.kind == spec.kind and s.signed == spec.signed]
            assert match
            assert max(s.max_ratio_log2 for s in match) >= spec.max_ratio_log2
        kinds = {spec.kind for spec in offered}
        assert ({"log2", "log-sqrt2"} <= kinds) == (site.role is Role.SOFTMAX_OUT)
        if site.role is not Role.SOFTMAX_OUT:
            assert any(s.fixed_zero_point is None for s in offered if s.kind == "uniform")
    weights = [
        s for site in graph.sites if site.role is Role.WEIGHT for s in ours.options[site.name]
    ]
    assert {spec.granularity for spec in weights} == {"channel"}


def test_twin_sums_at_any_offered_ratio_fit_int32(vit):
    for bits in range(2, 9):
        placement = SIMULATION.place(vit, weight_bits=8, act_bits=bits)
        for specs in placement.options.values():
            for spec in specs:
                reach = (2 ** (bits - 1) - 1) * 2**spec.max_ratio_log2
                assert spec.kind == "uniform" or reach * 128 * 8192 < 2**31


def test_the_layers_left_in_float_are_cpus(vit):
    placement = SIMULATION.place(vit, weight_bits=4, act_bits=4, float_layers=("blocks.0.*",))
    assert placement.skipped
    assert all(site.startswith("blocks.0.") for site in placement.skipped)


@pytest.mark.parametrize("method", ["mse", "edgevit"])
def test_it_can_be_calibrated_for_but_not_deployed(vit, images, method):
    placement = SIMULATION.place(vit, weight_bits=6, act_bits=6)
    quantized = calibrate(vit, placement, images, METHODS[method])
    assert quantized.forward(images).shape == (len(images), 10)
    for write in (lambda: SIMULATION.lower(quantized), lambda: SIMULATION.reference(vit)):
        with pytest.raises(UnsupportedError, match="EV308") as caught:
            write()
        assert "--target cpu" in caught.value.try_next


def test_a_grid_that_is_not_offered_is_refused_with_a_way_out(vit):
    placement = CpuTarget().place(vit, weight_bits=4, act_bits=4)
    site = next(site.name for site in vit.sites if site.role is Role.SOFTMAX_OUT)
    assert placement.require(site, lambda spec: spec.kind == "uniform", "x").kind == "uniform"
    with pytest.raises(UnsupportedError, match="EV306") as caught:
        placement.require(site, lambda spec: spec.kind == "log2", "fq-vit needs a log2 grid")
    assert caught.value.where == site
    assert "unsigned" in caught.value.why
    assert "`edgevit simulate`" in caught.value.try_next
