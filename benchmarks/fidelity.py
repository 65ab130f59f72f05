"""The whole network: how far are the engine's logits from the simulation's?

    python benchmarks/fidelity.py --models deit_t --bits W8A8,W6A6,W4A8,W4A4
    python benchmarks/fidelity.py --models vit_cifar10,swin_cifar10 --num-images 1000
    python benchmarks/fidelity.py --models families --methods minmax --num-images 16

Each row is a network, calibrated once and simulated twice: with the engine's float operators, as
every bundle's golden logits are, and with torch's (columns `torch_...`). Errors are in units of the
quantization noise, the rms of simulated minus fp32 logits. On 16 images the engine runs again, one
at a time and on two threads, which may change nothing. `deit_t` has its real weights, the families
are untrained; images are real. The data lie in $EDGEVIT_DATA or beside the checkout in shared/data;
without them it prints SKIPPED. Rows that are there are kept.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from real_data import CIFAR, IMAGENET, PHOTOS, WEIGHTS, is_missing
from rows import add_row, read_rows
from torch import nn

from edgevit import api
from edgevit.data import open_images
from edgevit.graph.operators import LAYOUT
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.runner.measure.scores import agreement_percent
from edgevit.targets.onnx.builder import whole_model
from edgevit.verbs.artefact import Artefact, logits_of
from edgevit.zoo import EMBEDDED_MODELS, load_model, reference_images

NAME = "fidelity"
BATCH, FEW = 8, 16
FAMILIES = (
    "hf:swin",
    "hf:dinov2",
    "pit_ti_224",
    "swinv2_cr_tiny_224",
    "mobilevit_xxs",
    "efficientvit_b0",
    "efficientvit_m0",
    "tiny_vit_5m_224",
    "fastvit_t8",
    "levit_128s",
    "coatnet_pico_rw_224",
    "maxvit_rmlp_pico_rw_256",
    "xcit_nano_12_p16_224",
    "cait_xxs24_224",
    "pvt_v2_b0",
    "mvitv2_tiny",
    "edgenext_xx_small",
    "poolformer_s12",
    "twins_svt_small",
    "davit_tiny",
)
Logits = npt.NDArray[np.float32]


def main() -> None:
    """Measure the cells that are not in results/fidelity.csv yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="vit_cifar10,swin_cifar10", help="or: families")
    parser.add_argument("--methods", default="edgevit")
    parser.add_argument("--bits", default="W8A8")
    parser.add_argument("--num-images", type=int, default=400)
    parser.add_argument("--torch-images", type=int, default=100, help="for fp32 and `torch_...`")
    options = parser.parse_args()
    if is_missing(WEIGHTS, IMAGENET, PHOTOS, CIFAR):
        return
    done = {(row["model"], row["method"], row["bits"]) for row in read_rows(NAME)}
    models = ",".join(FAMILIES) if options.models == "families" else options.models
    for model in models.split(","):
        for method in options.methods.split(","):
            for bits in options.bits.split(","):
                if (model, method, bits) not in done:
                    num, some = options.num_images, options.torch_images
                    add_row(NAME, measure(model, method, bits, num, some))


def measure(
    model: str, method: str, bits: str, num_images: int, torch_images: int
) -> dict[str, Any]:
    """Quantize, run and simulate; return the row."""
    artefact = quantized(model, method, bits)
    test = f"{CIFAR}::test" if model in EMBEDDED_MODELS else IMAGENET
    preprocessing = artefact.model.preprocessing
    subset = open_images(str(test)).subset(num_images, 1)
    pixels = np.concatenate([p for p, _, _ in subset.batches(preprocessing, BATCH)])

    def run(forward: Callable[[Any], Any], num: int | None = None) -> Logits:
        return logits_of(forward, preprocessing, pixels[:num])

    def again(forward: Callable[[Any], Any], batch: int) -> float:
        found = logits_of(forward, preprocessing, pixels[:FEW], batch)
        return worst(found, engine[:FEW], noise)

    main = artefact.quantized
    torch_only = replace(main, placement=replace(main.placement, float_parts=None))
    engine = run(on_engine(artefact, threads=1))
    begun = time.monotonic()
    simulated = run(main.forward)
    between = time.monotonic()
    in_torch = run(torch_only.forward, torch_images)
    ended = time.monotonic()
    some = slice(torch_images)
    noise = rms(simulated[some] - run(main.graph.forward, torch_images))
    before = compared(engine[some], in_torch, noise)
    return {
        "model": model,
        "weights": weights_of(model),
        "method": method,
        "bits": bits,
        "images": len(pixels),
        "noise": noise,
        **compared(engine, simulated, noise),
        "torch_images": len(in_torch),
        **{f"torch_{key}": value for key, value in before.items()},
        "one_image_error": again(on_engine(artefact, threads=1), batch=1),
        "two_threads_error": again(on_engine(artefact, threads=2), batch=BATCH),
        "seconds": between - begun,
        "torch_seconds": (ended - between) * len(pixels) / len(in_torch),
        "operators": "+".join(sorted(operators_of(artefact))),
    }


def quantized(model: str, method: str, bits: str) -> Artefact:
    """Return the model quantized on images of another origin than those it is measured on."""
    match = re.fullmatch(r"W(\d)A(\d)", bits)
    assert match, bits
    widths: dict[str, Any] = {"weight_bits": int(match[1]), "act_bits": int(match[2])}
    if model in EMBEDDED_MODELS:
        calibration = str(reference_images("calibration"))
        return api.quantize(model, calibration, method=method, **widths)
    photos = str(PHOTOS)
    if model == "deit_t":
        return api.quantize(model, photos, method=method, weights=WEIGHTS, **widths)
    if not model.startswith("hf:"):
        return api.quantize(model, photos, method=method, pretrained=False, num_calib=8, **widths)
    return api.quantize(
        of_transformers(model),
        photos,
        method=method,
        num_calib=8,
        preprocessing=load_model("deit_t", pretrained=False).preprocessing,
        **widths,
    )


def of_transformers(name: str) -> nn.Module:
    """Return a small untrained model of transformers."""
    import transformers  # only some subjects are its

    torch.manual_seed(0)
    if name == "hf:swin":
        shape = {"embed_dim": 48, "depths": [2, 2, 2, 2], "num_heads": [2, 4, 8, 16]}
        swin = transformers.SwinConfig(**shape, num_labels=100)
        return LogitsOnly(transformers.SwinForImageClassification(swin)).eval()
    config = transformers.Dinov2Config(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, num_labels=100, patch_size=14
    )
    return LogitsOnly(transformers.Dinov2ForImageClassification(config)).eval()


class LogitsOnly(nn.Module):
    """A model of transformers that returns its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> Any:
        return self.model(image).logits


def weights_of(model: str) -> str:
    """Return how the weights came about."""
    return "trained" if model in EMBEDDED_MODELS or model == "deit_t" else "untrained"


def on_engine(artefact: Artefact, threads: int) -> Callable[[Any], Any]:
    """Return the engine as a function of tensors."""

    lowered = artefact.lowered
    model = whole_model(lowered.onnx, lowered.tensors)
    session = EngineSession(model, threads=threads, session_config=lowered.session_config)
    return lambda images: torch.from_numpy(session.run(images.numpy()))


def compared(engine: Logits, simulated: Logits, noise: float) -> dict[str, float]:
    """Return how near logits [N, classes] of engine and simulation are."""
    return {
        "same_class_percent": agreement_percent(engine, simulated),
        "identical_percent": 100 * float((engine == simulated).all(axis=1).mean()),
        "max_error": worst(engine, simulated, noise),
        "rms_error": rms(engine - simulated) / noise,
    }


def worst(found: Logits, expected: Logits, noise: float) -> float:
    """Return the largest difference of logits in units of the noise."""
    return float(np.abs(found - expected).max()) / noise


def rms(values: npt.NDArray[Any]) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(values.astype(np.float64)))))


def operators_of(artefact: Artefact) -> set[str]:
    """Return the operators that the simulation leaves to the engine."""
    parts = artefact.quantized.float_parts
    names = {*parts, *(name for part in parts.values() for name in part.inner)}
    nodes = artefact.quantized.graph.module.graph.nodes
    found = {node.target for node in nodes if node.name in names}
    return {str(target).split(".")[1] for target in found - LAYOUT}


if __name__ == "__main__":
    main()
