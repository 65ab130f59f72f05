"""Our ptq4vit and repq-vit beside their authors' programs: same model, same images, same layers.

    git clone https://github.com/hahnyuan/PTQ4ViT /tmp/PTQ4ViT
    git clone https://github.com/zkkli/RepQ-ViT /tmp/RepQ-ViT
    python benchmarks/official.py --ptq4vit /tmp/PTQ4ViT --models vit_cifar10 --bits 8,6,4
    python benchmarks/official.py --repq-vit /tmp/RepQ-ViT --models vit_cifar10 --bits 8,6,4

For every product (linear, q k^T, P V) the error of its quantized output on float32 inputs, as a
share of the float32 output (root mean square, 32 calibration images), once evenly and once with
every element weighted by its exact Fisher information; and KL and agreement of the whole model on
the 1,000 embedded test images. Rows go to results/official.csv and results/official_layers.csv.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from official_code import Outputs, Ptq4vit, Repq
from rows import add_row
from torch import Tensor

from edgevit.calibration.methods import method_named
from edgevit.calibration.run import calibrate
from edgevit.data import open_images
from edgevit.graph.capture import graph_from_module
from edgevit.graph.interpret import run_graph
from edgevit.graph.model import Gemm, Graph
from edgevit.quantizers.quantized_graph import QuantizedGraph, float_product
from edgevit.targets.registry import target_named
from edgevit.zoo import LoadedModel, load_model, reference_images

NUM_CALIB = 32
CACHE = Path(__file__).parent / "cache"
ONLY_OFFICIAL = "--only-official"
Errors = dict[tuple[str, str], tuple[float, float]]
"""(module path, kind) -> relative error, evenly weighted and Fisher-weighted."""


@dataclass(frozen=True)
class Result:
    """What is measured of one program, or of ours: KL in nats, agreement in percent."""

    errors: Errors
    kl: float
    agreement: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with its images; `weights` is the Fisher information of each product's output."""

    model: str
    graph: Graph
    images: Tensor
    test: Tensor
    reference: Tensor
    weights: dict[tuple[str, str], Tensor]


def images_of(loaded: LoadedModel, split: str, num: int | None, seed: int) -> Tensor:
    """Return float32 [N, 3, H, W]."""
    found = open_images(reference_images(split))
    found = found if num is None else found.subset(num, seed)
    parts = [part[0] for part in found.batches(loaded.preprocessing, 64)]
    return torch.from_numpy(loaded.preprocessing.normalize(np.concatenate(parts)))


def our_outputs(graph: Graph, quantized: QuantizedGraph, images: Tensor) -> Outputs:
    """Return every quantized product's two outputs in the units of `graph`.

    Our methods multiply rows of weights (one range for all heads): outputs are divided by that
    factor, by channel or by head, before they are compared.
    """
    units, found = _float_outputs(graph, images), {}

    def look(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        exact = float_product(quantized.graph, gemm, left, right)
        unit = units[key(gemm)]
        axes = (0, -1, -2) if gemm.weight is None else tuple(range(exact.ndim - 1))
        factor = (exact * unit).sum(axes, keepdim=True) / unit.square().sum(axes, keepdim=True)
        if not torch.allclose(exact / factor, unit, rtol=1e-3, atol=1e-3 * float(unit.abs().max())):
            raise ValueError(f"{gemm.module} {gemm.kind}: not the same function")
        if gemm.name in quantized.layers:
            found[key(gemm)] = unit, quantized.compute(gemm, left, right) / factor
        return exact

    with torch.no_grad():
        run_graph(quantized.graph, images, gemm=look)
    return found


def _float_outputs(graph: Graph, images: Tensor) -> dict[tuple[str, str], Tensor]:
    found = {}

    def keep(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        found[key(gemm)] = float_product(graph, gemm, left, right)
        return found[key(gemm)]

    with torch.no_grad():
        run_graph(graph, images, gemm=keep)
    return found


def key(gemm: Gemm) -> tuple[str, str]:
    return gemm.module, gemm.kind


def fisher(graph: Graph, images: Tensor) -> dict[tuple[str, str], Tensor]:
    """Return the diagonal of each output's Fisher information, exact over all classes."""
    outputs: dict[tuple[str, str], Tensor] = {}

    def keep(gemm: Gemm, left: Tensor, right: Tensor | None) -> Tensor:
        output = float_product(graph, gemm, left, right)
        output.retain_grad()
        outputs[key(gemm)] = output
        return output

    logits = run_graph(graph, images.clone().requires_grad_(True), gemm=keep)
    log_p = logits.log_softmax(1)
    total = {name: torch.zeros_like(output) for name, output in outputs.items()}
    for label in range(logits.shape[1]):
        share = log_p[:, label].detach().exp().sqrt()  # E g^2 = sum of p_y g_y^2
        for output in outputs.values():
            output.grad = None
        (share * log_p[:, label]).sum().backward(retain_graph=True)
        for name, output in outputs.items():
            total[name] += output.grad.square()
    return total


def errors(outputs: Outputs, weights: dict[tuple[str, str], Tensor]) -> Errors:
    found: Errors = {}
    for name, (exact, rounded) in outputs.items():
        weight = weights[name]
        if exact.ndim == 4 and name[1] == "linear":  # a convolution, [B, C, H, W]
            exact, rounded = (x.flatten(2).transpose(1, 2) for x in (exact, rounded))
        square, size = (rounded - exact).square(), exact.square()
        square, size = square.reshape(weight.shape), size.reshape(weight.shape)
        even = float((square.sum() / size.sum()).sqrt())
        found[name] = even, float(((weight * square).sum() / (weight * size).sum()).sqrt())
    return found


def end_to_end(reference: Tensor, logits: Tensor) -> tuple[float, float]:
    """Return (mean KL in nats, agreement in percent)."""
    p, q = reference.log_softmax(1), logits.log_softmax(1)
    kl = (p.exp() * (p - q)).sum(1).mean()
    return float(kl), 100 * float((p.argmax(1) == q.argmax(1)).float().mean())


@cache
def subject_of(model: str, seed: int) -> Subject:
    loaded = load_model(model)
    images = images_of(loaded, "calibration", NUM_CALIB, seed)
    test = images_of(loaded, "test", None, seed)
    graph = graph_from_module(loaded.model, loaded.preprocessing.input_size)
    with torch.no_grad():
        reference = torch.cat([loaded.model(part) for part in test.split(100)])
    return Subject(
        model=model,
        graph=graph,
        images=images,
        test=test,
        reference=reference,
        weights=fisher(graph, images),
    )


def compare(program: Ptq4vit | Repq, model: str, bits: int, seed: int, label: str) -> None:
    """Measure both on one model at one width, and add their rows."""
    subject = subject_of(model, seed)
    theirs = official(
        subject, program, bits, CACHE / f"official-{label}-{model}-{bits}-{seed}.json"
    )
    if ONLY_OFFICIAL in sys.argv:
        return
    ours = our_own(subject, program.name, bits, seed)
    if set(theirs.errors) != set(ours.errors):
        raise ValueError(f"other layers: {set(theirs.errors) ^ set(ours.errors)}")
    cell = {"model": model, "method": label, "bits": bits, "seed": seed}
    for name in ours.errors:
        _layer_row(cell, name, ours.errors[name], theirs.errors[name])
    ratios = np.array([ours.errors[name][0] / theirs.errors[name][0] for name in ours.errors])
    row = {"kl": ours.kl, "official_kl": theirs.kl}
    row |= {"agreement": ours.agreement, "official_agreement": theirs.agreement}
    row |= {"layers": len(ratios), "above_5_percent": int((ratios > 1.05).sum())}
    row |= {"median_ratio": float(np.median(ratios)), "largest_ratio": float(ratios.max())}
    add_row("official", {**cell, **row, "cpu_s": ours.cpu_s, "official_cpu_s": theirs.cpu_s})


def our_own(subject: Subject, method: str, bits: int, seed: int) -> Result:
    placement = target_named("simulation").place(subject.graph, weight_bits=bits, act_bits=bits)
    start = time.process_time()
    quantized = calibrate(subject.graph, placement, subject.images, method_named(method), seed=seed)
    cpu_s = time.process_time() - start
    outputs = our_outputs(subject.graph, quantized, subject.images)
    logits = torch.cat([quantized.forward(part) for part in subject.test.split(100)])
    kl, agreement = end_to_end(subject.reference, logits)
    return Result(errors(outputs, subject.weights), kl, agreement, cpu_s)


def official(subject: Subject, program: Ptq4vit | Repq, bits: int, kept_at: Path) -> Result:
    """Return the program's result, from an earlier run where there is one (they take minutes)."""
    if kept_at.exists():
        kept = json.loads(kept_at.read_text())
        found = {
            (module, kind): (even, weighted) for module, kind, even, weighted in kept["errors"]
        }
        return Result(found, kept["kl"], kept["agreement"], kept["cpu_s"])
    start = time.process_time()
    model = program.quantize(load_model(subject.model).model, subject.images, bits)
    cpu_s = time.process_time() - start
    with torch.no_grad():
        logits = torch.cat([model(part) for part in subject.test.split(100)])
    found = errors(program.outputs(model, subject.images), subject.weights)
    kl, agreement = end_to_end(subject.reference, logits)
    kept = {"errors": [[*name, *value] for name, value in found.items()]}
    kept_at.parent.mkdir(exist_ok=True)
    kept_at.write_text(json.dumps({**kept, "kl": kl, "agreement": agreement, "cpu_s": cpu_s}))
    return Result(found, kl, agreement, cpu_s)


def _layer_row(
    cell: dict[str, object],
    name: tuple[str, str],
    ours: tuple[float, ...],
    official: tuple[float, ...],
) -> None:
    row = {"module": name[0], "kind": name[1], "error": ours[0], "official_error": official[0]}
    row |= {"ratio": ours[0] / official[0], "fisher_error": ours[1]}
    row |= {"official_fisher_error": official[1], "fisher_ratio": ours[1] / official[1]}
    add_row("official_layers", {**cell, **row})
    print(
        f"{cell['bits']} {name[0]:32s} {name[1]:7s}", *(f"{x:9.4f}" for x in list(row.values())[2:])
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ptq4vit", type=Path, help="checkout of github.com/hahnyuan/PTQ4ViT")
    parser.add_argument("--repq-vit", type=Path, help="checkout of github.com/zkkli/RepQ-ViT")
    parser.add_argument("--fisher", action="store_true", help="give PTQ4ViT a true gradient")
    parser.add_argument("--models", default="vit_cifar10,swin_cifar10")
    parser.add_argument("--bits", default="8,6,4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(ONLY_OFFICIAL, action="store_true", help="fill the cache with theirs")
    options = parser.parse_args()
    if (options.ptq4vit is None) == (options.repq_vit is None):
        parser.error("give one of --ptq4vit and --repq-vit: their modules have the same names")
    program: Ptq4vit | Repq = (
        Repq(options.repq_vit)
        if options.ptq4vit is None
        else Ptq4vit(options.ptq4vit, fisher=options.fisher)
    )
    label = program.name + ("+fisher" if options.fisher else "")
    for model in options.models.split(","):
        for bits in options.bits.split(","):
            compare(program, model, int(bits), options.seed, label)


if __name__ == "__main__":
    main()
