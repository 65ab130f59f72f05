"""Named outputs of a graph: which there are, that every pass keeps them, and what is left out."""

import pytest
import torch
from named_outputs import SHAPES, SIDE, Tower
from torch import nn

from edgevit.errors import UnsupportedError
from edgevit.graph.capture import graph_from_module
from edgevit.graph.cut_heads import with_cut_heads
from edgevit.graph.interpret import run_outputs, run_part
from edgevit.graph.parts import parts_of
from edgevit.targets.cpu.split_linear import with_split_linears
from edgevit.targets.onnx.lowering import lower_graph
from edgevit.targets.onnx.reference import FloatWriter
from edgevit.targets.onnx.row_gather import with_gathered_rows, with_rows_before_norms
from edgevit.zoo.outputs import named_values

SIZE = (3, SIDE, SIDE)


class Returns(nn.Module):
    """Returns what a function makes of a linear's output [B, 6] and the image."""

    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(3 * SIDE * SIDE, 6)
        self.token = nn.Parameter(torch.ones(1, 2))
        self.function = function

    def forward(self, x):
        return self.function(self, self.linear(x.flatten(1)), x)


def captured(function, **options):
    return graph_from_module(Returns(function).eval(), SIZE, **options)


@pytest.fixture(scope="module")
def tower():
    return Tower().eval(), graph_from_module(Tower(), SIZE)


def images(count=3):
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(1))


def test_every_float_tensor_with_a_batch_is_an_output(tower):
    model, graph = tower
    assert graph.output_shapes == {name: (-1, *shape) for name, shape in SHAPES.items()}
    assert not graph.is_classifier
    assert len(graph.notes) == 1
    assert "count" in graph.notes[0]
    wanted, found = model(images()), graph.forward_all(images())
    for name in SHAPES:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-4)
    assert torch.equal(graph.forward(images()), found["tokens"])


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda graph: graph.clone(),
        with_split_linears,
        with_cut_heads,
        with_gathered_rows,
        with_rows_before_norms,
    ],
)
def test_every_rewrite_keeps_them(tower, rewrite):
    graph = tower[1]
    changed = rewrite(graph)
    assert changed.outputs == graph.outputs
    for name, value in graph.forward_all(images()).items():
        torch.testing.assert_close(
            run_outputs(changed, images())[name], value, atol=1e-5, rtol=1e-4
        )


def test_the_interpreter_runs_all_of_the_graph(tower):
    graph, seen = tower[1], []
    found = run_outputs(graph, images(), observe=lambda name, value: seen.append(name))
    assert all(torch.equal(found[k], v) for k, v in graph.forward_all(images()).items())
    operators = [n.name for n in graph.module.graph.nodes if n.op not in {"get_attr", "output"}]
    assert seen == operators


def test_a_part_to_the_end_gives_all_outputs_behind_it_side_by_side(tower):
    graph = tower[1]
    value = images()
    for part in parts_of(graph):
        value = run_part(graph, part.start, value, part.stop)
    wanted = [one.flatten(1) for one in graph.forward_all(images()).values()]
    assert len(parts_of(graph)) == 3
    torch.testing.assert_close(value, torch.cat(wanted, 1), atol=1e-6, rtol=1e-5)


def test_a_decoder_that_reads_early_features_is_cut_nowhere_before_it():
    class Skips(Tower):
        def forward(self, x):
            tokens = self.body.patch_embed(x)
            first = self.body.blocks[0](tokens)
            return {"sum": self.body.blocks[1](first) + first, "first": first}

    graph = graph_from_module(Skips(), SIZE)
    assert [part.name for part in parts_of(graph)] == ["body.blocks.0", "head"]
    value = images()
    for part in parts_of(graph):
        value = run_part(graph, part.start, value, part.stop)
    wanted = torch.cat(
        [graph.forward_all(images())[k].flatten(1) for k in ("first", "output_sum")], 1
    )
    torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-5)


def test_logits_stay_the_one_output_of_a_classifier():
    for function in (
        lambda m, y, x: y,
        lambda m, y, x: (y, x),
        lambda m, y, x: {"features": x, "logits": y},
    ):
        graph = captured(function)
        assert graph.outputs == ("logits",)
        assert graph.is_classifier
        assert graph.forward(images()).shape == (3, 6)


NAMES = {
    "one tensor": (lambda m, y, x: x * 2.0, ("output0",)),
    "a tuple": (lambda m, y, x: (x * 2.0, y), ("output0", "output1")),
    "nested": (lambda m, y, x: {"hidden": (y, x + 1.0)}, ("hidden_0", "hidden_1")),
    "other characters": (lambda m, y, x: {"a b/c": y, "a_b_c": y}, ("a_b_c", "a_b_c_1")),
    "numbers": (lambda m, y, x: {1: y, "2": x + 1.0}, ("output1", "output_2")),
    "operators": (lambda m, y, x: {"add": y, "mean_2": x.mean(2)}, ("output_add", "output_mean_2")),
    "both": (lambda m, y, x: {"output_add": x, "add": y}, ("output_add", "output_add_again")),
    "the image": (lambda m, y, x: {"image": x, "y": y}, ("output_image", "y")),
    "one twice": (lambda m, y, x: {"a": y, "b": y}, ("a", "b")),
    "one number": (lambda m, y, x: {"a": y.mean(1)}, ("a",)),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_names(case):
    function, names = NAMES[case]
    graph = captured(function)
    assert graph.outputs == names
    builder = lower_graph(graph, FloatWriter())
    assert [node.output[0] for node in builder.nodes[-len(names) :]] == list(names)
    written = [node.output[0] for node in builder.nodes]
    assert len(set(written)) == len(written)


LEFT_OUT = {
    "int": (lambda m, y, x: {"y": y, "best": y.argmax(1)}, "int64"),
    "no batch": (lambda m, y, x: {"y": y, "sum": y.sum(0)}, "no batch"),
    "two batches": (lambda m, y, x: {"y": y, "twice": torch.cat([y, y])}, "no batch"),
    "constant": (
        lambda m, y, x: {"y": y, "token": m.token.expand(x.shape[0], 2)},
        "does not depend",
    ),
    "text": (lambda m, y, x: {"y": y, "name": "x"}, "a str"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_no_output_is_left_out_by_name(case):
    function, why = LEFT_OUT[case]
    graph = captured(function)
    assert graph.outputs == ("y",)
    assert why in graph.notes[0]


def test_a_model_of_constants_alone_is_refused():
    with pytest.raises(UnsupportedError, match="EV302"):
        captured(lambda m, y, x: {"token": m.token.expand(x.shape[0], 2)})


def test_outputs_are_asked_for_by_name():
    two = {"a": lambda y, x: y, "b": lambda y, x: x + 1.0}

    def function(m, y, x):
        return {name: make(y, x) for name, make in two.items()}

    assert captured(function, outputs=("b", "a")).outputs == ("b", "a")
    only = captured(function, outputs="b")
    assert (only.outputs, only.gemms) == (("b",), ())  # dead code went
    assert captured(lambda m, y, x: {"logits": y, "x": x}, outputs="all").outputs == ("logits", "x")
    with pytest.raises(UnsupportedError, match="EV350") as caught:
        captured(function, outputs=("a", "c"))
    assert "a, b" in caught.value.try_next


def test_an_output_that_is_no_number_is_named():
    with pytest.raises(UnsupportedError, match="EV309") as caught:
        captured(lambda m, y, x: {"fine": y, "bad": y * float("nan")})
    assert "bad" in caught.value.what


def test_fields_of_a_model_output_are_names():
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    found = named_values(
        BaseModelOutputWithPooling(last_hidden_state=torch.zeros(1), pooler_output=torch.ones(1))
    )
    assert list(found) == ["last_hidden_state", "pooler_output"]
