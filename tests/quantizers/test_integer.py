"""The exact sums against Python integers, and the bound that protects int32."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from edgevit.quantizers.integer import exact_matmul, float32_products_are_exact, rescale


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


def looser_precision(name, monkeypatch):
    """Allow torch to round operands, in one of the ways there are."""
    if name == "autocast":
        return torch.autocast("cpu", torch.bfloat16)
    if name in {"ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"}:
        monkeypatch.setenv(name, "bf16")
    elif name == "mkldnn":
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    else:
        torch.set_float32_matmul_precision(name)
    return nullcontext()


class Seen(TorchDispatchMode):
    """Keeps the types of the matrices that are multiplied."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in {torch.ops.aten.mm.default, torch.ops.aten.bmm.default}:
            self.dtypes |= {arg.dtype for arg in args}
        return function(*args, **(kwargs or {}))


@pytest.fixture
def precision():
    """Put the process's precision back as it was."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.matmul.fp32_precision = before


LOOSER = [
    "medium",
    "high",
    "mkldnn",
    "autocast",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
]


@pytest.mark.parametrize("setting", LOOSER)
def test_sums_are_exact_whatever_precision_the_process_allows(setting, monkeypatch, precision):
    """Products are float64 then, which neither TF32, bfloat16 nor autocast touches."""
    a, b = torch.randint(-4000, 4000, (9, 100)), torch.randint(-128, 128, (100, 9))
    assert float32_products_are_exact()
    with looser_precision(setting, monkeypatch), Seen() as seen:
        assert not float32_products_are_exact()
        found = exact_matmul(a, b)
    assert seen.dtypes == {torch.float64}
    assert torch.equal(found, (a @ b).int())


def test_the_usual_product_is_a_float32_one():
    with Seen() as seen:
        exact_matmul(torch.ones(2, 3, dtype=torch.uint8), torch.ones(3, 2, dtype=torch.int8))
    assert seen.dtypes == {torch.float32}


def test_bfloat16_would_not_be_exact():
    """What the guard is for, on any processor."""
    a = torch.full((1, 64), 3999.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert int((a @ a.T).item()) != 64 * 3999 * 3999


def test_operands_too_large_for_float32_sums():
    assert int(exact_matmul(torch.tensor([[70_001]]), torch.tensor([[30_001]]))) == 70_001 * 30_001


def test_a_sum_that_could_overflow_is_refused():
    a = torch.full((1, 70_000), 255)
    with pytest.raises(OverflowError, match="int32"):
        exact_matmul(a, torch.full((70_000, 1), 127))


def test_rescale_converts_before_it_multiplies():
    acc = torch.tensor([2**24 + 1, 123456789], dtype=torch.int32)
    scale = torch.tensor(0.0123)
    expected = acc.numpy().astype(np.float32) * np.float32(0.0123)
    assert np.array_equal(rescale(acc, scale).numpy(), expected)
