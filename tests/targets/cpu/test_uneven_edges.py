"""The engine rounds what lies next to a border between two codes as the simulation does."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgevit.quantizers.codebook import CodebookGrid
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.twin import TwinGrid
from edgevit.targets.cpu.products import write_codes
from edgevit.targets.onnx.builder import OnnxBuilder


def engine_codes(grid, x):
    """Return what the engine makes of float32 x [N]: operands in 8 bits."""
    builder = OnnxBuilder()
    codes, _, _ = write_codes(builder, "x", grid, "t", (-1,))
    carrier = TensorProto.INT8 if grid.spec.signed else TensorProto.UINT8
    graph = helper.make_graph(
        builder.nodes,
        "rounding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info(codes, carrier, [None])],
        [numpy_helper.from_array(array, name) for name, array in builder.inside.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x.numpy()})[0]


def awkward_scales(half, count=10):
    """Return steps with a number below the softmax border that divides to half - 1/2."""
    scale = torch.rand(40000, generator=torch.Generator().manual_seed(half))
    edge = scale * (half - 0.5)
    below = torch.nextafter(edge, torch.tensor(0.0))
    found = scale[torch.round(below / scale) == half][:count]
    assert len(found) == count
    return found.tolist()


@pytest.mark.parametrize("kind", ["twin-softmax", "twin-gelu"])
@pytest.mark.parametrize(("bits", "ratio"), [(2, 6), (3, 5), (4, 2), (4, 5), (5, 1), (6, 1)])
def test_codes_next_to_every_border_are_the_simulated_ones(kind, bits, ratio):
    spec = GridSpec(kind=kind, bits=bits, signed=False, symmetric=False, max_ratio_log2=ratio)
    random = torch.rand(10, generator=torch.Generator().manual_seed(bits)).tolist()
    for fine in [*awkward_scales(1 << (bits - 1)), *random]:
        grid = TwinGrid(spec=spec, scale=torch.tensor(fine), ratio_log2=ratio)
        steps = torch.arange(-2 * grid.half, 2 * grid.half) + 0.5
        meet = torch.tensor([grid.threshold, grid.half - 1, grid.half - 0.5, grid.half])
        at = [grid.scale * steps, grid.coarse * steps, grid.scale * meet]
        x = torch.cat(at)
        for side in (float("-inf"), float("inf")):
            near = torch.nextafter(x, torch.tensor(side))
            x = torch.cat([x, near, torch.nextafter(near, torch.tensor(side))])
        expected = grid.operand(grid.codes(x)) + grid.operand_offset
        assert np.array_equal(engine_codes(grid, x), expected.numpy().astype(np.uint8))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_codebook_codes_next_to_every_border_are_the_simulated_ones(signed, bits):
    spec = GridSpec(kind="codebook", bits=bits, signed=signed, symmetric=signed)
    generator = torch.Generator().manual_seed(bits)
    low, high = (-128, 127) if signed else (0, 255)
    for fine in torch.rand(10, generator=generator).tolist():
        levels = torch.randperm(256, generator=generator)[: 1 << bits].sort().values + low
        zero = torch.tensor(0 if signed else 77, dtype=torch.int32)
        scale = torch.tensor(fine)
        grid = CodebookGrid(spec=spec, scale=scale, zero_point=zero, levels=tuple(levels.tolist()))
        x = scale * (torch.arange(low - 4, high + 4) - zero + 0.5)
        for side in (float("-inf"), float("inf")):
            x = torch.cat([x, torch.nextafter(x, torch.tensor(side))])
        expected = grid.operand(grid.codes(x)) + grid.operand_offset
        assert np.array_equal(engine_codes(grid, x), expected.numpy())
