"""The verb `quantize`: model and images -> graph -> placement -> calibration -> engine's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.artefact import Artefact, Variant, logits_of
from edgevit.budgets import Limits, check_size, common_bits, placement_of, with_widths
from edgevit.calibration.progress import Progress, silent
from edgevit.data import ImageSet, Preprocessing, open_images
from edgevit.recipe import DEFAULT_METHOD, Recipe
from edgevit.subject import (
    Subject,
    check_num_calib,
    check_seed,
    check_widths,
    loaded_model,
    subject_of,
)

if TYPE_CHECKING:
    from torch import nn

    from edgevit.calibration.methods.method import Method
    from edgevit.quantizers.simulation import QuantizedGraph
    from edgevit.targets.base import Target

NUM_GOLDEN = 32


def quantize(
    model: str | nn.Module,
    images: str | Path | ImageSet,
    *,
    bits: int = 6,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    avg_bits: float | None = None,
    max_size_mb: float | None = None,
    allocation: str = "fisher",
    target: str = "cpu",
    method: str = DEFAULT_METHOD,
    num_calib: int | None = None,
    seed: int = 0,
    float_layers: tuple[str, ...] = (),
    layer_bits: Mapping[str, tuple[int, int]] | None = None,
    pretrained: bool = True,
    weights: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
) -> Artefact:
    """Quantize a vision transformer after training for one target.

    Args:
        model: A name (`edgevit models` lists them), a transformers folder, ``package:function``,
            or a module (then `preprocessing` is needed unless the module carries timm's
            ``pretrained_cfg``).
        images: Folder, archive or ``.npz`` of images like those the model will see.
        bits: Grid width of weights and activations, 2 to 8; see the next two to set one.
        weight_bits, act_bits: Override `bits` for weights or activations.
        avg_bits: Choose widths per layer; the mean of what is quantized is at most this;
            `weight_bits` or `act_bits` beside it stay the same everywhere.
        max_size_mb: Choose widths of weights per layer so that the engine's files in the bundle,
            its graph and packed weights, take at most so many 10^6 bytes; not counted are the fp32
            reference, golden images and further variants.
        allocation: Criterion of that choice, "fisher" or "nuclear".
        target: Device the bundle is for.
        method: Calibration method.
        num_calib: Number of calibration images, drawn class-balanced; the method's own number
            if left out, or all if there are fewer (noted in the report).
        seed: Seed of everything drawn at random.
        float_layers: Modules or blocks ("blocks.2", shell patterns) that stay in float.
        layer_bits: Module path of a product -> its own (weight bits, activation bits); not beside
            `avg_bits` or `max_size_mb`, which choose them.
        pretrained: False builds the model with random weights, for speed and plumbing.
        weights: Checkpoint file for the named model.
        preprocessing: For a module of your own.
        checkpoint: Folder in which `edgevit-train` keeps the blocks it has trained; the same call
            goes on from there.
        progress: Called with (stage, done, total).

    Raises:
        EdgeViTError: Any of `edgevit.errors`, each saying what to try next.
    """
    from edgevit.calibration.methods import method_named
    from edgevit.targets.registry import target_named

    limits = Limits(
        avg_bits=avg_bits,
        max_size_mb=max_size_mb,
        allocation=allocation,
        fixed_weights=weight_bits is not None,
        fixed_acts=act_bits is not None,
        fixed_layers=bool(layer_bits),
    )
    limits.check()
    check_seed(seed)
    chosen_method, chosen_target = method_named(method), target_named(target)
    chosen_target.check_deployable()
    images = images if isinstance(images, ImageSet) else open_images(images)
    num, notes = _num_calib(num_calib, chosen_method, images)
    w_bits, a_bits = check_widths(common_bits(limits, bits), weight_bits, act_bits)
    recipe = Recipe(
        model=str(model),
        weight_bits=w_bits,
        act_bits=a_bits,
        method=method,
        target=chosen_target.name,
        num_calib=num,
        seed=seed,
        float_layers=float_layers,
        layer_bits={} if layer_bits is None else dict(layer_bits),
    )
    loaded = loaded_model(model, pretrained, weights, seed, preprocessing, progress)
    recipe = replace(recipe, model=loaded.name)
    subject = subject_of(loaded, images, recipe.num_calib, seed, chosen_target, progress)
    artefact = _made(subject, recipe, limits, chosen_target, checkpoint, progress)
    artefact.quantized.notes += notes
    return artefact


def _num_calib(asked: int | None, method: Method, images: ImageSet) -> tuple[int, list[str]]:
    """Return how many images to calibrate on, and a note if there are fewer than the method's."""
    if asked is not None:
        return check_num_calib(asked), []
    if len(images) >= method.num_images:
        return method.num_images, []
    note = f"{len(images)} calibration images instead of {method.num_images}: there are no more"
    return len(images), [note]


def _made(
    subject: Subject,
    recipe: Recipe,
    limits: Limits,
    target: Target,
    checkpoint: str | Path | None,
    progress: Progress,
) -> Artefact:
    """Choose widths if there is a budget, calibrate, and lower."""
    from edgevit.calibration.methods import method_named
    from edgevit.calibration.run import calibrate

    graph = subject.prepared
    notes: list[str] = []
    if limits.are_set:
        recipe, notes = with_widths(recipe, limits, graph, subject.images, target, progress)
    placement = placement_of(recipe, graph, target, recipe.layer_bits)
    quantized = calibrate(
        graph,
        placement,
        subject.images,
        method_named(recipe.method),
        seed=recipe.seed,
        progress=progress,
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )
    quantized.notes += notes
    artefact = _artefact(subject, quantized, recipe, target, progress)
    check_size(artefact.lowered, limits)
    return artefact


def _artefact(
    subject: Subject, quantized: QuantizedGraph, recipe: Recipe, target: Target, progress: Progress
) -> Artefact:
    """Lower the quantized graph, and run the golden images through simulation and float32."""
    variants = _variants(subject, quantized, recipe, target, progress)
    progress("lower and check kernels", 0, 1)
    lowered, reference = target.lower(quantized), target.reference(subject.prepared)
    progress("lower and check kernels", 1, 1)
    pixels, preprocessing = subject.pixels[:NUM_GOLDEN], subject.loaded.preprocessing
    golden: dict[str, npt.NDArray[Any]] = {
        "images": pixels,
        "logits_simulated": logits_of(quantized.forward, preprocessing, pixels),
        "logits_fp32": logits_of(subject.graph.forward, preprocessing, pixels),
        "names": np.array(subject.calibration["names"][:NUM_GOLDEN]),
    }
    for name, variant in variants.items():
        simulated = logits_of(variant.quantized.forward, preprocessing, pixels)
        golden[f"logits_simulated_{name}"] = simulated
    return Artefact(
        quantized=quantized,
        lowered=lowered,
        reference=reference,
        model=subject.loaded,
        recipe=recipe,
        calibration={**subject.calibration, "method": recipe.method, "seed": recipe.seed},
        golden=golden,
        engine=target.engine,
        variants=variants,
    )


def _variants(
    subject: Subject, quantized: QuantizedGraph, recipe: Recipe, target: Target, progress: Progress
) -> dict[str, Variant]:
    """Return the other forms of the model that the target wants measured on the device."""
    from edgevit.calibration.run import Run
    from edgevit.calibration.variants import variant_of

    placements = target.variants(quantized.graph, quantized.placement)
    found = {}
    for done, (name, placement) in enumerate(placements.items()):
        progress("variants", done, len(placements))
        run = Run(
            graph=quantized.graph, placement=placement, images=subject.images, seed=recipe.seed
        )
        made = variant_of(quantized, placement, run)
        found[name] = Variant(quantized=made, lowered=target.lower(made))
        progress("variants", done + 1, len(placements))
    return found
