"""Each node's "shape" and "dtype", after every pass and graph step, against what it computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from small_models import SMALL, captured, randomise
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.errors import UnsupportedError
from edgevit.graph import passes
from edgevit.graph.capture import graph_from_module
from edgevit.graph.model import Graph
from edgevit.graph.operators import aten
from edgevit.graph.rewrite import multiply_output
from edgevit.graph.shapes import args_of, at_batch, target_of
from edgevit.targets.cpu.products import FloatWriter
from edgevit.targets.onnx.lowering import lower_graph
from edgevit.targets.onnx.row_gather import with_gathered_rows
from edgevit.targets.registry import TARGETS, target_named

BATCHES = (1, 3)
UNLIKE = ("timm_vit", "timm_swin", "timm_hybrid", "torchvision_vit", "transformers_swin_sdpa")
"""Of the small models those that passes treat differently."""
WINDOWED = passes.PASSES.index(passes.window_masks)
"""Up to this pass a folded constant may stand for one image where an operator does not spread it
over the batch (`fold_constants`, rule 3): a class token in a concatenation, a mask of windows."""


def false_metas(module: GraphModule, image: Tensor) -> tuple[list[str], list[Node]]:
    """Run a module on images [B, 3, H, W] and return the nodes whose metadata is false.

    Returns:
        A line for every live node whose "shape", "dtype" or "size" is missing or false; and the
        nodes that do not run because a constant stands for one image.
    """
    found, of_one_image, values = [], [], {}
    batch = image.shape[0]
    for node in _live(module):
        try:
            value = _value(module, node, image, values)
        except RuntimeError:
            if batch == 1 or all(source.op != "get_attr" for source in node.all_input_nodes):
                raise
            of_one_image.append(node)
            value = torch.zeros(at_batch(node.meta["shape"], batch), dtype=node.meta["dtype"])
        values[node] = value
        said, real = _said(node, batch), _real(value)
        if said != real:
            found.append(f"{node.name}: {said}, not {real}")
    return found, of_one_image


def _live(module: GraphModule) -> list[Node]:
    output = next(node for node in module.graph.nodes if node.op == "output")
    needed = set(output.all_input_nodes)
    for node in reversed(module.graph.nodes):
        needed.update(node.all_input_nodes if node in needed else ())
    return [node for node in module.graph.nodes if node in needed]


def _value(module: GraphModule, node: Node, image: Tensor, values: dict[Node, object]) -> object:
    if node.op == "placeholder":
        return image
    if node.op == "get_attr":
        return module.get_buffer(str(node.target))
    args, kwargs = map_arg((args_of(node), node.kwargs), values.__getitem__)
    value = target_of(node)(*args, **kwargs)
    # a view that the model asked for needs strides which the passes leave open until `layout`
    return value.contiguous() if isinstance(value, Tensor) else value


def _said(node: Node, batch: int) -> object:
    if "size" in node.meta:
        return at_batch((node.meta["size"],), batch)[0]
    if "shape" in node.meta:
        return at_batch(node.meta["shape"], batch), node.meta["dtype"]
    return None


def _real(value: object) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype
    return value if isinstance(value, int) else None


def refuse_false(module: GraphModule, size: tuple[int, int, int], stage: str) -> int:
    """Return how many nodes do not run on three images; there may be no false one."""
    of_one_image: list[Node] = []
    for batch in BATCHES:
        image = torch.randn(batch, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            found, of_one_image = false_metas(module, image)
        assert not found, f"{stage}, batch {batch}: {len(found)} false: {found[:5]}"
    return len(of_one_image)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hold every shape after the intake and after each pass that changes something."""
    seen: list[str] = []

    def held(number: int, each: passes.Pass) -> passes.Pass:
        def run(module: GraphModule) -> int:
            if not seen:
                refuse_false(module, _size(module), "intake")
                seen.append("intake")
            changed = each(module)
            if changed:
                stands = refuse_false(module, _size(module), each.__name__)
                assert not stands or number < WINDOWED, f"{each.__name__}: {stands} do not run"
                seen.append(each.__name__)
            return changed

        return run

    checked = tuple(held(number, each) for number, each in enumerate(passes.PASSES))
    monkeypatch.setattr(passes, "PASSES", checked)
    return seen


def _size(module: GraphModule) -> tuple[int, int, int]:
    image = next(node for node in module.graph.nodes if node.op == "placeholder")
    _, *size = image.meta["shape"]
    return tuple(size)


@pytest.mark.parametrize("name", UNLIKE)
def test_shapes_hold_after_every_pass(name: str, stages: list[str]) -> None:
    graph_from_module(SMALL[name](), (3, 32, 32), check=False)
    assert len(stages) > 5
    assert stages[0] == "intake"
    assert stages[-1] == "tidy"


@pytest.mark.parametrize(
    ("name", "side", "depth"),
    [
        ("vit_tiny_patch16_224", 32, {"depth": 3}),
        ("deit_tiny_patch16_224", 32, {"depth": 3}),
        ("swin_tiny_patch4_window7_224", 56, {"depths": (2, 2), "num_heads": (3, 6)}),
    ],
)
def test_shapes_of_published_models_hold(
    name: str, side: int, depth: dict[str, object], stages: list[str]
) -> None:
    import timm

    model = timm.create_model(name, img_size=side, num_classes=5, **depth)
    graph = graph_from_module(model, (3, side, side), check=False)
    assert stages[-1] == "tidy"
    refuse_false(with_gathered_rows(graph).module, graph.input_size, "row gather")
    prepared = target_named("cpu").prepare(graph)
    refuse_false(prepared.module, graph.input_size, "prepare")


@pytest.mark.parametrize("model_name", UNLIKE)
def test_shapes_hold_in_what_targets_lower(model_name: str) -> None:
    graph = captured(model_name)[1]
    prepared = {target.name: target.prepare(graph) for target in TARGETS.values()}
    apart = {id(each): (name, each) for name, each in prepared.items()}  # most are the graph itself
    assert len(apart) > 1
    for name, each in apart.values():
        assert not refuse_false(each.module, graph.input_size, f"prepare for {name}")
        gathered = with_gathered_rows(each).module
        assert not refuse_false(gathered, graph.input_size, f"row gather for {name}")


def test_shapes_hold_where_calibration_changes_the_graph(vit: Graph, images: Tensor) -> None:
    placement = target_named("cpu").place(vit, weight_bits=4, act_bits=4)
    quantized = calibrate(vit, placement, images, METHODS["noisyquant"])
    refuse_false(quantized.graph.module, vit.input_size, "noisyquant")
    for gemm in vit.gemms:
        multiply_output(vit, gemm.name, torch.full((1,), 0.5))
    refuse_false(vit.module, vit.input_size, "multiply_output")


def test_operators_are_added_in_one_place() -> None:
    """What copies a whole graph, node by node, copies what the nodes say of themselves."""
    package = Path(passes.__file__).parents[2]
    makes = re.compile(r"\.(call_function|create_node|node_copy)\(")
    found = {
        path.relative_to(package).as_posix(): makes.findall(path.read_text())
        for path in package.rglob("*.py")
    }
    assert {name: made for name, made in found.items() if made} == {
        "graph/rewrite.py": ["call_function"],
        "graph/passes/intake.py": ["node_copy"],
        "graph/passes/tidy.py": ["create_node"],
    }


def test_the_check_finds_a_false_shape_and_a_false_dtype(swin: Graph) -> None:
    gathered = with_gathered_rows(swin).module
    moved = [n for n in gathered.graph.nodes if n.target is aten.index_select.default]
    moved[0].meta["shape"] = (-1, *moved[0].meta["shape"])
    moved[1].meta["dtype"] = torch.float64
    with pytest.raises(AssertionError, match="2 false"):
        refuse_false(gathered, swin.input_size, "changed")


class Tokens(nn.Module):
    """Reads an image [B, 3, 8, 8] as 8 tokens of 24 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(24, 5)

    def forward(self, image: Tensor) -> Tensor:
        tokens = image.permute(0, 2, 1, 3).flatten(2)  # [B, 8, 24]
        return self.head(self.changed(tokens)).mean(1)

    def changed(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError


class Doubles(Tokens):
    """Constants in float64, which the intake makes float32, meet activations."""

    def changed(self, tokens: Tensor) -> Tensor:
        first = torch.tensor([1.5], dtype=torch.float64).expand(24)
        ramp = torch.arange(24, dtype=torch.float64) / 24
        low, high = ((tokens + first) * ramp).chunk(2, -1)
        return torch.cat([high, low], -1).float()


class RolledBatchLast(Tokens):
    """A roll of rows that run along the batch: no gather of an image's own rows."""

    def changed(self, tokens: Tensor) -> Tensor:
        return (tokens.permute(1, 2, 0) + 1.5).roll((1,), (0,)).permute(2, 0, 1)


class LongFactor(nn.Module):
    """A factor of the scores that has one value and one dimension more than they have."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(24, 36), nn.Linear(12, 5)
        self.factor = nn.Parameter(torch.full((1, 1, 1, 1, 1), 0.3))

    def forward(self, image: Tensor) -> Tensor:
        tokens = image.permute(0, 2, 1, 3).flatten(2)  # [B, 8, 24]
        q, k, v = self.qkv(tokens).reshape(-1, 8, 3, 2, 6).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-1, -2) * self.factor).softmax(-1) @ v)[0]  # [B, 2, 8, 6]
        return self.head(y.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize("model", [Doubles, RolledBatchLast, LongFactor])
def test_shapes_hold_in_odd_models(model: type[nn.Module], stages: list[str]) -> None:
    graph = graph_from_module(randomise(model()), (3, 8, 8))
    assert stages[-1] == "tidy"
    refuse_false(with_gathered_rows(graph).module, graph.input_size, "row gather")


class MixesImages(Tokens):
    def changed(self, tokens: Tensor) -> Tensor:
        mean = tokens.mean(1)  # [B, 24]
        alike = mean @ mean.T  # [B, B]
        return tokens + alike.mean(1).reshape(-1, 1, 1)  # [B, 8, 24]


def test_two_dimensions_that_follow_the_batch_are_not_lowered() -> None:
    graph = graph_from_module(MixesImages(), (3, 8, 8), check=False)
    with pytest.raises(UnsupportedError, match="EV303"):
        lower_graph(graph, FloatWriter())
