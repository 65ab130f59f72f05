"""How well a float16 engine agrees with its simulation, and how far an image is from flipping.

An image flips where the errors of two logits add up to more than the gap between the first and the
second. `Agreement` gives the agreement beside that gap in units of the error, and beside the
agreement that random errors of the same size would leave: much less than that means a defect.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from subjects import CACHE, save

from edgevit.data import Preprocessing
from edgevit.graph.interpret import run_graph, run_part
from edgevit.graph.model import Gemm
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.targets.tensorrt.parity import AsWritten
from edgevit.verbs.artefact import Pixels, tensor_of

BATCH = 2  # every fence keeps its tensor: at 4 the engine of Swin-B took 7 GB
DRAWS = 50
TINY = 1e-12
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What engine and simulation made of the same images.

    Args:
        engine, simulated: Logits, float32 [N, classes].
        engine_features, simulated_features: What the head reads, [N, D], of float16 numbers.
    """

    engine: Array
    simulated: Array
    engine_features: Array
    simulated_features: Array


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Top-1 agreement and why it is what it is.

    Args:
        agreement_percent: Images with the same first class.
        noise_percent: The same after independent normal errors of the size of the true ones.
        median_margin: Gap between an image's first and second simulated logit, over the root mean
            square error of the logits of all images.
        smallest_margin: The same over the error of the image's own logits, which may be zero.
        smallest_cosine: Between the logits of one image.
    """

    agreement_percent: float
    noise_percent: float
    median_margin: float
    smallest_margin: float
    smallest_cosine: float


def agreement(engine: Array, simulated: Array) -> Agreement:
    """Compare logits [N, classes] of the same images."""
    a, b = engine.astype(np.float64), simulated.astype(np.float64)
    live = np.ptp(b, axis=0) > 0  # a class without weights has no error, and never wins
    rms = np.sqrt(np.square(a - b)[:, live].mean(1))  # [N]
    first_two = np.sort(b, axis=1)[:, -2:]  # [N, 2]
    gaps = first_two[:, 1] - first_two[:, 0]
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return Agreement(
        agreement_percent=100 * float((a.argmax(1) == b.argmax(1)).mean()),
        noise_percent=noise_percent(b[:, live], rms),
        median_margin=float(np.median(gaps) / max(np.sqrt(np.square(rms).mean()), TINY)),
        smallest_margin=float((gaps / np.maximum(rms, TINY)).min()),
        smallest_cosine=float(((a * b).sum(1) / norms).min()),
    )


def noise_percent(logits: Array, rms: Array) -> float:
    """Return the agreement of logits [N, classes] with themselves plus errors of sizes [N]."""
    rng = np.random.default_rng(0)
    first = logits.argmax(1)
    drawn = (logits + rms[:, None] * rng.normal(size=logits.shape) for _ in range(DRAWS))
    return 100 * float(np.mean([(found.argmax(1) == first).mean() for found in drawn]))


def head_of(quantized: QuantizedGraph) -> Gemm:
    """Return the last product: the classifier."""
    return quantized.graph.gemms[-1]


def outputs(
    quantized: QuantizedGraph, model: bytes, preprocessing: Preprocessing, pixels: Pixels
) -> Outputs:
    """Run engine and simulation on pixels uint8 [N, H, W, 3], or take it from the cache."""
    path = CACHE / f"outputs-{digest_of(model, pixels)}.npz"
    if not path.exists():
        images = preprocessing.normalize(pixels)
        engine, engine_features = _engine(AsWritten(model), head_of(quantized), images)
        simulated, features = _simulation(quantized, images)
        save(
            path,
            engine=engine,
            simulated=simulated,
            engine_features=engine_features,
            simulated_features=features,
        )
    with np.load(path) as file:
        return Outputs(**file)


def with_head(found: Outputs, quantized: QuantizedGraph, model: bytes) -> Outputs:
    """Return what another head makes of the same features.

    Args:
        found: Of a model that differs from `quantized` and `model` in the head's constants only.
    """
    head = head_of(quantized)
    whole = onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(model))
    tail = onnx.utils.Extractor(whole).extract_model([head.left.producer], ["logits"])
    session = AsWritten(tail.SerializeToString())
    engine = session.run(found.engine_features)
    with torch.no_grad():
        simulated = run_part(
            quantized.graph,
            head.left.producer,
            tensor_of(found.simulated_features),
            None,
            gemm=quantized.compute,
            keep=quantized.kept,
        )
    return replace(found, engine=engine, simulated=simulated.numpy())


def unfenced(found: Outputs, model: bytes, preprocessing: Preprocessing, pixels: Pixels) -> Outputs:
    """Return the same with the logits of ONNX Runtime left alone, which drops casts to float16."""
    path = CACHE / f"unfenced-{digest_of(model, pixels)}.npz"
    if not path.exists():
        session = EngineSession(model, optimize=False, threads=1)
        parts = [session.run(part) for part in _batches(preprocessing.normalize(pixels))]
        save(path, engine=np.concatenate(parts))
    with np.load(path) as file:
        return replace(found, engine=file["engine"])


def digest_of(model: bytes, pixels: Pixels) -> str:
    """Return what names the outputs of a model file for images in the cache."""
    return hashlib.sha256(model + pixels.tobytes()).hexdigest()[:24]


def _engine(session: AsWritten, head: Gemm, images: Array) -> tuple[Array, Array]:
    names = ["logits", head.left.producer]
    parts = [session.tensors(part, names) for part in _batches(images)]
    logits, features = (np.concatenate([part[name] for part in parts]) for name in names)
    return logits, features


@torch.no_grad()
def _simulation(quantized: QuantizedGraph, images: Array) -> tuple[Array, Array]:
    seen: list[Array] = []

    def observe(name: str, value: torch.Tensor) -> None:
        if name == head_of(quantized).left.producer:
            seen.append(value.numpy())

    logits = [
        run_graph(
            quantized.graph,
            tensor_of(part),
            gemm=quantized.compute,
            keep=quantized.kept,
            observe=observe,
        ).numpy()
        for part in _batches(images)
    ]
    return np.concatenate(logits), np.concatenate(seen)


def _batches(images: Array) -> list[Array]:
    return [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
