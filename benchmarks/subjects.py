"""What the accuracy benchmark measures on: test images decoded once, models and their twins.

Decoded images and fp32 logits are kept under benchmarks/cache, which git ignores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from hardening import hardened
from outliers import rotated, with_massive_token
from torch import nn

from edgevit.data import Preprocessing, labels_for, open_images
from edgevit.errors import UsageError
from edgevit.graph.capture import graph_from_module
from edgevit.graph.model import Graph
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.onnx.builder import whole_model
from edgevit.zoo import LoadedModel, load_model
from edgevit.zoo.loaded import weights_sha256

CACHE = Path(__file__).parent / "cache"
TWINS = ("plain", "hardened", "hardened+head")
LAYERNORMS_ONLY = "hardened-ln"
"""A further twin, on request: published methods have no answer to the pairs in attention."""
ROTATED, MASSIVE = "rotated", "massive"
"""Twins with outliers that no factor per channel evens out, on request; see `outliers`."""
TWIN_SEED = 0
FEW = 16
"""Test images that show a twin where the outliers go."""
RIDGE = 1e-3
"""Of the mean variance of a feature: enough that the head does not live on the smallest part."""
Run = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""From images [B, 3, H, W] to logits [B, classes]."""


@dataclass(frozen=True, kw_only=True)
class TestImages:
    """Labelled images in memory.

    Args:
        pixels: uint8 [N, H, W, 3].
        labels: int64 [N].
        name: Names this very set: a hash of the pixels and labels.
    """

    __test__ = False  # no test class, whatever pytest thinks of its name

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    name: str


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model or a twin of it, with what fp32 says about the test images.

    Args:
        model, twin: Names, the twin as in `twin_of`.
        graph: As the cpu target prepares it.
        preprocessing: Of the model.
        images: The test images.
        logits: float32 [N, classes] of the fp32 engine.
    """

    model: str
    twin: str
    graph: Graph
    preprocessing: Preprocessing
    images: TestImages
    logits: npt.NDArray[np.float32]


def subject(
    model: str,
    twin: str,
    data: str,
    num: int | None,
    threads: int,
    batch: int,
    weights: Path | None = None,
) -> Subject:
    """Build a subject, from the cache where it can.

    Args:
        data: Test images as `open_images` takes them.
        num: Use only this many of them, drawn class-balanced.
        weights: Checkpoint file in place of the published weights.
    """
    loaded = load_model(model, weights=weights)
    size, module = loaded.preprocessing.input_size, loaded.model
    images = test_images(data, num, loaded)
    few = torch.from_numpy(loaded.preprocessing.normalize(images.pixels[:FEW]))
    if twin == MASSIVE:
        module = with_massive_token(module, few)
    elif twin not in ("plain", ROTATED):
        module = twin_of(module, size, twin)
    graph = CpuTarget().prepare(graph_from_module(module, size))
    if twin == ROTATED:
        graph = rotated(graph, few)
    path = CACHE / f"fp32-{weights_sha256(module)[:16]}-{images.name}.npz"
    if path.exists():
        logits = np.load(path)["logits"]
    else:
        reference = CpuTarget().reference(graph)
        session = EngineSession(whole_model(reference.onnx, reference.tensors), threads=1)
        logits = in_batches(
            session.run, images.pixels, loaded.preprocessing, batch=batch, threads=threads
        )
        save(path, logits=logits)
    return Subject(
        model=model,
        twin=twin,
        graph=graph,
        preprocessing=loaded.preprocessing,
        images=images,
        logits=logits,
    )


def twin_of(model: nn.Module, size: tuple[int, int, int], twin: str) -> nn.Module:
    """Return the hardened twin of this name: one of `TWINS` or `LAYERNORMS_ONLY`."""
    if twin not in {*TWINS[1:], LAYERNORMS_ONLY}:
        raise UsageError("EV990", f"There is no twin {twin!r}.", where="--twins")
    return hardened(
        model,
        size,
        seed=TWIN_SEED,
        fold_head=twin == "hardened+head",
        attention=twin != LAYERNORMS_ONLY,
    )


def fitted_head(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], num_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a linear classifier fitted to features by ridge regression, in closed form.

    The logits of an untrained head say next to nothing about an image, and the first of a thousand
    is ahead of the second by little. Fitted to one-hot labels the head tells the images apart that
    it was fitted to; it has learned nothing about others.

    Args:
        features: [N, D], what the head reads.
        labels: int64 [N].
        num_classes: Number of logits; classes without an image get weights of zero.

    Returns:
        Weight [classes, D] and bias [classes], float32.
    """
    x = features.astype(np.float64)
    mean = np.bincount(labels, minlength=num_classes) / len(labels)  # [classes]
    targets = np.eye(num_classes)[labels] - mean  # [N, classes]
    ridge = RIDGE * np.square(x - x.mean(0)).sum() / x.shape[1]
    gram = x.T @ x + ridge * np.eye(x.shape[1])  # [D, D]
    weight = np.linalg.solve(gram, x.T @ targets).T  # [classes, D]
    return torch.from_numpy(weight).float(), torch.from_numpy(mean).float()


def test_images(data: str, num: int | None, loaded: LoadedModel) -> TestImages:
    """Return the images of `data` with their labels, decoded once and then cached."""
    file = Path(data.split("::")[0])
    state = file.stat()
    what = f"{data} {state.st_size} {state.st_mtime_ns} {num} {loaded.preprocessing.to_dict()}"
    path = CACHE / f"images-{hashlib.sha256(what.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        chosen = open_images(data)
        chosen = chosen if num is None else chosen.subset(num, 1)
        labelled = labels_for(loaded.classes, chosen, loaded.num_classes)
        parts = list(labelled.batches(loaded.preprocessing, 500))
        pixels = np.concatenate([part[0] for part in parts])
        save(path, pixels=pixels, labels=np.concatenate([part[1] for part in parts]))
    with np.load(path) as file_:
        pixels, labels = file_["pixels"], file_["labels"]
    name = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()[:12]
    return TestImages(pixels=pixels, labels=labels, name=name)


test_images.__test__ = False  # type: ignore[attr-defined]


def in_batches(
    run: Run,
    pixels: npt.NDArray[np.uint8],
    preprocessing: Preprocessing,
    *,
    batch: int,
    threads: int,
) -> npt.NDArray[np.float32]:
    """Return logits [N, classes]: batches in parallel, each on one thread.

    Threads of their own wait for nobody; threads inside each operator wait for the slowest at
    every one of them.
    """
    starts = range(0, len(pixels), batch)
    inside, _ = torch.get_num_threads(), torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            parts = pool.map(
                lambda at: run(preprocessing.normalize(pixels[at : at + batch])), starts
            )
            return np.concatenate(list(parts))
    finally:
        torch.set_num_threads(inside)


def save(path: Path, **arrays: npt.NDArray[np.generic]) -> None:
    """Write an .npz whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)
