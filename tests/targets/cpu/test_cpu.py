"""The cpu target: placement, integer kernels, and equality of engine and simulation."""

import numpy as np
import onnx
import pytest
import torch

from edgevit.bundle.graph import read_graph
from edgevit.calibration.methods import METHODS, Method
from edgevit.calibration.run import calibrate
from edgevit.calibration.search import parallel
from edgevit.errors import UnsupportedError, UsageError
from edgevit.quantizers.quantized_graph import IntegerLinear
from edgevit.quantizers.twin import TwinGrid
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.targets.cpu.kernels import check_kernels
from edgevit.targets.cpu.parity import integer_layer_parity
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.onnx.row_gather import with_gathered_rows
from edgevit.targets.registry import target_named

TARGET = CpuTarget()


def quantized_at(graph, images, bits, method="minmax"):
    placement = TARGET.place(graph, weight_bits=bits, act_bits=bits)
    return calibrate(graph, placement, images, METHODS[method])


def session(lowered):
    model = whole_model(lowered.onnx, lowered.tensors)
    return EngineSession(model, session_config=lowered.session_config)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_engine_and_simulation_compute_the_same_integers(graph, images, bits):
    quantized = quantized_at(graph, images, bits, "edgevit")
    rows = integer_layer_parity(quantized, images.numpy(), layers_at_once=100)
    assert len(rows) == len(graph.gemms)
    assert all(row.is_exact for row in rows), [row for row in rows if not row.is_exact]
    assert all(row.codes > 0 and row.sums > 0 for row in rows)
    assert {row.kernel for row in rows} == {"MatMulIntegerToFloat"}


def test_parity_finds_a_wrong_layer(vit, images):
    """The check can fail: simulate with one weight changed after the engine was written."""
    quantized = quantized_at(vit, images, 6)
    name, layer = next(
        (n, la) for n, la in quantized.layers.items() if la.__class__ is IntegerLinear
    )
    from edgevit.targets.cpu import parity

    class Changed(dict):
        def __getitem__(self, key):
            value = super().__getitem__(key)
            if key != name:
                return value
            codes = layer.weight_codes.clone()
            codes[0, 0] += 1
            return IntegerLinear(**{**layer.__dict__, "weight_codes": codes})

    quantized.layers = Changed(quantized.layers)
    wrong = [
        row for row in parity.integer_layer_parity(quantized, images.numpy()) if not row.is_exact
    ]
    assert len(wrong) == 1
    assert wrong[0].wrong_sums > 0


def forced(graph, images, bits, **kinds):
    """Return the graph with uneven grids of these kinds wherever the target offers them."""
    choices = parallel.SearchChoices(activations="fisher", weights="gram", **kinds)
    method = Method(name="t", summary="", source="", calibrate=parallel.parallel(choices))
    placement = TARGET.place(graph, weight_bits=bits, act_bits=bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "OPERATORS_MUST_SAVE", float("-inf"))
        return calibrate(graph, placement, images, method)


def all_grids(quantized):
    for layer in quantized.layers.values():
        yield from [layer.grid] if isinstance(layer, IntegerLinear) else [layer.left, layer.right]


@pytest.mark.parametrize("bits", [3, 4])
def test_twin_grids_run_exactly(vit, images, bits):
    quantized = forced(vit, images, bits, twin=True)
    assert sum(isinstance(grid, TwinGrid) for grid in all_grids(quantized)) == 4  # two blocks
    rows = integer_layer_parity(quantized, images.numpy(), layers_at_once=100)
    assert all(row.is_exact for row in rows), [row for row in rows if not row.is_exact]
    TARGET.lower(quantized)


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_codebooks_run_exactly(graph, images, bits):
    quantized = forced(graph, images, bits, codebook=True)
    kinds = [grid.spec.kind for grid in all_grids(quantized)]
    assert kinds.count("uniform") == 1  # the image
    assert kinds.count("codebook") > 10
    carriers = {grid.spec.carrier for grid in all_grids(quantized)}
    assert carriers == {"u8", "s8"}
    rows = integer_layer_parity(quantized, images.numpy(), layers_at_once=100)
    assert all(row.is_exact for row in rows), [row for row in rows if not row.is_exact]
    assert {row.kernel for row in rows} == {"MatMulIntegerToFloat"}
    lowered = TARGET.lower(quantized)
    labels = {row["grid"] for row in lowered.layers} - {"asymmetric"}
    assert all(2 <= int(label.removeprefix("codebook ")) <= 1 << bits for label in labels)
    run = session(lowered).run
    together, alone = run(images[:3].numpy()), [run(image[None].numpy()) for image in images[:3]]
    assert np.abs(together - np.concatenate(alone)).max() <= 1e-4 * np.abs(together).max()


@pytest.mark.parametrize("batch", [1, 7])
def test_reference_equals_torch(graph, images, batch):
    with torch.no_grad():
        expected = graph.forward(images[:batch]).numpy()
    found = session(TARGET.reference(graph)).run(images[:batch].numpy())
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_codes_of_k_bits_are_packed_and_levels_bounded(vit, images):
    quantized = quantized_at(vit, images, 4, "edgevit")
    lowered = TARGET.lower(quantized)
    assert set(lowered.packed_bits.values()) == {4}
    for name in lowered.packed_bits:
        codes = lowered.tensors[name]
        assert codes.dtype == np.int8
        assert codes.min() >= -8
        assert codes.max() <= 7
    for row in lowered.layers:
        assert row["kernel"] == "MatMulIntegerToFloat"
    inside = set(read_graph(lowered.onnx, "graph.onnx").constants)
    assert not set(inside) & set(lowered.tensors)


def test_operators_stay_whole(vit, images):
    lowered = TARGET.lower(quantized_at(vit, images, 8))
    operators = [node.op_type for node in onnx.ModelProto.FromString(lowered.onnx).graph.node]
    assert operators.count("LayerNormalization") == 5
    assert operators.count("Gelu") == 2
    assert operators.count("Softmax") == 2
    onnx.checker.check_model(whole_model(lowered.onnx, lowered.tensors), full_check=True)


def test_a_product_without_an_integer_kernel_is_refused():
    with pytest.raises(UnsupportedError, match="EV315"):
        check_kernels({"a": "t1", "b": "t2"}, {"t1": "MatMulIntegerToFloat", "t2": "Gemm"})
    with pytest.raises(UnsupportedError, match="fused away"):
        check_kernels({"a": "t1"}, {})


def test_rolls_become_one_gather(swin, vit, images):
    assert with_gathered_rows(vit) is vit
    gathered = with_gathered_rows(swin)
    targets = [str(node.target) for node in gathered.module.graph.nodes]
    assert not any("roll" in target and "rows" not in target for target in targets)
    with torch.no_grad():
        assert torch.equal(gathered.forward(images), swin.forward(images))


def test_placement_offers_only_what_runs(vit):
    for bits in range(2, 9):
        placement = TARGET.place(vit, weight_bits=bits, act_bits=bits)
        for site in vit.sites:
            options = placement.options[site.name]
            assert options[0].kind == "uniform"
            for spec in options:
                expected = 8 if site.role.value == "patch_in" else bits
                assert spec.bits == expected
        twin = placement.offers("blocks.0.attn.pv:softmax", "twin-softmax")
        assert (twin is not None) == (bits < 8)
        missing = {vit.site(name).role.value for name in placement.missing}
        assert ("gelu_out" in missing) == (bits > 4)
        assert ("softmax_out" in missing) == (bits == 8)
        assert not placement.notes


def test_bits_and_target_names_are_checked(vit):
    with pytest.raises(UsageError, match="EV201"):
        TARGET.place(vit, weight_bits=9, act_bits=8)
    with pytest.raises(UsageError, match="EV203"):
        target_named("cpuu")
