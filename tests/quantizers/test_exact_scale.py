"""Scales of a float16 body: every number there is gets one code, however an engine divides."""

import numpy as np
import pytest
import torch

from edgevit.quantizers.exact_scale import (
    differing_codes,
    exact_scale,
    float16_numbers,
    power_of_two_from,
)
from edgevit.quantizers.float8 import Float8Grid
from edgevit.quantizers.fp16 import exact_grid
from edgevit.quantizers.log import LogGrid
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid

NUMBERS = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
NUMBERS = NUMBERS[np.isfinite(NUMBERS)]
SINGLE = np.float32


def int8(bits):
    return GridSpec(bits=bits, signed=True, symmetric=True)


def uniform(scale, bits=8, **changes):
    spec = GridSpec(bits=bits, signed=True, symmetric=True, **changes)
    return UniformGrid.symmetric(spec, torch.tensor(scale))


def quotients(scale):
    """Name of a form -> float32 quotients of all numbers, in NumPy: what an engine may compute."""
    half, single = np.float16(scale), SINGLE(scale)
    wide = NUMBERS.astype(SINGLE)
    with np.errstate(over="ignore"):
        return {
            "division": wide / single,
            "reciprocal": wide * (SINGLE(1) / single),
            "float16 division": (NUMBERS / half).astype(SINGLE),
            "float16 product": (NUMBERS * (np.float16(1) / half)).astype(SINGLE),
            "float16 reciprocal": wide * (np.float16(1) / half).astype(SINGLE),
        }


def integers(quotient, bits):
    """The slow twin of a uniform grid's codes: half to even, clipped."""
    return np.clip(np.rint(quotient), -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def float8(quotient):
    clipped = torch.from_numpy(np.clip(quotient, -448, 448))
    return clipped.to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def test_all_float16_numbers_are_tried():
    assert np.array_equal(np.sort(float16_numbers().numpy()), np.sort(NUMBERS.astype(SINGLE)))
    assert len(float16_numbers()) == 63488


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_exact_scale_gives_one_code_by_division_and_by_reciprocal(bits):
    """Zero wrong codes over all numbers, for scales of every size, at most two numbers away."""
    generator = torch.Generator().manual_seed(bits)
    found = []
    for exponent in torch.empty(40).uniform_(-13, 6, generator=generator).tolist():
        wanted = 2.0**exponent
        scale = float(exact_grid(uniform(wanted, bits)).scale)
        assert scale == float(np.float16(scale))
        codes = [integers(quotients(scale)[form], bits) for form in ("division", "reciprocal")]
        assert np.array_equal(*codes)
        found.append(abs(scale / wanted - 1))
    assert max(found) < 2.5 * 2**-11


def test_codes_of_the_grid_are_those_of_the_slow_twin():
    grid = exact_grid(uniform(0.0123, 8))
    codes = grid.codes(torch.from_numpy(NUMBERS.astype(SINGLE))).numpy()
    assert np.array_equal(codes, integers(quotients(float(grid.scale))["division"], 8))


def test_a_scale_that_is_not_exact_is_moved():
    """Of the 1,024 between two powers of two, 34 are not: a check that can fail."""
    spec = int8(8)
    scales = [torch.tensor((1024 + k) / 1024 / 64) for k in range(1024)]
    one = UniformGrid.symmetric(spec, scales[0])
    wrong = [s for s in scales if differing_codes(s, one._nearest)]
    assert len(wrong) == 34
    for scale in wrong:
        division, reciprocal = (quotients(float(scale))[f] for f in ("division", "reciprocal"))
        assert (integers(division, 8) != integers(reciprocal, 8)).any()
        moved = exact_scale(scale, one._nearest)
        assert not differing_codes(moved, one._nearest)
        assert 0 < abs(float(moved / scale) - 1) < 3 * 2**-10


def test_in_float16_only_powers_of_two_are_exact():
    """Why the graph divides in float32: half a percent of codes is another with any other scale."""
    exact = []
    for k in range(0, 1024, 31):
        found = quotients((1024 + k) / 1024 / 64)
        codes = integers(found["division"], 8)
        exact.append(all(np.array_equal(codes, integers(q, 8)) for q in found.values()))
    assert exact == [True] + [False] * 33


def test_the_fixed_step_of_a_softmax_keeps_its_largest_code():
    grid = exact_grid(UniformGrid.from_range(int8(8), 0.0, 1.0))
    assert float(grid.scale) == pytest.approx(1 / 127, rel=1e-3)
    assert int(grid.codes(torch.ones(1))) == 127
    assert not differing_codes(grid.scale, grid._nearest)


@pytest.mark.parametrize("wanted", [0.37, 2.0**-5, 1 / 448, 3.1e-7, 60000.0, 5e-5, 1.0])
def test_a_float8_scale_is_a_power_of_two_and_exact_in_every_form(wanted):
    grid = Float8Grid(spec=GridSpec(kind="e4m3", bits=8, signed=True), scale=torch.tensor(wanted))
    scale = float(exact_grid(grid).scale)
    assert scale == 2.0 ** round(np.log2(scale)) == float(power_of_two_from(torch.tensor(wanted)))
    if 2.0**-14 <= wanted <= 2.0**15:
        assert wanted <= scale < 2 * wanted  # nothing is clipped that was not
    found = [float8(q) for q in quotients(scale).values()]
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_a_grid_without_a_float16_form_is_refused():
    grid = LogGrid(spec=GridSpec(kind="log2", bits=4), scale=torch.tensor(1.0))
    with pytest.raises(TypeError, match="float16"):
        exact_grid(grid)
