"""The verb `quantize`: model and images -> graph -> placement -> calibration -> engine's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.artefact import Artefact, logits_of
from edgevit.budgets import Limits, check_size, common_bits, placement_of, with_widths
from edgevit.calibration.progress import Progress, silent
from edgevit.data import ImageSet, Preprocessing
from edgevit.quantizers.spec import check_bits
from edgevit.recipe import DEFAULT_METHOD, Recipe
from edgevit.subject import Subject, check_num_calib, loaded_model, subject_of

if TYPE_CHECKING:
    from torch import nn

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
        avg_bits: Choose widths per layer, of mean at most this; `weight_bits` or `act_bits` beside
            it stay the same everywhere.
        max_size_mb: Choose widths of weights per layer so that graph and weights of the engine
            take at most so many 10^6 bytes.
        allocation: Criterion of that choice, "fisher" or "nuclear".
        target: Device the bundle is for.
        method: Calibration method.
        num_calib: Number of calibration images, drawn class-balanced; the method's own number
            if left out.
        seed: Seed of everything drawn at random.
        float_layers: Module paths (shell patterns) that stay in float.
        layer_bits: Module path of a product -> its own (weight bits, activation bits).
        pretrained: False builds the model with random weights, for speed and plumbing.
        weights: Checkpoint file for the named model.
        preprocessing: For a module of your own.
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
    )
    limits.check()
    chosen_method, chosen_target = method_named(method), target_named(target)
    bits = common_bits(limits, bits)
    recipe = Recipe(
        model=str(model),
        weight_bits=check_bits(bits if weight_bits is None else weight_bits, "--weight-bits"),
        act_bits=check_bits(bits if act_bits is None else act_bits, "--act-bits"),
        method=method,
        target=target,
        num_calib=check_num_calib(chosen_method.num_images if num_calib is None else num_calib),
        seed=seed,
        float_layers=float_layers,
        layer_bits={} if layer_bits is None else dict(layer_bits),
    )
    loaded = loaded_model(model, pretrained, weights, seed, preprocessing, progress)
    recipe = replace(recipe, model=loaded.name)
    subject = subject_of(loaded, images, recipe.num_calib, seed, chosen_target, progress)
    return _made(subject, recipe, limits, chosen_target, progress)


def _made(
    subject: Subject, recipe: Recipe, limits: Limits, target: Target, progress: Progress
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
    )
    quantized.notes += notes
    artefact = _artefact(subject, quantized, recipe, target, progress)
    check_size(artefact.lowered, limits)
    return artefact


def _artefact(
    subject: Subject, quantized: QuantizedGraph, recipe: Recipe, target: Target, progress: Progress
) -> Artefact:
    """Lower the quantized graph, and run the golden images through simulation and float32."""
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
    return Artefact(
        quantized=quantized,
        lowered=lowered,
        reference=reference,
        model=subject.loaded,
        recipe=recipe,
        calibration={**subject.calibration, "method": recipe.method, "seed": recipe.seed},
        golden=golden,
    )
