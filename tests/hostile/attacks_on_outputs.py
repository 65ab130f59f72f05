"""Attacks through the outputs of a model: their number, names, sizes, and ones nobody computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from sealing import change_graph, change_manifest

Attack = Callable[[Path], None]


def _stated(outputs: Any, **more: Any) -> Attack:
    def attack(folder: Path) -> None:
        change_manifest(folder, lambda m: m["model"].update(outputs=outputs, **more))

    return attack


def _of_model(**changes: Any) -> Attack:
    return lambda folder: change_manifest(folder, lambda m: m["model"].update(changes))


def _one(**changes: Any) -> Attack:
    return _stated([{"name": "logits", "shape": [7], **changes}], task="features")


def _outputs(change: Callable[[onnx.GraphProto], None]) -> Attack:
    return lambda folder: change_graph(folder, lambda model: change(model.graph))


def _declared(name: str, dims: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def _more(count: int, name: str = "more{}") -> Attack:
    """Write so many further outputs, each a copy of the image."""

    def change(graph: onnx.GraphProto) -> None:
        for at in range(count):
            output = name.format(at)
            if output not in {o for node in graph.node for o in node.output}:
                graph.node.append(helper.make_node("Identity", ["image"], [output]))
            graph.output.append(_declared(output, ["batch", 3, 8, 8]))

    return _outputs(change)


def _uncomputed(graph: onnx.GraphProto) -> None:
    graph.output[0].name = "nobody"


def _of_the_image(graph: onnx.GraphProto) -> None:
    graph.output[0].name = "image"


def _of_a_constant(graph: onnx.GraphProto) -> None:
    ends = np.zeros((1, 7), np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(ends, "logits2"))
    graph.output[0].name = "logits2"


def _none(graph: onnx.GraphProto) -> None:
    del graph.output[:]


def _of_integers(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


def _of_another_shape(graph: onnx.GraphProto) -> None:
    graph.output[0].CopyFrom(_declared("logits", ["batch", 8]))


def _fixed_batch(graph: onnx.GraphProto) -> None:
    graph.output[0].CopyFrom(_declared("logits", [1, 7]))


SIXTY_FIVE = [{"name": f"y{at}", "shape": [7]} for at in range(65)]
LOGITS = {"name": "logits", "shape": [7]}

OUTPUTS: dict[str, tuple[Attack, str]] = {
    "stated: none": (_stated([]), "EV402"),
    "stated: a text": (_stated("logits"), "EV402"),
    "stated: 65": (_stated(SIXTY_FIVE), "EV402"),
    "stated: one name twice": (_stated([LOGITS, LOGITS], task="features"), "EV402"),
    "stated: unnamed": (_stated([{"shape": [7]}]), "EV402"),
    "stated: an empty name": (_one(name=""), "EV402"),
    "stated: a path": (_one(name="../golden"), "EV402"),
    "stated: a long name": (_one(name="y" * 65), "EV402"),
    "stated: a name of two lines": (_one(name="y\n"), "EV402"),
    "stated: a number for a name": (_one(name=7), "EV402"),
    "stated: another key": (_one(file="x"), "EV402"),
    "stated: huge": (_one(shape=[1 << 24, 1 << 24]), "EV402"),
    "stated: of 2^70": (_one(shape=[1 << 70]), "EV402"),
    "stated: of seven dimensions": (_one(shape=[1] * 7), "EV402"),
    "stated: of nothing": (_one(shape=[0]), "EV402"),
    "stated: of a fraction": (_one(shape=[7.0]), "EV402"),
    "stated: of truth": (_one(shape=[True]), "EV402"),
    "stated: others than the graph's": (_one(name="features"), "EV419"),
    "stated: one that the graph lacks": (
        _stated([LOGITS, {"name": "y", "shape": [7]}], task="features"),
        "EV419",
    ),
    "stated: another shape than the graph's": (_one(shape=[8]), "EV419"),
    "stated: another number of classes": (_stated([{"name": "logits", "shape": [8]}]), "EV402"),
    "stated: golden images of a classifier": (_one(), "EV402"),
    "task: unknown": (_stated([LOGITS], task="rule"), "EV402"),
    "task: a list": (_stated([LOGITS], task=["embed"]), "EV402"),
    "task: without outputs": (_of_model(task="embed"), "EV402"),
    "classes: none of a classifier": (_of_model(num_classes=None), "EV402"),
    "graph: none": (_outputs(_none), "EV409"),
    "graph: 65": (_more(64), "EV418"),
    "graph: one more": (_more(1), "EV419"),
    "graph: one twice": (_more(1, "logits"), "EV418"),
    "graph: one that nobody computes": (_outputs(_uncomputed), "EV419"),
    "graph: the image": (_outputs(_of_the_image), "EV419"),
    "graph: a constant": (_outputs(_of_a_constant), "EV419"),
    "graph: integers": (_outputs(_of_integers), "EV418"),
    "graph: another shape": (_outputs(_of_another_shape), "EV419"),
    "graph: a fixed batch": (_outputs(_fixed_batch), "EV419"),
}
