"""Twin uniform grids against the paper's definition, value by value."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.twin import TwinGrid, largest_ratio_log2


def grid_of(kind, bits, fine, ratio):
    spec = GridSpec(kind=kind, bits=bits, max_ratio_log2=ratio)
    return TwinGrid(spec=spec, scale=torch.tensor(fine, dtype=torch.float32), ratio_log2=ratio)


def twin_value(x, kind, bits, fine, ratio):
    """The value of one float32 by the paper's two regions (eq. 8 and 9), in NumPy scalars.

    The regions meet half-way between the last fine level and the first coarse one above it.
    """
    half, fine = 2 ** (bits - 1), np.float32(fine)
    coarse = np.float32(fine * np.float32(2**ratio))
    boundary = np.float32(0)
    if kind == "twin-softmax":  # a few rounding errors early, see TwinGrid.threshold
        above = next(level for level in range(0, half * 2**ratio + 1, 2**ratio) if level >= half)
        boundary = fine * np.float32((half - 1 + above) / 2 * (1 - 2.0**-22))
    if np.float32(x) >= boundary:
        return np.float32(min(max(np.rint(np.float32(x) / coarse), 0), half - 1) * 2**ratio) * fine
    low, high = (0, half - 1) if kind == "twin-softmax" else (-half, 0)
    return np.float32(min(max(np.rint(np.float32(x) / fine), low), high)) * fine


CASES = st.sampled_from(["twin-softmax", "twin-gelu"]).flatmap(
    lambda kind: st.tuples(
        st.just(kind),
        st.integers(2, 8),
        st.floats(2.0**-12, 2.0**-2, width=32),
        st.integers(0, 6),
    )
)


@given(case=CASES, values=st.lists(st.floats(-2, 8, width=32), min_size=1, max_size=60))
@settings(deadline=None, max_examples=300)
def test_values_equal_the_twin(case, values):
    kind, bits, fine, ratio = case
    if kind == "twin-softmax":
        values = [abs(v) for v in values]
    grid = grid_of(kind, bits, fine, ratio)
    x = torch.tensor(values, dtype=torch.float32)
    expected = [float(twin_value(v, kind, bits, fine, ratio)) for v in values]
    assert grid.fake_quantize(x).tolist() == expected
    codes = grid.codes(x)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 2**bits
    assert torch.equal(grid.dequantize(codes), grid.fake_quantize(x))


def distances(x, bits, fine, ratio, kind):
    """The distance of one value to every level of the two regions, in NumPy float64."""
    half, fine = 2 ** (bits - 1), np.float64(np.float32(fine))
    low = np.arange(half) if kind == "twin-softmax" else -np.arange(1, half + 1)
    levels = np.concatenate([low, np.arange(half) * 2**ratio]) * fine
    return np.abs(np.float64(x) - levels)


@given(case=CASES, values=st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=60))
@settings(deadline=None, max_examples=300)
def test_every_value_goes_to_the_nearest_level(case, values):
    """Above the small region of a softmax as well, where the nearest coarse level may be zero."""
    kind, bits, fine, ratio = case
    top = (2 ** (bits - 1) - 1) * 2**ratio * fine
    scaled = [abs(v) * top if kind == "twin-softmax" else v * top for v in values]
    x = torch.tensor(scaled, dtype=torch.float32)
    found = grid_of(kind, bits, fine, ratio).fake_quantize(x)
    for value, rounded in zip(x.tolist(), found.tolist(), strict=True):
        least = distances(value, bits, fine, ratio, kind).min()
        assert abs(value - rounded) <= least + 1e-5 * max(abs(value), fine)


def test_a_value_above_the_small_region_keeps_its_largest_level():
    """At 4 bits and a ratio of 2^5 ten fine steps are 7, not 0; 20 are 32."""
    grid = grid_of("twin-softmax", 4, 1.0, 5)
    assert grid.fake_quantize(torch.tensor([7.6, 10.0, 16.1, 19.0, 20.0])).tolist() == [
        7.0,
        7.0,
        7.0,
        7.0,
        32.0,
    ]


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_no_value_at_the_threshold_rounds_to_zero(bits):
    """The float below step * (2^(k-1) - 1/2) may divide to 2^(k-1) - 1/2, which rounds up."""
    for fine in torch.rand(500, generator=torch.Generator().manual_seed(0)).tolist():
        grid = grid_of("twin-softmax", bits, fine, 2)
        edge = torch.tensor(fine) * (grid.half - 0.5)
        x = torch.stack([torch.nextafter(edge, torch.tensor(side)) for side in (0.0, 9.0)])
        error = (grid.fake_quantize(torch.cat([x, edge[None]])) - edge).abs()
        assert float(error.max()) <= float(grid.coarse) / 2 * 1.001


@pytest.mark.parametrize("kind", ["twin-softmax", "twin-gelu"])
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_every_code_is_a_level_and_there_are_at_most_two_to_the_k(kind, bits):
    grid = grid_of(kind, bits, 0.01, 3)
    values = grid.dequantize(torch.arange(2**bits))
    assert len(torch.unique(values)) <= 2**bits
    assert torch.equal(grid.fake_quantize(values), values)


@pytest.mark.parametrize(
    ("kind", "bits", "expected"),
    [
        ("twin-softmax", 3, 6),
        ("twin-softmax", 4, 5),
        ("twin-softmax", 5, 4),
        ("twin-softmax", 6, 3),
        ("twin-softmax", 8, 1),
        ("twin-gelu", 3, 6),
        ("twin-gelu", 4, 5),
        ("twin-gelu", 5, 3),
        ("twin-gelu", 6, 2),
        ("twin-gelu", 8, 0),
    ],
)
def test_largest_ratio_keeps_operands_in_u8(kind, bits, expected):
    ratio = largest_ratio_log2(kind, bits)
    assert ratio == expected
    grid = grid_of(kind, bits, 0.01, ratio)
    operands = grid.operand(torch.arange(2**bits)) + grid.operand_offset
    assert int(operands.min()) >= 0
    assert int(operands.max()) <= 255
