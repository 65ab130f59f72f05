"""The exact sums against Python integers, and the bound that protects int32."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevit.quantizers.integer import exact_matmul, rescale


@given(
    rows=st.integers(1, 5),
    depth=st.integers(1, 3000),
    columns=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    extreme=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_sums_are_exact(rows, depth, columns, seed, extreme):
    generator = np.random.default_rng(seed)
    a = generator.integers(-255, 256, (rows, depth))
    b = generator.integers(-128, 128, (depth, columns))
    if extreme:
        a, b = np.full_like(a, 255), np.full_like(b, -128)
    found = exact_matmul(torch.from_numpy(a), torch.from_numpy(b))
    assert found.dtype == torch.int32
    assert np.array_equal(found.numpy(), a @ b)


def test_batched_sums():
    a, b = torch.randint(-255, 256, (2, 3, 7, 900)), torch.randint(-128, 128, (2, 3, 900, 4))
    assert torch.equal(exact_matmul(a, b), (a.long() @ b.long()).int())


def test_a_sum_that_could_overflow_is_refused():
    a = torch.full((1, 70_000), 255)
    with pytest.raises(OverflowError, match="int32"):
        exact_matmul(a, torch.full((70_000, 1), 127))


def test_rescale_converts_before_it_multiplies():
    acc = torch.tensor([2**24 + 1, 123456789], dtype=torch.int32)
    scale = torch.tensor(0.0123)
    expected = acc.numpy().astype(np.float32) * np.float32(0.0123)
    assert np.array_equal(rescale(acc, scale).numpy(), expected)
