"""Every operator that capture lets through is written by every target, and computes the same."""

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgevit import api
from edgevit.bundle.cost import cost_of
from edgevit.bundle.opening import check_skeleton
from edgevit.bundle.outputs import Output
from edgevit.bundle.shape_rules import Value
from edgevit.data import Preprocessing
from edgevit.errors import UnsupportedError
from edgevit.graph.capture import graph_from_module
from edgevit.graph.operators import ALLOWED, PRODUCTS
from edgevit.graph.shapes import shape_of
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.onnx.emitters import EMITTERS
from edgevit.targets.onnx.reference import float_reference
from edgevit.targets.registry import TARGETS
from edgevit.zoo import reference_images


class Applied(nn.Module):
    """A convolution, a function of its output [B, 16, 8, 8], and a head."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.function = nn.Conv2d(3, 16, 4, 4), function
        if isinstance(function, nn.Module):
            _spread(function)
        image = torch.zeros(1, 3, 32, 32)
        self.head = nn.Linear(function(self.stem(image)).flatten(1).shape[1], 5)

    def forward(self, image):
        return self.head(self.function(self.stem(image)).flatten(1))


def _spread(module):
    """Give normalisations statistics and gains that are not all alike."""
    for each in module.modules():
        for name in ("running_mean", "running_var", "weight", "bias"):
            value = getattr(each, name, None)
            if (
                isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm)
                and value is not None
            ):
                value.data.uniform_(0.5, 2.0)
    module.eval()


def tokens(function):
    """Return a function of [B, 64, 16] as one of [B, 16, 8, 8]."""
    return lambda x: function(x.flatten(2).transpose(1, 2))


def assigned(x):
    y = x.clone()
    y[:, :, 2:5] = x[:, :, :3] * 2
    return y


def filled(x):
    y = torch.zeros_like(x)
    y[:] = x
    return y


def columns(x):
    return F.fold(F.unfold(x, 3, padding=1, stride=2), (8, 8), 3, padding=1, stride=2)


class Pool(nn.Module):
    """A learned query that attends to the tokens, with batch and heads in one dimension."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 16))
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        query = self.query.repeat(x.shape[0], 1, 1)
        return self.attention(query, x, x, need_weights=True)[0]


class Registers(nn.Module):
    """Learned tokens behind the first one, as in DINOv2 with registers and prompt tuning."""

    def __init__(self):
        super().__init__()
        self.registers = nn.Parameter(torch.randn(1, 2, 16))

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        registers = self.registers.expand(x.shape[0], -1, -1)
        return torch.cat([x[:, :1], registers, x[:, 1:]], 1)


class ClassAttention(nn.Module):
    """A class token that is a query by itself and, beside the patches, a key, as in CaiT."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.norm, self.q, self.kv = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        token = self.token.expand(x.shape[0], -1, -1)
        kv = self.kv(torch.cat([token, x], 1))
        return (self.q(self.norm(token)) @ kv.transpose(1, 2)).softmax(-1) @ kv


FUNCTIONS = {
    "silu": F.silu,
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "exp": lambda x: torch.exp(-x * x),
    "roll": lambda x: x.roll((1, 2), (2, 3)),
    "select": lambda x: x[:, 3],
    "index": lambda x: x[:, torch.tensor([2, 0, 1])],
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "softplus": F.softplus,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "glu": lambda x: F.glu(x, 1),
    "clamp": lambda x: x.clamp(-0.3, 0.2),
    "clamp_min": lambda x: x.clamp(min=0.1),
    "clamp_max": lambda x: torch.clamp_max(x, 0.1),
    "clamp_above": lambda x: x.clamp(max=0.1),
    "clamp_tensor": lambda x: x.clamp(torch.tensor(-0.3), torch.tensor(float("inf"))),
    "clamp_channels": lambda x: x.clamp(max=torch.linspace(-1, 1, 16).reshape(16, 1, 1)),
    "maximum": lambda x: torch.maximum(x, -x),
    "minimum": lambda x: torch.minimum(x, x * x),
    "abs": torch.abs,
    "square": torch.square,
    "pow": lambda x: x.abs() ** 1.5,
    "rsqrt": lambda x: torch.rsqrt(x * x + 1),
    "reciprocal": lambda x: torch.reciprocal(x * x + 1),
    "rsub": lambda x: 1 - x,
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "sum": lambda x: x / (x * x).sum(1, keepdim=True),
    "amax": lambda x: x + x.amax((2, 3), keepdim=True),
    "amin": lambda x: x - x.amin(1, keepdim=True),
    "max": lambda x: x - x.max(1, keepdim=True).values,
    "l2": lambda x: F.normalize(x, dim=1),
    "l1": lambda x: F.normalize(x, p=1, dim=1),
    "rms_norm": tokens(lambda x: F.rms_norm(x, (16,), torch.linspace(0.5, 2, 16))),
    "group_norm": nn.GroupNorm(4, 16),
    "one_group": nn.GroupNorm(1, 16),
    "layer_norm_plain": tokens(lambda x: F.layer_norm(x, (16,))),
    "batch_norm": nn.BatchNorm2d(16),
    "batch_norm_later": nn.Sequential(nn.GELU(), nn.BatchNorm2d(16)),
    "batch_norm_plain": nn.BatchNorm2d(16, affine=False),
    "batch_norm_rows": nn.Sequential(nn.Flatten(), nn.Linear(1024, 8), nn.BatchNorm1d(8)),
    "max_pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "avg_pool": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "avg_pool_padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool_ceil": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "max_pool_left_out": lambda x: F.max_pool2d(x, 2, 4, ceil_mode=True),
    "avg_pool_left_out": lambda x: F.avg_pool2d(x, 2, 4, ceil_mode=True),
    "avg_pool_whole": lambda x: F.avg_pool2d(x, 4, 3, 1, ceil_mode=True),
    "avg_pool1d": lambda x: F.avg_pool1d(x.flatten(2), 4),
    "adaptive_pool": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive_pool_uneven": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "adaptive_pool_rows": lambda x: F.adaptive_avg_pool2d(x, (1, 8)),
    "adaptive_pool1d": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 7),
    "conv1d": lambda x: F.conv1d(x.flatten(2), torch.ones(2, 16, 3), padding=1),
    "conv3d": nn.Sequential(nn.Unflatten(1, (2, 8)), nn.Conv3d(2, 3, (1, 3, 3), 1, (0, 1, 1))),
    "conv3d_deep": nn.Sequential(nn.Unflatten(1, (2, 8)), nn.Conv3d(2, 3, (3, 3, 1), (2, 1, 1))),
    "conv_same": nn.Conv2d(16, 4, 3, padding="same"),
    "conv_valid": nn.Conv2d(16, 4, 3, padding="valid"),
    "one_number": lambda x: torch.ops.aten.conv2d(x, torch.ones(4, 16, 3, 3), None, [2], [1], [2]),
    "conv_transpose": nn.ConvTranspose2d(16, 4, 2, 2),
    "conv_transpose_wide": nn.ConvTranspose2d(16, 4, 3, 2, 1, 1, groups=2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest_from_3_to_7": lambda x: F.interpolate(x[:, :, :3, :3], (7, 7)),
    "nearest_from_6_to_14": lambda x: F.interpolate(x[:, :, :6, :6], (14, 13)),
    "nearest_smaller": lambda x: F.interpolate(x, (5, 3)),
    "nearest_behind_a_permute": lambda x: F.interpolate(
        x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2), (12, 20)
    ),
    "bilinear_to_odd_sizes": lambda x: F.interpolate(x, (11, 13), mode="bilinear"),
    "bilinear": lambda x: F.interpolate(x, (12, 20), mode="bilinear"),
    "bilinear_corners": lambda x: F.interpolate(x, (12, 20), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, (12, 20), mode="bicubic"),
    "bicubic_smaller": lambda x: F.interpolate(x, (13, 5), mode="bicubic"),
    "cropped": lambda x: F.pad(x, (-1, 2, 1, -2)),
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x),
    "baddbmm": tokens(lambda x: torch.baddbmm(x, x @ x.transpose(1, 2), x, beta=0.5)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "expand": lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1, -1) * 2,
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "slice_scatter": assigned,
    "copy": filled,
    "unfold": lambda x: x.unfold(2, 4, 2),
    "fold": columns,
    "attention_pool": Pool(),
    "registers": Registers(),
    "class_attention": ClassAttention(),
}


@cache
def captured(name):
    model = Applied(FUNCTIONS[name]).eval()
    return model, graph_from_module(model, (3, 32, 32))  # compares the graph with the model


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_operator_is_captured_and_written(name):
    model, graph = captured(name)
    lowered = float_reference(graph)
    session = onnxruntime.InferenceSession(
        whole_model(lowered.onnx, lowered.tensors), providers=["CPUExecutionProvider"]
    )
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images).numpy()
    found = session.run(None, {"image": images.numpy()})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_what_capture_lets_through_is_what_is_written():
    assert set(EMITTERS) | PRODUCTS == ALLOWED


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_bundle_may_hold_what_is_written(name):
    _, graph = captured(name)
    lowered = float_reference(graph)
    cost = cost_of(
        check_skeleton(lowered.onnx, lowered.tensors, "graph.onnx"),
        {key: Value(v.shape, v.dtype.name, is_constant=True) for key, v in lowered.tensors.items()},
        model_bytes=1 << 30,
        input_size=(3, 32, 32),
        outputs=(Output("logits", (5,)),),
        where="graph.onnx",
    )
    assert cost.multiply_adds.per_image > 0


@pytest.mark.parametrize("name", ["max_pool_left_out", "avg_pool_left_out", "avg_pool_ceil"])
def test_engines_that_keep_a_window_in_the_padding_see_the_same_size(name):
    _, graph = captured(name)
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(float_reference(graph).onnx))
    sizes = {one.name: one.type.tensor_type.shape.dim for one in inferred.graph.value_info}
    pool = next(node for node in graph.module.graph.nodes if "pool" in node.name)
    assert tuple(dim.dim_value for dim in sizes[pool.name][2:]) == shape_of(pool)[2:]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_target_runs_what_is_captured_or_says_so_beforehand(target):
    """What a target can't run is told by `check_graph`, with the module's name."""
    for name in FUNCTIONS:
        target.check_graph(target.prepare(captured(name)[1]))


def test_the_functions_above_use_every_operator():
    used = {n.target for name in FUNCTIONS for n in captured(name)[1].module.graph.nodes}
    assert used >= ALLOWED


class Widely(nn.Module):
    """A pool with dilations, which ONNX Runtime has and TensorRT has not."""

    def forward(self, x):
        return F.max_pool2d(x, 2, 1, 0, 2)


class Steeply(nn.Module):
    """A softplus with a factor, which nobody writes."""

    def forward(self, x):
        return F.softplus(x, beta=2)


class HalfUp(nn.Module):
    """A pool whose last window begins behind the image in one direction alone."""

    def forward(self, x):
        return F.max_pool2d(x, (2, 3), (4, 2), ceil_mode=True)


@pytest.mark.parametrize(
    ("function", "targets", "code"),
    [
        (Widely(), [n for n in TARGETS if n not in ("cpu", "simulation")], "EV319"),
        (Steeply(), [n for n in TARGETS if n != "simulation"], "EV313"),
        (HalfUp(), [n for n in TARGETS if n != "simulation"], "EV313"),
        (
            nn.ConvTranspose2d(16, 4, 2, stride=1, output_padding=1, dilation=2),
            [n for n in TARGETS if n != "simulation"],
            "EV313",
        ),
    ],
)
def test_a_form_without_a_kernel_is_refused_before_calibration(
    function, targets, code, monkeypatch
):
    monkeypatch.setattr("edgevit.calibration.run.calibrate", None)  # nobody gets there
    module = Applied(function).eval()
    preprocessing = Preprocessing.from_crop_pct(
        input_size=(3, 32, 32),
        crop_pct=1.0,
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    with pytest.raises(UnsupportedError) as error:
        api.quantize(
            module,
            reference_images("calibration"),
            num_calib=1,
            preprocessing=preprocessing,
            target=targets[0],
        )
    assert error.value.code == code
    assert error.value.where == "function"
    graph = graph_from_module(module, (3, 32, 32))
    for name in targets:
        with pytest.raises(UnsupportedError, match=code):
            TARGETS[name].check_graph(graph)
