"""The uniform grid against a slow NumPy twin that works one value at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.bundle.packing import pack, unpack
from edgevit.errors import UsageError
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid

FLOATS = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
SPECS = st.builds(
    GridSpec, bits=st.integers(2, 8), signed=st.booleans(), symmetric=st.booleans()
).filter(lambda spec: spec.signed is False or spec.symmetric)


def twin_codes(values, scale, zero, qmin, qmax):
    """One value at a time, with NumPy's float32 scalars and Python's integers."""
    codes = []
    for value in values:
        quotient = np.float32(value) / np.float32(scale)
        rounded = float(np.rint(quotient))  # half to even
        codes.append(int(min(max(rounded + zero, qmin), qmax)))
    return codes


@given(
    spec=SPECS,
    values=st.lists(FLOATS, min_size=1, max_size=50),
    scale=st.floats(2.0**-20, 2.0**10, width=32),
    data=st.data(),
)
@settings(deadline=None, max_examples=200)
def test_codes_equal_the_twin(spec, values, scale, data):
    zero = spec.fixed_zero_point
    if zero is None:
        zero = data.draw(st.integers(spec.qmin, spec.qmax))
    grid = UniformGrid(
        spec=spec,
        scale=torch.tensor(scale, dtype=torch.float32),
        zero_point=torch.tensor(zero, dtype=torch.int32),
    )
    x = torch.tensor(values, dtype=torch.float32)
    codes = grid.codes(x)
    assert codes.tolist() == twin_codes(values, scale, zero, spec.qmin, spec.qmax)
    expected = (np.array(codes.tolist()) - zero).astype(np.float32) * np.float32(scale)
    assert np.array_equal(grid.dequantize(codes).numpy(), expected)
    assert torch.equal(grid.fake_quantize(x), grid.dequantize(codes))


def test_ties_and_true_division_as_onnx():
    """x * (1 / s) would give other codes at some of these points."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal(1_000_000).astype(np.float32) * 3
    scale = np.float32(0.0213)
    x[:1000] = (np.arange(1000, dtype=np.float32) - 500 + np.float32(0.5)) * scale
    grid = UniformGrid(
        spec=GridSpec(bits=8), scale=torch.tensor(scale), zero_point=torch.tensor(117).int()
    )
    expected = np.clip(np.rint(x / scale) + 117, 0, 255).astype(np.int32)
    assert np.array_equal(grid.codes(torch.from_numpy(x)).numpy(), expected)
    by_reciprocal = np.clip(np.rint(x * (np.float32(1) / scale)) + 117, 0, 255)
    assert (by_reciprocal != expected).any()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [False, True])
def test_no_more_than_two_to_the_k_levels(bits, signed):
    spec = GridSpec(bits=bits, signed=signed, symmetric=signed)
    grid = UniformGrid.from_range(spec, -1.3, 2.1)
    values = grid.fake_quantize(torch.linspace(-10, 10, 20001))
    assert len(torch.unique(values)) <= 2**bits
    assert 0.0 in values


@given(spec=SPECS, values=st.lists(FLOATS, min_size=2, max_size=40))
@settings(deadline=None, max_examples=100)
def test_idempotent_and_monotonic(spec, values):
    x = torch.tensor(sorted(values), dtype=torch.float32)
    grid = UniformGrid.from_range(spec, float(x[0]), float(x[-1]))
    once = grid.fake_quantize(x)
    assert torch.equal(grid.fake_quantize(once), once)
    assert (once.diff() >= 0).all()


@given(low=FLOATS, high=FLOATS, bits=st.integers(2, 8))
@settings(deadline=None, max_examples=200)
def test_from_range_covers_the_range_within_a_step(low, high, bits):
    low, high = min(low, high), max(low, high)
    grid = UniformGrid.from_range(GridSpec(bits=bits), low, high)
    zero, scale = int(grid.zero_point), float(grid.scale)
    assert 0 <= zero <= 2**bits - 1
    assert (0 - zero) * scale <= min(low, 0) + scale * 0.5001
    assert (2**bits - 1 - zero) * scale >= max(high, 0) - scale * 0.5001


def test_per_channel_scales_act_on_axis_zero():
    spec = GridSpec(bits=4, signed=True, symmetric=True, granularity="channel")
    scale = torch.tensor([0.1, 1.0, 10.0])
    grid = UniformGrid.symmetric(spec, scale)
    weight = torch.randn(3, 17) * scale[:, None] * 3
    for row in range(3):
        alone = UniformGrid.symmetric(spec, scale[row])
        assert torch.equal(grid.codes(weight)[row], alone.codes(weight[row]))


@given(
    bits=st.integers(2, 8),
    signed=st.booleans(),
    count=st.integers(0, 200),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=100)
def test_codes_survive_packing(bits, signed, count, seed):
    spec = GridSpec(bits=bits, signed=signed, symmetric=signed)
    generator = np.random.default_rng(seed)
    codes = generator.integers(spec.qmin, spec.qmax + 1, count)
    packed = pack(codes, bits, signed=signed)
    assert len(packed) == (count * bits + 7) // 8
    assert np.array_equal(unpack(packed, bits, count, signed=signed), codes)


@pytest.mark.parametrize("bits", [1, 9, 0, -3, 6.0, True, "6"])
def test_bits_outside_two_to_eight_are_refused(bits):
    with pytest.raises(UsageError, match="EV201"):
        GridSpec(bits=bits)
