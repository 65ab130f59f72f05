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
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from graph_mutations import MUTATIONS, NUMBERS, TEXTS
from judging import MEMORY_BYTES, TIME_LIMIT_S, Judge, Verdict
from sealing import manifest_of, seal, write_manifest

KINDS = ("manifests", "graphs")
_GRAPHS = ("graph.onnx", "reference.onnx", "fp16.onnx", "int8_attention.onnx", "fp8.onnx")
_GRAPHS = (*_GRAPHS, "u8_attention.onnx")
_KEYS = ("session.profile_file_prefix", "name", "provider", "variants", "engine", "fp16", "x")


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
        parent[chance.choice((*_KEYS, *TEXTS))] = _json(chance, 2)
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
        return chance.choice(NUMBERS)
    if kind == 3:
        return chance.choice((0.5, -1.5, 1e300, 1e-300, 6.0))
    if kind in (4, 5):
        return chance.choice(TEXTS)
    if kind == 6:
        return [_json(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 7:
        nested: Any = 0
        for _ in range(chance.choice((3, 20, 300))):
            nested = [nested]
        return nested
    keys = (*_KEYS, *TEXTS)
    return {chance.choice(keys): _json(chance, depth - 1) for _ in range(chance.randrange(4))}


def _changed_graph(chance: random.Random, folder: Path) -> list[str]:
    name = chance.choice([one for one in _GRAPHS if (folder / one).exists()])
    model = onnx.load(folder / name, load_external_data=False)
    for _ in range(chance.choice((1, 1, 2, 3))):
        chance.choice(MUTATIONS)(chance, model)
    (folder / name).write_bytes(model.SerializeToString())
    manifest = manifest_of(folder)
    if chance.random() < 0.1:  # an attacker may change what is said of the tensors as well
        entry = chance.choice(manifest["tensors"])
        entry["shape"] = chance.sample(entry["shape"], len(entry["shape"]))
    seal(folder, manifest)
    return [name, "manifest.json"]


_CHANGES = {"manifests": _changed_manifest, "graphs": _changed_graph}


def described(tally: Tally) -> str:
    """Return a tally's unsafe cases, for people."""
    shown = [f"{number}: {verdict}" for number, verdict in tally.examples[:5]]
    return json.dumps(dict(tally.refused)) + "\n" + "\n".join(shown)
