"""The TensorRT targets: placement, strongly typed graphs, equality of codes, float32 islands."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import Run, calibrate
from edgevit.calibration.search.variants import calibrate_variant
from edgevit.errors import UnsupportedError, UsageError
from edgevit.graph.operators import aten
from edgevit.graph.rewrite import call
from edgevit.quantizers.float8 import Float8Grid
from edgevit.quantizers.fp16 import SMALLEST_NORMAL
from edgevit.quantizers.quantized_graph import integer_linear
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.registry import TARGETS
from edgevit.targets.tensorrt.parity import AsWritten, qdq_layer_parity
from edgevit.targets.tensorrt.products import QdqWriter

ORIN, THOR = TARGETS["jetson-orin-nano"], TARGETS["jetson-thor"]
SIMULATED_ONLY = {"repq-vit", "fq-vit"}


def quantized_at(graph, images, bits=8, method="minmax", target=ORIN, **changes):
    placement = target.place(graph, weight_bits=bits, act_bits=bits, **changes)
    return calibrate(graph, placement, images, METHODS[method])


def variants_of(quantized, images, target):
    found = {}
    for name, placement in target.variants(quantized.graph, quantized.placement).items():
        run = Run(graph=quantized.graph, placement=placement, images=images)
        found[name] = calibrate_variant(quantized, placement, run)
    return found


def model_of(lowered):
    return whole_model(lowered.onnx, lowered.tensors)


def run(lowered, images):
    return EngineSession(model_of(lowered), optimize=False, threads=1).run(images.numpy())


def relative_error(quantized, images, target=ORIN):
    """Root mean square error of the engine's logits, in units of that of the simulated ones."""
    simulated = quantized.forward(images).numpy()
    error = run(target.lower(quantized), images) - simulated
    return float(np.sqrt(np.square(error).mean() / np.square(simulated).mean()))


@pytest.fixture(scope="module")
def wide_vit():
    """A tiny ViT with heads of 16 channels, the smallest that TensorRT fuses in INT8 and FP8."""
    from timm.models.vision_transformer import VisionTransformer

    from edgevit.graph.capture import graph_from_module

    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=32, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=10
    )
    return graph_from_module(model.eval(), (3, 32, 32))


@pytest.fixture(scope="module")
def wide_swin():
    """A tiny Swin with heads of 16 channels: windows of 8 x 8 tokens, then shifted ones."""
    from timm.models.swin_transformer import SwinTransformer

    from edgevit.graph.capture import graph_from_module

    torch.manual_seed(0)
    model = SwinTransformer(
        img_size=32,
        patch_size=2,
        window_size=8,
        embed_dim=32,
        depths=(2,),
        num_heads=(2,),
        num_classes=10,
    )
    return graph_from_module(model.eval(), (3, 32, 32))


@pytest.mark.parametrize("bits", [3, 6, 8])
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_every_code_is_the_simulated_one(name, bits, images, request):
    quantized = quantized_at(request.getfixturevalue(name), images, bits, "percentile")
    rows = qdq_layer_parity(quantized, images.numpy())
    assert len(rows) == len(quantized.layers) >= 8
    assert all(row.codes > 0 and row.wrong_codes == 0 for row in rows), rows
    assert all(row.error < 0.005 for row in rows), rows


def test_variants_have_the_simulated_codes_too(wide_vit, images):
    quantized = quantized_at(wide_vit, images, target=THOR)
    variants = variants_of(quantized, images, THOR)
    assert list(variants) == ["fp16", "int8_attention", "fp8"]
    counts = [len(variant.layers) for variant in variants.values()]
    assert counts == [0, 12, 12]  # two blocks of four linears and two attention products
    for variant in variants.values():
        rows = qdq_layer_parity(variant, images.numpy())
        assert sum(row.wrong_codes for row in rows) == 0, rows
        assert relative_error(variant, images, THOR) < 0.1
    assert relative_error(variants["fp16"], images, THOR) < 0.01


def test_attention_with_positions_and_masks_has_the_simulated_codes_too(wide_swin, images):
    quantized = quantized_at(wide_swin, images, target=THOR)
    variants = variants_of(quantized, images, THOR)
    assert list(variants) == ["fp16", "int8_attention", "fp8"]
    assert [len(variant.layers) for variant in variants.values()] == [0, 12, 12]
    for variant in variants.values():
        rows = qdq_layer_parity(variant, images.numpy())
        assert sum(row.wrong_codes for row in rows) == 0, rows
        assert relative_error(variant, images, THOR) < 0.1


def test_attention_whose_scores_get_an_activation_stays_in_float(wide_vit):
    graph = wide_vit.clone()
    softmax = next(n for n in graph.module.graph.nodes if n.target is aten.softmax.int)
    scores = softmax.args[0]
    with graph.module.graph.inserting_before(softmax):
        doubled = call(softmax, aten.add.Tensor, scores, call(softmax, aten.relu.default, scores))
    softmax.replace_input_with(scores, doubled)
    graph.refresh()
    main = ORIN.place(graph, weight_bits=8, act_bits=8)
    quantized = ORIN.variants(graph, main)["int8_attention"].options
    assert not any(name.startswith("blocks.0.attn.qk:") for name in quantized)
    assert any(name.startswith("blocks.1.attn.qk:") for name in quantized)


def test_int8_attention_keeps_the_calibrated_linears(wide_vit, images):
    quantized = quantized_at(wide_vit, images)
    variant = variants_of(quantized, images, ORIN)["int8_attention"]
    assert all(variant.layers[name] is layer for name, layer in quantized.layers.items())
    softmax = [layer.left for layer in variant.layers.values() if hasattr(layer, "left")][1]
    assert float(softmax.scale) == pytest.approx(1 / 127, rel=1e-3)
    assert int(softmax.codes(torch.ones(1))) == 127


def test_parity_finds_a_wrong_layer(vit, images, monkeypatch):
    quantized = quantized_at(vit, images)
    name = next(iter(quantized.layers))
    layer = quantized.layers[name]
    wrong = replace(layer, grid=replace(layer.grid, scale=layer.grid.scale * 1.1))
    original = QdqWriter.write

    def write(self, *arguments):
        self.layers = {**self.layers, name: wrong}
        original(self, *arguments)

    monkeypatch.setattr(QdqWriter, "write", write)
    rows = {row.module: row for row in qdq_layer_parity(quantized, images.numpy())}
    assert rows[quantized.graph.gemm(name).module].wrong_codes > 0
    assert sum(row.wrong_codes > 0 for row in rows.values()) == 1


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_the_graph_is_strongly_typed(name, images, request):
    """Types are inferred: int8 codes of float32 quotients of float16 numbers, float16 values."""
    quantized = quantized_at(request.getfixturevalue(name), images)
    model = onnx.ModelProto.FromString(model_of(ORIN.lower(quantized)))
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    types |= {i.name: i.data_type for i in model.graph.initializer}
    half, int8, single = (getattr(onnx.TensorProto, n) for n in ("FLOAT16", "INT8", "FLOAT"))
    readers, makers = {}, {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
        if node.op_type == "QuantizeLinear":
            assert [types[i] for i in node.input] == [single, single, int8]
            assert types[node.output[0]] == int8
            cast = makers[node.input[0]]
            assert cast.op_type == "Cast"
            assert types[cast.input[0]] == half
        elif node.op_type in {"Gelu", "LayerNormalization"}:
            assert {types[i] for i in (*node.input, *node.output)} == {single}
            (cast,) = readers_of(model, node.output[0])
            assert types[cast.output[0]] == half  # one rounding
        elif node.op_type == "DequantizeLinear":
            assert [types[i] for i in node.input] == [int8, half, int8]
    pairs = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert all(r.op_type == "MatMul" for n in pairs for r in readers[n.output[0]])
    weights = [n for n in pairs if n.input[0] in {i.name for i in model.graph.initializer}]
    assert {n.attribute[0].i for n in weights} == {1}  # [in, out]
    casts = [n.input[0] for n in model.graph.node if n.op_type == "Cast"]
    assert len(casts) == len(set(casts))  # each made once
    singles = {i.name for i in model.graph.initializer if i.data_type == single}
    inside = {"QuantizeLinear", "LayerNormalization"}
    assert all(r.op_type in inside for name in singles for r in readers[name])
    assert model.opset_import[0].version == 20


def readers_of(model, tensor):
    return [node for node in model.graph.node if tensor in node.input]


def test_products_that_read_one_tensor_share_its_rounding(split_vit, images):
    quantized = quantized_at(split_vit, images)
    model = onnx.ModelProto.FromString(ORIN.lower(quantized).onnx)
    rounded = [n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]  # casts
    assert len(quantized.layers) == 12  # q, k, v, proj, fc1, fc2 of two blocks
    assert len(rounded) == len(set(rounded)) == 8


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_placement_is_symmetric_and_spares_ends_and_attention(name, request):
    graph = request.getfixturevalue(name)
    placement = ORIN.place(graph, weight_bits=4, act_bits=8)
    assert placement.float_type == "float16"
    for specs in placement.options.values():
        (spec,) = specs
        assert spec.signed
        assert spec.fixed_zero_point == 0
    skipped = {graph.site(name).role.value for name in placement.skipped}
    assert {"patch_in", "head_in", "query", "key", "value", "softmax_out"} <= skipped
    assert not any("reduction" in name for name in placement.options)
    weight = next(v[0] for k, v in placement.options.items() if k.endswith("fc1:weight"))
    assert (weight.granularity, weight.bits, weight.qmin, weight.qmax) == ("channel", 4, -7, 7)


def test_layers_asked_to_stay_float_do(vit, images):
    quantized = quantized_at(vit, images, float_layers=("*.fc2",))
    rows = {row["module"]: row for row in ORIN.lower(quantized).layers}
    assert rows["blocks.0.mlp.fc2"]["kernel"] == "float16"
    assert rows["blocks.0.mlp.fc2"]["reason"] == "asked for in the recipe"
    assert rows["blocks.0.mlp.fc1"]["kernel"] == "Q/DQ"
    with pytest.raises(UsageError, match="EV219"):
        ORIN.place(vit, weight_bits=8, act_bits=8, float_layers=("nothing",))


def test_fp8_attention_only_of_32_tokens_and_more(vit, swin):
    """The small models have 17 tokens, and windows of 16."""
    for graph in (vit, swin):
        main = THOR.place(graph, weight_bits=8, act_bits=8)
        assert THOR.variants(graph, main)["fp8"].options.keys() == main.options.keys()


def test_int8_attention_only_where_it_is_fused(vit, swin):
    """Heads of 8 channels are not one INT8 kernel."""
    for graph in (vit, swin):
        main = ORIN.place(graph, weight_bits=8, act_bits=8)
        assert list(ORIN.variants(graph, main)) == ["fp16"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_runs_or_refuses_clearly(vit, images, method):
    if method in SIMULATED_ONLY:
        with pytest.raises(UnsupportedError, match="EV306"):
            quantized_at(vit, images, method=method)
        return
    if method == "edgevit-train":
        pytest.skip("minutes; its own tests train, and it ends in the same grids")
    quantized = quantized_at(vit, images, method=method)
    assert len(quantized.layers) == 8
    exact = vit.forward(images)
    error = (quantized.forward(images) - exact).square().mean() / exact.square().mean()
    assert float(error) < 0.02


def test_large_values_stay_in_float32(vit, images):
    """A residual stream that float16 can't hold: islands keep it, and without them it is lost."""
    graph = vit.clone()
    gemm = next(g for g in graph.gemms if g.module == "blocks.0.mlp.fc2")
    bias = graph.constant(gemm.bias).clone()
    bias[3] = 60000.0
    graph.set_constant(gemm.bias, bias)
    attention = next(g for g in graph.gemms if g.module == "blocks.0.attn.proj")
    bias = graph.constant(attention.bias).clone()
    bias[3] = 60000.0
    graph.set_constant(attention.bias, bias)
    quantized = quantized_at(graph, images)
    assert gemm.name in quantized.float32_nodes
    assert any("stay in float32" in note for note in quantized.notes)
    assert torch.isfinite(quantized.forward(images)).all()
    assert relative_error(quantized, images) < 0.1
    rows = qdq_layer_parity(quantized, images.numpy())
    assert sum(row.wrong_codes for row in rows) == 0, rows
    lost = replace(quantized, float32_nodes=frozenset())
    assert np.isnan(AsWritten(model_of(ORIN.lower(lost))).run(images.numpy())).all()


def test_a_graph_that_breaks_a_rule_is_refused(vit, images, monkeypatch):
    """An unsigned zero point is what ONNX Runtime's own quantizer would write."""
    from edgevit.targets.tensorrt import target as module

    quantized = quantized_at(vit, images)
    original = module.write_model

    def with_unsigned_zero(quantized):
        builder, writer = original(quantized)
        builder.inside["zero_int8.constant"] = np.uint8(0)
        return builder, writer

    monkeypatch.setattr(module, "write_model", with_unsigned_zero)
    with pytest.raises(UnsupportedError, match="EV311"):
        ORIN.lower(quantized)


def test_scales_of_a_float16_body_are_float16_numbers(vit, images):
    quantized = quantized_at(vit, images, method="edgevit")
    for layer in quantized.layers.values():
        for values in (layer.grid.scale, layer.weight_grid.scale, layer.bias):
            assert torch.equal(values, values.half().float())
        assert int(layer.weight_codes.abs().max()) <= 127
    for name, value in quantized.graph.module.named_buffers():
        if value.is_floating_point():
            assert torch.equal(value, value.half().float()), name


def test_rounding_scales_keeps_codes_and_mends_dead_rows():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 64, generator=generator)
    weight[1] *= 1e-6
    weight[2] = 0
    spec = GridSpec(bits=8, signed=True, symmetric=True, granularity="channel", narrow=True)
    grid = UniformGrid.symmetric(spec, weight.abs().amax(1) / 127)
    inputs = GridSpec(bits=8, signed=True, symmetric=True)
    activation = UniformGrid.symmetric(inputs, torch.tensor(0.0123))
    layer = integer_linear(activation, grid, weight, None)
    rounded = layer.in_float16()
    assert torch.equal(rounded.weight_codes[0], layer.weight_codes[0])
    assert torch.equal(rounded.weight_grid.scale[1:], torch.full((2,), SMALLEST_NORMAL))
    found = rounded.weight_grid.dequantize(rounded.weight_codes)
    assert float((found - weight).abs()[1:].max()) <= SMALLEST_NORMAL / 2
    assert rounded.scale.tolist() == (rounded.grid.unit * rounded.weight_grid.scale).tolist()


def test_float8_numbers_are_those_of_the_engine():
    """All float16 numbers of interest through ONNX Runtime's QuantizeLinear to E4M3."""
    scale = torch.tensor(0.37).half().float()
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    numbers = bits.view(torch.float16)
    numbers = numbers[torch.isfinite(numbers)]
    grid = Float8Grid(spec=GridSpec(kind="e4m3", bits=8, signed=True), scale=scale)
    helper, types = onnx.helper, onnx.TensorProto
    constants = [
        onnx.numpy_helper.from_array(np.float16(scale.item()), "scale"),
        helper.make_tensor("zero", types.FLOAT8E4M3FN, [], [0.0]),
    ]
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
                helper.make_node("Cast", ["q"], ["y"], to=types.FLOAT),
            ],
            "float8",
            [helper.make_tensor_value_info("x", types.FLOAT16, ["n"])],
            [helper.make_tensor_value_info("y", types.FLOAT, ["n"])],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(["y"], {"x": numbers.numpy()})
    expected = grid.numbers(numbers.float()).float().numpy()
    assert np.array_equal(found, expected)
    assert expected.max() == 448.0
    codes = grid.codes(torch.tensor([0.0, 0.37]) * (scale / 0.37))
    assert codes.tolist() == [0, 0x38]  # 1.0 is exponent 7, mantissa 0
