"""Exports models for every TensorRT device: conformance, and agreement with the simulation.

    python benchmarks/tensorrt_export.py --data imagenet_sample --models deit_s,vit_b,swin_t,swin_b

Every model is calibrated once: what the devices are offered differs in the variants they run, not
in their grids. Graphs run in ONNX Runtime on the CPU as they are written
(`edgevit.targets.tensorrt.parity`), or with --casts dropped as ONNX Runtime runs them when left
alone. Models without embedded weights are built untrained, and a second time with a fitted head
(`subjects.fitted_head`); images are real. Models that have rows are skipped, and what was run is
kept under benchmarks/cache, so the script can be stopped and started again.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from agreement import Outputs, agreement, head_of, outputs, unfenced, with_head
from rows import add_row, read_rows
from subjects import fitted_head

from edgevit import api
from edgevit.data import labels_for, open_images
from edgevit.quantizers.fp16 import to_half
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.registry import TARGETS
from edgevit.targets.tensorrt.conformance import BuildFacts, Level, check_onnx
from edgevit.targets.tensorrt.profiles import PROFILES
from edgevit.targets.tensorrt.target import TensorRTTarget, precision_of
from edgevit.verbs.artefact import Artefact, Pixels
from edgevit.zoo import EMBEDDED_MODELS, reference_images

EVERYTHING = "jetson-thor"
"""A device that runs every variant: the one to calibrate for."""
TRAINED, UNTRAINED, FITTED = "trained", "untrained", "fitted head"
Forms = dict[str, QuantizedGraph]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to measure: a model's name, the widths, the calibration, the images, who runs them."""

    model: str
    bits: int
    method: str
    num_calib: int
    images: int
    casts: str

    @property
    def weights(self) -> tuple[str, ...]:
        """Heads to measure with."""
        return (TRAINED,) if self.model in EMBEDDED_MODELS else (UNTRAINED, FITTED)

    def is_done(self) -> bool:
        """Return whether there are rows: those of one task are written together."""
        wanted = {k: str(v) for k, v in asdict(self).items()}
        return any(wanted.items() <= row.items() for row in read_rows("tensorrt_export"))


def measure(task: Task, data: str, variants: list[str]) -> None:
    embedded = task.model in EMBEDDED_MODELS
    artefact = api.quantize(
        task.model,
        str(reference_images("calibration")) if embedded else data,
        bits=task.bits,
        method=task.method,
        num_calib=task.num_calib,
        pretrained=embedded,
        target=EVERYTHING,
    )
    source = str(reference_images("test")) if embedded else data
    pixels, labels = chosen(source, artefact, task.images)
    forms = {"int8": artefact.quantized}
    forms |= {name: variant.quantized for name, variant in artefact.variants.items()}
    run = {
        name: outputs(form, exported(form), artefact.model.preprocessing, pixels)
        for name, form in forms.items()
    }
    rows = []
    for weights in task.weights:
        if weights == FITTED:
            forms, run = refitted(forms, run, labels)
        some = {name: form for name, form in forms.items() if name in (variants or forms)}
        rows += list(rows_of(task, weights, artefact, some, run, pixels))
    for row in rows:
        add_row("tensorrt_export", row)


def chosen(source: str, artefact: Artefact, num: int) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Return `num` images as uint8 [N, H, W, 3] and their labels, int64 [N]."""
    model = artefact.model
    subset = labels_for(model.classes, open_images(source).subset(num, 1), model.num_classes)
    parts = list(subset.batches(model.preprocessing, 32))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def exported(form: QuantizedGraph) -> bytes:
    """Return the file of one form; the device decides only on what it is checked against."""
    lowered = TARGETS[EVERYTHING].lower(form)
    return whole_model(lowered.onnx, lowered.tensors)


def refitted(
    forms: Forms, run: dict[str, Outputs], labels: npt.NDArray[np.int64]
) -> tuple[Forms, dict[str, Outputs]]:
    """Return forms and outputs with a head fitted to what all of them give the head to read."""
    features = np.concatenate([found.simulated_features for found in run.values()])
    any_form = next(iter(forms.values()))
    head = head_of(any_form)
    shape = any_form.graph.weight(head).shape
    weight, bias = fitted_head(features, np.tile(labels, len(run)), shape[0])
    graph = any_form.graph.clone()
    graph.set_weight(head, to_half(weight))
    graph.set_bias(head, to_half(bias))
    forms = {name: replace(form, graph=graph) for name, form in forms.items()}
    return forms, {name: with_head(run[name], form, exported(form)) for name, form in forms.items()}


def rows_of(
    task: Task,
    weights: str,
    artefact: Artefact,
    forms: Forms,
    run: dict[str, Outputs],
    pixels: Pixels,
) -> Iterator[dict[str, Any]]:
    """Yield a row for every device and form it runs."""
    for name, form in forms.items():
        model = exported(form)
        found = run[name]
        if task.casts == "dropped":
            found = unfenced(found, model, artefact.model.preprocessing, pixels)
        compared = asdict(agreement(found.engine, found.simulated))
        for profile in PROFILES:
            target = TARGETS[profile]
            if not offers(target, artefact, name):
                continue
            checked = check_onnx(model, target.profile, facts=BuildFacts(asked=precision_of(form)))
            yield {
                **asdict(task),
                "weights": weights,
                "device": profile,
                "variant": name,
                "graph": hashlib.sha256(model).hexdigest()[:12],
                "products": len(form.graph.gemms),
                "quantized": len(form.layers),
                **{level.name.lower(): len(checked.of_level(level)) for level in Level},
                **compared,
                "onnx_mb": len(model) / 1e6,
            }


def offers(target: TensorRTTarget, artefact: Artefact, variant: str) -> bool:
    """Return whether a device runs a variant.

    Raises:
        ValueError: It does on other grids than those calibrated.
    """
    main = artefact.quantized
    placement = target.place(
        main.graph, weight_bits=main.placement.weight_bits, act_bits=main.placement.act_bits
    )
    offered = {"int8": placement, **target.variants(main.graph, placement)}
    made = {"int8": main, **{k: v.quantized for k, v in artefact.variants.items()}}
    if variant in offered and offered[variant].options != made[variant].placement.options:
        raise ValueError(f"{target.name} is offered other grids than {EVERYTHING}")
    return variant in offered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="images at 224 for the full-size models")
    parser.add_argument("--models", default="vit_cifar10,swin_cifar10,deit_s,vit_b,swin_t,swin_b")
    parser.add_argument("--bits", default="8")
    parser.add_argument("--method", default="minmax")
    parser.add_argument("--num-calib", type=int, default=8)
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--variants", default="", help="write rows of these only")
    parser.add_argument("--casts", choices=["kept", "dropped"], default="kept")
    options = parser.parse_args()
    for model in options.models.split(","):
        for bits in options.bits.split(","):
            task = Task(
                model=model,
                bits=int(bits),
                method=options.method,
                num_calib=options.num_calib,
                images=options.num_images,
                casts=options.casts,
            )
            if not task.is_done():
                measure(task, options.data, [v for v in options.variants.split(",") if v])


if __name__ == "__main__":
    main()
