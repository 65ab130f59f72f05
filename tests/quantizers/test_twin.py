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
    """The value of one float32 by the paper's two regions (eq. 8 and 9), in NumPy scalars."""
    half, fine = 2 ** (bits - 1), np.float32(fine)
    coarse = np.float32(fine * np.float32(2**ratio))
    boundary = np.float32(0)
    if kind == "twin-softmax":  # a few rounding errors early, see TwinGrid.threshold
        boundary = fine * np.float32((half - 0.5) * (1 - 2.0**-22))
    if np.float32(x) >= boundary:
        return np.float32(min(max(np.rint(np.float32(x) / coarse), 0), half - 1) * 2**ratio) * fine
    low = 0 if kind == "twin-softmax" else -half
    return np.float32(min(max(np.rint(np.float32(x) / fine), low), half)) * fine


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
