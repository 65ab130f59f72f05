"""The whole network: the simulation's logits are the engine's, bit for bit."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.graph.capture import graph_from_module
from edgevit.graph.operators import LAYOUT
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.targets.cpu.float_parts import EnginePart, engine_parts
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.registry import target_named

TARGET = CpuTarget()


def quantized_at(graph, images, bits, method="minmax", **options):
    graph = TARGET.prepare(graph)
    placement = TARGET.place(graph, weight_bits=bits, act_bits=bits, **options)
    return calibrate(graph, placement, images, METHODS[method])


def engine_of(quantized, **options):
    lowered = TARGET.lower(quantized)
    model = whole_model(lowered.onnx, lowered.tensors)
    return EngineSession(model, session_config=lowered.session_config, **options)


def in_torch(quantized):
    """Return the simulation with torch's float operators, the same in all else."""
    return QuantizedGraph(
        graph=quantized.graph,
        placement=target_named("simulation").place(quantized.graph, weight_bits=8, act_bits=8),
        layers=quantized.layers,
    )


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("method", ["minmax", "edgevit"])
def test_logits_are_the_engines(graph, images, bits, method):
    quantized = quantized_at(graph, images, bits, method)
    simulated = quantized.forward(images).numpy()
    for threads in (1, 2):
        assert np.array_equal(engine_of(quantized, threads=threads).run(images.numpy()), simulated)
    if not any(node.target is torch.ops.aten.mean.dim for node in graph.module.graph.nodes):
        run = engine_of(quantized).run  # a mean of tokens is added up in another order for one
        alone = np.concatenate([run(image[None].numpy()) for image in images])
        assert np.array_equal(alone, simulated)


def test_the_comparison_can_fail(graph, images):
    """With torch's own operators last bits differ, and a head in float shows every one."""
    quantized = quantized_at(graph, images, 8, float_layers=("head*",))
    found = engine_of(quantized).run(images.numpy())
    assert np.array_equal(quantized.forward(images).numpy(), found)
    assert not np.array_equal(in_torch(quantized).forward(images).numpy(), found)


class Network(nn.Module):
    """A convolution, a function of its output [B, 16, 8, 8], and a head."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.function = nn.Conv2d(3, 16, 4, 4), function
        self.head = nn.Linear(function(self.stem(torch.zeros(1, 3, 32, 32))).flatten(1).shape[1], 5)

    def forward(self, image):
        return self.head(self.function(self.stem(image)).flatten(1))


class Scores(nn.Module):
    """Scores of tokens with a factor, which the engine takes into the product when it is float."""

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        return torch.softmax((x * 0.3) @ x.transpose(1, 2), -1)


def norm_by_hand(x):
    away = x - x.mean(-1, keepdim=True)
    return away / torch.sqrt((away * away).mean(-1, keepdim=True) + 1e-5)


FUNCTIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "tanh": torch.tanh,
    "elu": F.elu,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "softmax": lambda x: torch.softmax(x, -1),
    "softmax_channels": lambda x: torch.softmax(x, 1),
    "layer_norm": nn.LayerNorm(8),
    "layer_norm_channels": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (16,)),
    "norm_by_hand": norm_by_hand,
    "group_norm": nn.GroupNorm(4, 16),
    "rsqrt": lambda x: torch.rsqrt(x * x + 1),
    "reciprocal": lambda x: torch.reciprocal(x * x + 1),
    "pow": lambda x: x.abs() ** 1.5,
    "mean": lambda x: x - x.mean((2, 3), keepdim=True),
    "l2": lambda x: F.normalize(x, dim=1),
    "exp": lambda x: x / x.exp().sum(1, keepdim=True),
    "avg_pool": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "bilinear": lambda x: F.interpolate(x, (12, 20), mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, (12, 20), mode="bicubic"),
    "bicubic_smaller": lambda x: F.interpolate(x, (13, 5), mode="bicubic", align_corners=True),
    "depthwise": nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.SiLU()),
    "convolution": nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
    "residual": lambda x: x + F.gelu(F.conv2d(x, torch.ones(16, 1, 3, 3) / 9, None, 1, 1, 1, 16)),
    "squeeze_excite": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "scores": Scores(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_operator_gives_the_engines_bits(name):
    graph = graph_from_module(Network(FUNCTIONS[name]).eval(), (3, 32, 32))
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    in_float = ("function*",) if name == "scores" else ()  # its factor is then fused
    quantized = quantized_at(graph, images, 8, float_layers=in_float)
    assert len(quantized.layers) >= 2
    simulated = quantized.forward(images).numpy()
    assert np.array_equal(engine_of(quantized, threads=1).run(images.numpy()), simulated)


class Branches(nn.Module):
    """Two convolutions of the image that are added up, which the engine does within the second."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.near = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide = nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.head = nn.Linear(16 * 16 * 16, 5)

    def forward(self, image):
        x = F.gelu(self.stem(image))
        return self.head(F.gelu(self.near(x) + self.wide(x)).flatten(1))


def test_a_sum_goes_into_a_convolution_where_it_does_in_the_whole():
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    quantized = quantized_at(graph_from_module(Branches().eval(), (3, 32, 32)), images, 8)
    found = engine_of(quantized, threads=1).run(images.numpy())
    assert np.array_equal(quantized.forward(images).numpy(), found)


EXTREMES = [0.0, -0.0, 1e-40, -1e-30, 1e-7, 0.5, -0.5, 87.0, -87.0, 89.0, -104.0, 1e4, -1e18, 3e38]


@pytest.mark.parametrize("name", ["gelu", "silu", "tanh", "softmax", "layer_norm", "elu"])
def test_results_depend_on_nothing_but_the_values(name):
    """Neither on the batch nor on the place in a tensor, wherever vectors begin and end."""
    graph = graph_from_module(Network(FUNCTIONS[name]).eval(), (3, 32, 32))
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    quantized = quantized_at(graph, image, 8)
    found = engine_parts(quantized.graph, quantized.layers).values()
    part = next(one.compute for one in found if len(one.reads) == 1)
    assert isinstance(part, EnginePart)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, *part.reads[0].meta["shape"][1:], generator=generator) * 10
    x.view(-1)[torch.randperm(x.numel(), generator=generator)[:56]] = torch.tensor(EXTREMES * 4)
    together = part(x)
    alone = torch.cat([part(image[None]) for image in x])
    assert torch.equal(together.nan_to_num(7), alone.nan_to_num(7))
    strided = part(x.transpose(1, -1).contiguous().transpose(1, -1))
    assert torch.equal(together.nan_to_num(7), strided.nan_to_num(7))


def test_a_rewritten_graph_gets_new_operators(vit, images):
    quantized = quantized_at(vit, images, 8)
    graph = quantized.graph
    before = quantized.forward(images)
    assert quantized.float_parts is quantized.float_parts  # made once
    norm = next(
        n for n in graph.module.graph.nodes if n.target is torch.ops.aten.layer_norm.default
    )
    gain = str(norm.args[2].target)
    graph.set_constant(gain, graph.constant(gain) * 2)
    after = quantized.forward(images)
    assert not torch.equal(before, after)
    assert np.array_equal(engine_of(quantized).run(images.numpy()), after.numpy())
    del quantized.layers[graph.gemms[-1].name]
    assert np.array_equal(engine_of(quantized).run(images.numpy()), quantized.forward(images))


def test_only_what_computes_is_left_to_the_engine(swin, images):
    quantized = quantized_at(swin, images, 8)
    graph, parts = quantized.graph, quantized.float_parts
    nodes = {node.name: node for node in graph.module.graph.nodes}
    for last, part in parts.items():
        assert any(nodes[name].target not in LAYOUT for name in (*part.inner, last))


def test_targets_that_no_engine_here_runs_keep_torch(vit):
    for name in ("simulation", "jetson-orin-nano"):
        placement = target_named(name).place(vit, weight_bits=8, act_bits=8)
        assert placement.float_parts is None
    assert TARGET.place(vit, weight_bits=8, act_bits=8).float_parts is engine_parts
