"""Every grid there is: found by being in its folder, described to targets as its codes are."""

import numpy as np
import pytest
import torch
from contributing import example

from edgevit import quantizers
from edgevit.calibration.statistics.histogram import Histogram
from edgevit.graph.roles import Role
from edgevit.quantizers.base import grid_class, grid_classes
from edgevit.quantizers.float8 import Float8Linear
from edgevit.quantizers.ops import Ops
from edgevit.quantizers.quantized_graph import integer_linear, matmul_layer
from edgevit.quantizers.spec import GridSpec

SIGNED = {"signed": True, "symmetric": True}
SPECS = [
    GridSpec(bits=8),
    GridSpec(bits=5, zero_at_bottom=True),
    GridSpec(bits=4, symmetric=True),
    GridSpec(bits=8, **SIGNED),
    GridSpec(bits=4, narrow=True, **SIGNED),
    GridSpec(kind="twin-softmax", bits=4, max_ratio_log2=5),
    GridSpec(kind="twin-softmax", bits=2, max_ratio_log2=6),
    GridSpec(kind="twin-gelu", bits=3, max_ratio_log2=6),
    GridSpec(kind="codebook", bits=3),
    GridSpec(kind="codebook", bits=4, level_bits=7, **SIGNED),
    GridSpec(kind="log2", bits=4),
    GridSpec(kind="log-sqrt2", bits=4),
    GridSpec(kind="e4m3", bits=8, **SIGNED),
]


class NumpyOps(Ops):
    """The operations, written out; names must differ, as a graph's have to."""

    def __init__(self):
        self.names = set()

    def _named(self, name, value):
        assert name not in self.names
        self.names.add(name)
        return value

    def number(self, value, name):
        return self._named(f"number {name}", np.float32(value.item()))

    def quantize(self, x, scale, *, zero=0, low=0, high=255, signed=False, name=""):
        ends = np.iinfo(np.int8 if signed else np.uint8)
        assert ends.min <= low <= zero <= high <= ends.max
        codes = np.clip(np.rint(x / scale).astype(np.float64) + zero, low, high)
        return self._named(f"{name} codes", codes.astype(ends.dtype))

    def quantize_float8(self, x, scale):
        numbers = torch.from_numpy(np.clip(x / scale, -448, 448)).to(torch.float8_e4m3fn)
        return numbers.view(torch.uint8).numpy()

    def dequantize(self, codes, scale, *, name):
        assert codes.dtype == np.uint8
        return self._named(name, codes.astype(np.float32) * scale)

    def clip_positive(self, x, high, *, name):
        return self._named(name, np.clip(x, np.float32(0), high))

    def less(self, x, limit, *, name):
        return self._named(name, x < limit)

    def where(self, condition, then, otherwise, *, name):
        return self._named(name, np.where(condition, then, otherwise))

    def look_up(self, codes, table, *, signed, name):
        assert len(table) == 256
        assert codes.dtype == (np.int8 if signed else np.uint8)
        found = table.numpy()[codes.astype(np.int64) - np.iinfo(codes.dtype).min]
        assert np.array_equal(found, found.astype(codes.dtype))
        return self._named(name, found.astype(codes.dtype))


def sample(spec, seed=0):
    """A grid of a specification fitted to numbers, and numbers with those beside every border."""
    values = torch.randn(4000, generator=torch.Generator().manual_seed(seed))
    if spec.kind in {"twin-softmax", "log2", "log-sqrt2"}:
        values = values.abs()
    histogram = Histogram(low=float(values.min()), high=float(values.max()))
    histogram.add(values)
    grid = grid_class(spec.kind).fit(spec, histogram)
    borders = (torch.arange(-300, 300) + 0.5) * grid.scale
    near = [torch.nextafter(borders, torch.tensor(end)) for end in (-9.0, 9.0)]
    return grid, torch.cat([values, 3 * values, borders, *near])


def test_every_kind_of_grid_is_looked_at_here():
    assert {spec.kind for spec in SPECS} == set(grid_classes())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}{spec.bits}{spec.carrier}")
def test_what_is_described_to_targets_are_the_codes(spec):
    grid, x = sample(spec)
    assert torch.equal(grid.dequantize(grid.codes(x)), grid.fake_quantize(x))
    if spec.kind.startswith("log"):
        with pytest.raises(TypeError, match="simulated only"):
            grid.emit(NumpyOps(), x.numpy())
        return
    found = grid.emit(NumpyOps(), x.numpy())
    codes = grid.codes(x)
    if grid.has_integer_sums:
        low, high = (int(end) for end in grid.operand_range)
        operand = grid.operand(codes)
        assert low <= int(operand.min()) <= int(operand.max()) <= high
        assert torch.equal(operand * grid.unit, grid.fake_quantize(x))
        codes = operand + grid.operand_offset
    assert found.dtype == {"u8": np.uint8, "s8": np.int8, "f8": np.uint8}[grid.carrier]
    assert np.array_equal(found, codes.numpy())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}{spec.bits}{spec.carrier}")
def test_without_integers_there_is_no_operand(spec):
    grid, x = sample(spec)
    if not grid.has_integer_sums:
        for ask in (lambda: grid.operand(grid.codes(x)), lambda: grid.operand_range):
            with pytest.raises(TypeError, match="no integer sums"):
                ask()


@pytest.mark.parametrize("kind", ["log2", "log-sqrt2"])
def test_a_logarithmic_grid_has_the_scale_of_least_error(kind):
    values = torch.rand(4000, generator=torch.Generator().manual_seed(0)) ** 4
    histogram = Histogram(low=0.0, high=1.0)
    histogram.add(values)
    spec = GridSpec(kind=kind, bits=3)
    made = grid_class(kind)
    best = min(made(spec=spec, scale=s).error(histogram) for s in torch.linspace(0.2, 2, 500))
    assert made.fit(spec, histogram).error(histogram) <= 1.02 * best


def test_a_kind_that_no_file_has_is_refused():
    with pytest.raises(ValueError, match="no grid is of kind 'ternary'"):
        grid_class("ternary")


def layers():
    """A layer of every form, and operands for it."""
    left, right, weight = (sample(SPECS[at])[0] for at in (0, 3, 12))
    channel = GridSpec(bits=6, granularity="channel", **SIGNED)
    values = torch.randn(5, 16, generator=torch.Generator().manual_seed(3))
    rows = grid_class("uniform").symmetric(channel, values.abs().amax(1) / 31)
    bias, log = torch.linspace(-1, 1, 5), sample(SPECS[10])[0]
    float8 = Float8Linear(grid=weight, weight_grid=weight, weight=values, bias=bias)
    x, y = torch.rand(2, 7, 16), torch.rand(2, 16, 3)
    linears = (integer_linear(left, rows, values, bias), float8)
    products = (matmul_layer(left, right), matmul_layer(log, right), matmul_layer(weight, weight))
    return [(layer, x, None) for layer in linears] + [(layer, x, y) for layer in products]


def test_layers_say_what_they_are_made_of():
    forms = set()
    for layer, left, right in layers():
        forms.add((layer.is_linear, layer.has_integer_sums, layer.runs_in_integers))
        assert len(layer.input_grids) == (1 if right is None else 2)
        assert layer.input_grids[0] is layer.grids[0]
        a, b = layer.rounded(left, right)
        assert torch.equal(a, layer.grids[0].fake_quantize(left))
        expected = torch.matmul(a, b if right is not None else b.T)
        expected = expected if layer.bias is None else expected + layer.bias
        assert torch.allclose(layer(left, right), expected, atol=1e-4)
        assert layer.with_tensors(layer.tensors()) == layer if layer.tensors() else True
    assert forms == {(True, True, True), (True, False, False), (False, True, True), (False,) * 3}


def test_a_linear_derives_its_scale_from_its_steps():
    layer = layers()[0][0]
    assert "scale" not in layer.__dict__
    assert torch.equal(layer.scale, layer.grid.scale * layer.weight_grid.scale)


OCTAVES = example("edgevit/quantizers/octaves.py")


@pytest.fixture
def new_file(tmp_path, monkeypatch):
    """Put a file into the folder of grids for one test."""
    import sys

    def put(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(quantizers, "__path__", [*quantizers.__path__, str(tmp_path)])
        grid_classes.cache_clear()
        names.append(f"edgevit.quantizers.{name}")

    names = []
    yield put
    monkeypatch.undo()
    grid_classes.cache_clear()
    for name in names:
        sys.modules.pop(name, None)
        vars(quantizers).pop(name.rpartition(".")[2], None)


def test_a_new_grid_is_one_new_file(split_vit, images, new_file, monkeypatch):
    """It is offered, calibrated, simulated, lowered to ONNX Runtime and equal there."""
    from edgevit.calibration.run import Method, calibrate
    from edgevit.calibration.search import parallel
    from edgevit.targets.cpu.parity import integer_layer_parity
    from edgevit.targets.cpu.target import CpuTarget
    from edgevit.targets.simulation import SimulationTarget

    new_file("octaves", OCTAVES)
    target = SimulationTarget()
    assert "octaves" in target.grids
    placement = target.place(split_vit, weight_bits=6, act_bits=4)
    choices = parallel.SearchChoices(activations="mse", weights="mse", kinds=("octaves",))
    method = Method(name="t", summary="", source="", calibrate=parallel.parallel(choices))
    monkeypatch.setattr(parallel, "OPERATORS_MUST_SAVE", float("-inf"))
    quantized = calibrate(split_vit, placement, images, method)
    roles = {gemm.name: gemm.left.role for gemm in split_vit.gemms}
    kinds = {name: layer.grids[0].spec.kind for name, layer in quantized.layers.items()}
    chosen = {roles[name] for name, kind in kinds.items() if kind == "octaves"}
    assert chosen == {Role.SOFTMAX_OUT, Role.GELU_OUT, Role.LN_OUT}
    rows = integer_layer_parity(quantized, images.numpy(), layers_at_once=100)
    assert len(rows) == len(quantized.layers)
    assert all(row.is_exact for row in rows), [row for row in rows if not row.is_exact]
    assert all(row.codes > 0 and row.sums > 0 for row in rows)
    lowered = CpuTarget().lower(quantized)
    assert {row["name"] for row in lowered.layers if row["grid"] == "octaves"} == {
        name for name, kind in kinds.items() if kind == "octaves"
    }


def test_two_grids_of_one_kind_are_refused(new_file):
    new_file("again", OCTAVES.replace('"octaves"', '"log2"'))
    with pytest.raises(ValueError, match="two grids are of kind 'log2'"):
        grid_classes()
