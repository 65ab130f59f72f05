"""Random changes to bundles, with every hash made right again: none may do harm.

Number N of a kind is the same in every run. Manifests are changed as JSON; graphs are changed as
valid protobuf, through onnx's own classes, so that damage lies in what they say. Each bundle goes
to the judge, whose victim does with it all that the commands do.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from judging import MEMORY_BYTES, TIME_LIMIT_S, Judge, Verdict
from onnx import AttributeProto, TensorProto, helper
from sealing import manifest_of, seal, write_manifest

from edgevit.bundle.operators import OPERATORS

KINDS = ("manifests", "graphs")
_GRAPHS = ("graph.onnx", "reference.onnx", "fp16.onnx", "int8_attention.onnx", "fp8.onnx")
_GRAPHS = (*_GRAPHS, "u8_attention.onnx")
_NUMBERS = (
    -1,
    0,
    1,
    2,
    3,
    7,
    255,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    1 << 40,
    (1 << 63) - 1,
    -(1 << 63),
)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, float("inf"), float("nan"), 0.5)
_TEXTS = (
    "",
    "..",
    "/etc/passwd",
    "../../x",
    "a\nb",
    "\x1b]0;x\x07",
    "[/bold]",
    "\ud800",
    "\0",
    "raw",
    "zlib",
    "packed",
    "int8",
    "float32",
    "cpu",
    "tensorrt",
    "CPUExecutionProvider",
    "x" * 5000,
    "ä",
    "nan",
    "-1",
)
_KEYS = ("session.profile_file_prefix", "name", "provider", "variants", "engine", "fp16", "x")
_FOREIGN = ("Loop", "If", "Scan", "ConstantOfShape", "Expand", "Tile", "Range", "Shape", "Einsum")
_FOREIGN = (*_FOREIGN, "RandomNormal", "Resize", "NonZero", "ScatterND", "Constant", "EPContext")


@dataclass
class Tally:
    """What came of all bundles of a kind.

    Args:
        tried: How many there were.
        opened: How many did no harm and ran.
        refused: Code of an error -> how many.
        harmed, tracebacks, over_memory, over_time: How many did.
        examples: (number, verdict) of those.
        peak_bytes: The highest peak memory.
        seconds: The longest time.
    """

    tried: int = 0
    opened: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    harmed: int = 0
    tracebacks: int = 0
    over_memory: int = 0
    over_time: int = 0
    examples: list[tuple[int, Verdict]] = field(default_factory=list)
    peak_bytes: int = 0
    seconds: float = 0.0

    def note(self, number: int, verdict: Verdict) -> None:
        """Count one verdict."""
        self.tried += 1
        self.opened += verdict.status == 0
        if verdict.code is not None:
            self.refused[verdict.code] += 1
        self.harmed += bool(verdict.harm)
        self.tracebacks += verdict.traceback is not None
        self.over_memory += verdict.peak_bytes >= MEMORY_BYTES
        self.over_time += verdict.seconds >= TIME_LIMIT_S
        self.peak_bytes = max(self.peak_bytes, verdict.peak_bytes)
        self.seconds = max(self.seconds, verdict.seconds)
        if not verdict.is_safe:
            self.examples.append((number, verdict))


def base_bundles(folder: Path) -> list[Path]:
    """Write small bundles that have every form of product and several variants."""
    import torch
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    from edgevit import api
    from edgevit.data import Preprocessing
    from edgevit.zoo import reference_images

    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=10
    )
    swin = SwinTransformer(
        img_size=16,
        patch_size=4,
        window_size=2,
        embed_dim=32,
        depths=(2,),
        num_heads=(2,),
        num_classes=10,
    )
    preprocessing = Preprocessing(
        input_size=(3, 16, 16),
        resize_size=16,
        interpolation="bilinear",
        crop_pct=1.0,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    wanted = [(vit, "cpu", 8), (vit, "jetson-thor", 8), (swin, "cpu", 4)]
    paths = []
    for number, (model, target, bits) in enumerate(wanted):
        made = api.quantize(
            model.eval(),
            str(reference_images("calibration")),
            bits=bits,
            target=target,
            method="edgevit" if bits == 4 else "minmax",
            num_calib=4,
            preprocessing=preprocessing,
        )
        paths.append(made.save(folder / f"base{number}").path)
    return paths


def fuzz(
    kind: str, numbers: Iterable[int], bases: list[Path], judge: Judge, scratch: Path
) -> Tally:
    """Return what came of the changes with these numbers.

    Args:
        kind: One of `KINDS`.
        numbers: Which changes.
        bases: Bundles to change.
        judge: Opens them.
        scratch: A folder for the changed bundles.
    """
    tally = Tally()
    folders = [scratch / base.name for base in bases]
    for base, folder in zip(bases, folders, strict=True):
        shutil.copytree(base, folder)
    for number in numbers:
        chance = random.Random(f"{kind} {number}")
        which = chance.randrange(len(bases))
        base, folder = bases[which], folders[which]
        changed = _CHANGES[kind](chance, folder)
        tally.note(number, judge.judge(folder))
        for name in changed:
            shutil.copyfile(base / name, folder / name)
    return tally


def _changed_manifest(chance: random.Random, folder: Path) -> list[str]:
    manifest = manifest_of(folder)
    for _ in range(chance.randint(1, 3)):
        manifest = _mutated(chance, manifest)
    write_manifest(folder, manifest)
    return ["manifest.json"]


def _mutated(chance: random.Random, manifest: Any) -> Any:
    """Return a manifest with one place changed, taken away, doubled or added to."""
    manifest = copy.deepcopy(manifest)
    way = _way(chance, manifest)
    if not way:
        return _json(chance, 2)
    parent = manifest
    for key in way[:-1]:
        parent = parent[key]
    last = way[-1]
    action = chance.choice(("replace", "replace", "delete", "nudge", "add", "swap"))
    if action == "delete":
        del parent[last]
    elif action == "nudge" and type(parent[last]) in (int, float):
        parent[last] += chance.choice((-3, -1, 1, 2, 1 << 31))
    elif action == "add" and isinstance(parent, dict):
        parent[chance.choice((*_KEYS, *_TEXTS))] = _json(chance, 2)
    elif action == "add":
        parent.insert(chance.randrange(len(parent) + 1), _json(chance, 2))
    elif action == "swap":
        other = chance.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[last], parent[other] = parent[other], parent[last]
    else:
        parent[last] = _json(chance, 3)
    return manifest


def _way(chance: random.Random, value: Any) -> list[Any]:
    """Return the way to a place in a document, all levels as likely."""
    way: list[Any] = []
    while isinstance(value, (dict, list)) and value:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        way.append(chance.choice(keys))
        value = value[way[-1]]
        if chance.random() < 0.25:
            break
    return way


def _json(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(9 if depth else 6)
    if kind == 0:
        return chance.choice((None, True, False))
    if kind in (1, 2):
        return chance.choice(_NUMBERS)
    if kind == 3:
        return chance.choice((0.5, -1.5, 1e300, 1e-300, 6.0))
    if kind in (4, 5):
        return chance.choice(_TEXTS)
    if kind == 6:
        return [_json(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 7:
        nested: Any = 0
        for _ in range(chance.choice((3, 20, 300))):
            nested = [nested]
        return nested
    keys = (*_KEYS, *_TEXTS)
    return {chance.choice(keys): _json(chance, depth - 1) for _ in range(chance.randrange(4))}


def _changed_graph(chance: random.Random, folder: Path) -> list[str]:
    name = chance.choice([one for one in _GRAPHS if (folder / one).exists()])
    model = onnx.load(folder / name, load_external_data=False)
    for _ in range(chance.choice((1, 1, 2, 3))):
        chance.choice(_MUTATIONS)(chance, model)
    (folder / name).write_bytes(model.SerializeToString())
    manifest = manifest_of(folder)
    if chance.random() < 0.1:  # an attacker may change what is said of the tensors as well
        entry = chance.choice(manifest["tensors"])
        entry["shape"] = chance.sample(entry["shape"], len(entry["shape"]))
    seal(folder, manifest)
    return [name, "manifest.json"]


def _tensor_name(chance: random.Random, model: onnx.ModelProto) -> str:
    graph = model.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    names += [tensor.name for tensor in graph.initializer]
    return chance.choice((*names, "image", "logits"))


def _node(chance: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
    if not model.graph.node:
        model.graph.node.append(helper.make_node("Identity", ["image"], ["logits"]))
    return chance.choice(model.graph.node)


def _integers(chance: random.Random, most: int = 6) -> list[int]:
    small = [chance.randrange(-4, 9) for _ in range(4)]
    return [chance.choice((*small, *_NUMBERS)) for _ in range(chance.randrange(most))]


def _other_operator(chance: random.Random, model: onnx.ModelProto) -> None:
    node = _node(chance, model)
    node.op_type = chance.choice((*OPERATORS, *OPERATORS, *_FOREIGN))
    known = OPERATORS.get(node.op_type)
    if chance.random() < 0.7 and known is not None:
        node.domain = known.domain


def _other_domain(chance: random.Random, model: onnx.ModelProto) -> None:
    _node(chance, model).domain = chance.choice(("", "com.microsoft", "ai.onnx.ml", "evil"))


def _other_input(chance: random.Random, model: onnx.ModelProto) -> None:
    node = _node(chance, model)
    name = chance.choice((_tensor_name(chance, model), _tensor_name(chance, model), "", "absent"))
    if node.input and chance.random() < 0.8:
        node.input[chance.randrange(len(node.input))] = name
    else:
        node.input.append(name)


def _fewer_inputs(chance: random.Random, model: onnx.ModelProto) -> None:
    node = _node(chance, model)
    del node.input[chance.randrange(len(node.input) + 1) :]


def _other_output(chance: random.Random, model: onnx.ModelProto) -> None:
    node = _node(chance, model)
    if node.output and chance.random() < 0.7:
        node.output[0] = _tensor_name(chance, model)
    else:
        node.output.append(chance.choice(("second", "", _tensor_name(chance, model))))


def _other_name(chance: random.Random, model: onnx.ModelProto) -> None:
    text = chance.choice([text for text in _TEXTS if text.isprintable() or "\ud800" not in text])
    text = text.encode("utf-8", "replace").decode()
    graph, node = model.graph, _node(chance, model)
    place = chance.randrange(4)
    if place == 0:
        graph.name = text
    elif place == 1:
        node.name = text
    elif place == 2:
        node.doc_string = text
    else:
        model.producer_name = text


def _other_attribute(chance: random.Random, model: onnx.ModelProto) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    attribute = chance.choice(chance.choice(nodes).attribute)
    if attribute.type == AttributeProto.INTS:
        attribute.ints[:] = _integers(chance)
    elif attribute.type == AttributeProto.INT:
        attribute.i = chance.choice((*range(-5, 6), *_NUMBERS))
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = chance.choice(_FLOATS)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = chance.choice((b"tanh", b"none", b"/etc/passwd", b"\xff", b""))


def _new_attribute(chance: random.Random, model: onnx.ModelProto) -> None:
    known = sorted({name for operator in OPERATORS.values() for name in operator.attributes})
    name = chance.choice((*known, "body", "value", "file", "allowzero"))
    values: tuple[Any, ...] = (
        chance.choice(_NUMBERS),
        chance.choice((0.0, 1.5)),
        "text",
        _integers(chance) or [1],
        helper.make_graph([], "g", [], []),
        helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]),
    )
    _node(chance, model).attribute.append(helper.make_attribute(name, chance.choice(values)))


def _other_type_of_attribute(chance: random.Random, model: onnx.ModelProto) -> None:
    nodes = [node for node in model.graph.node if node.attribute]
    if nodes:
        chance.choice(chance.choice(nodes).attribute).type = chance.randrange(15)


def _without_node(chance: random.Random, model: onnx.ModelProto) -> None:
    if model.graph.node:
        del model.graph.node[chance.randrange(len(model.graph.node))]


def _same_node_again(chance: random.Random, model: onnx.ModelProto) -> None:
    node = onnx.NodeProto()
    node.CopyFrom(_node(chance, model))
    if chance.random() < 0.7 and node.output:
        node.output[0] += "_again"
    model.graph.node.insert(chance.randrange(len(model.graph.node) + 1), node)


def _other_order(chance: random.Random, model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    one, other = (chance.randrange(len(nodes)) for _ in range(2)) if nodes else (0, 0)
    if nodes:
        nodes[one], nodes[other] = nodes[other], nodes[one]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _new_node(chance: random.Random, model: onnx.ModelProto) -> None:
    """Put any operator between a tensor and what reads it."""
    node = _node(chance, model)
    if not node.input:
        return
    index = chance.randrange(len(node.input))
    op = chance.choice((*OPERATORS, *OPERATORS, *_FOREIGN))
    known = OPERATORS.get(op)
    count = chance.randint(*known.inputs) if known and known.inputs[1] < 9 else 2
    inputs = [node.input[index], *(_tensor_name(chance, model) for _ in range(count - 1))]
    attributes: dict[str, Any] = {}
    for name, kind in known.attributes.items() if known else ():
        values = {"i": chance.randrange(-4, 12), "f": 1e-5, "s": "none", "ints": [0, 2, 1, 3]}
        attributes[name] = _integers(chance) or [1] if chance.random() < 0.3 else values[kind]
    domain = known.domain if known else ""
    made = helper.make_node(op, inputs, [f"new{chance.random()}"], domain=domain, **attributes)
    position = next(n for n, one in enumerate(model.graph.node) if one is node or one == node)
    node.input[index] = made.output[0]
    model.graph.node.insert(position, made)


def _constant(chance: random.Random, model: onnx.ModelProto) -> TensorProto | None:
    tensors = model.graph.initializer
    return chance.choice(tensors) if tensors else None


def _other_values(chance: random.Random, model: onnx.ModelProto) -> None:
    """Change shapes, axes and pads: the int64 constants."""
    lists = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
    if not lists:
        return
    tensor = chance.choice(lists)
    values = np.frombuffer(tensor.raw_data, np.int64).copy()
    if len(values):
        choice = (*_NUMBERS, *range(-4, 20), int(values[0]) * 2, int(values[-1]) * 1000)
        fitting = [n for n in choice if -(1 << 63) <= n < 1 << 63]
        values[chance.randrange(len(values))] = chance.choice(fitting)
    tensor.raw_data = values.tobytes()


def _other_bytes(chance: random.Random, model: onnx.ModelProto) -> None:
    tensor = _constant(chance, model)
    if tensor is not None and tensor.raw_data:
        data = bytearray(tensor.raw_data)
        data[chance.randrange(len(data))] = chance.randrange(256)
        tensor.raw_data = bytes(data[: chance.choice((len(data), len(data), len(data) - 1, 0))])


def _other_dims(chance: random.Random, model: onnx.ModelProto) -> None:
    tensor = _constant(chance, model)
    if tensor is not None:
        dims = list(tensor.dims)
        changed = _integers(chance) if chance.random() < 0.5 else dims[::-1]
        tensor.dims[:] = changed


def _other_data_type(chance: random.Random, model: onnx.ModelProto) -> None:
    tensor = _constant(chance, model)
    if tensor is not None:
        tensor.data_type = chance.randrange(-1, 25)


def _other_constant(chance: random.Random, model: onnx.ModelProto) -> None:
    tensor = _constant(chance, model)
    action = chance.randrange(4)
    if tensor is None or action == 0:
        array = np.asarray(_integers(chance), np.int64)
        name = chance.choice(("more", _tensor_name(chance, model)))
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    elif action == 1:
        model.graph.initializer.remove(tensor)
    elif action == 2:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=chance.choice(("x", "/etc/passwd")))
    else:
        tensor.name = _tensor_name(chance, model)


def _other_ends(chance: random.Random, model: onnx.ModelProto) -> None:
    end = chance.choice((model.graph.input, model.graph.output))
    action = chance.randrange(4)
    if action == 0 or not end:
        info = onnx.ValueInfoProto()
        info.CopyFrom(end[0]) if end else None
        end.append(info)
    elif action == 1:
        end[0].name = _tensor_name(chance, model)
    elif action == 2:
        end[0].type.tensor_type.elem_type = chance.randrange(20)
    elif end[0].type.tensor_type.shape.dim:
        chance.choice(end[0].type.tensor_type.shape.dim).dim_value = chance.choice(_NUMBERS)


def _other_model(chance: random.Random, model: onnx.ModelProto) -> None:
    action = chance.randrange(7)
    if action == 0:
        model.ir_version = chance.choice((1, 8, 10, 13, 99))
    elif action == 1:
        model.opset_import.add(domain=chance.choice(("", "evil", "ai.onnx.ml")), version=3)
    elif action == 2:
        chance.choice(model.opset_import).version = chance.choice((1, 13, 21, 99))
    elif action == 3:
        model.metadata_props.add(key="ort_config", value='{"session_options": {}}')
    elif action == 4:
        opsets = [helper.make_opsetid("", 20)]
        op = chance.choice(tuple(OPERATORS))
        node = helper.make_node("Identity", ["x"], ["y"])
        model.functions.append(helper.make_function("", op, ["x"], ["y"], [node], opsets))
    elif action == 5:
        model.training_info.add()
    else:
        model.graph.sparse_initializer.add()


_MUTATIONS: tuple[Callable[[random.Random, onnx.ModelProto], None], ...] = (
    _other_operator,
    _other_domain,
    _other_input,
    _other_input,
    _fewer_inputs,
    _other_output,
    _other_name,
    _other_attribute,
    _other_attribute,
    _other_attribute,
    _new_attribute,
    _other_type_of_attribute,
    _without_node,
    _same_node_again,
    _other_order,
    _new_node,
    _new_node,
    _other_values,
    _other_values,
    _other_values,
    _other_bytes,
    _other_dims,
    _other_data_type,
    _other_constant,
    _other_ends,
    _other_model,
)
_CHANGES = {"manifests": _changed_manifest, "graphs": _changed_graph}


def described(tally: Tally) -> str:
    """Return a tally's unsafe cases, for people."""
    shown = [f"{number}: {verdict}" for number, verdict in tally.examples[:5]]
    return json.dumps(dict(tally.refused)) + "\n" + "\n".join(shown)
