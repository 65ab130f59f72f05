"""The verb `quantize`: model and images -> graph -> placement -> calibration -> engine's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.artefact import Artefact, Pixels, logits_of, tensor_of
from edgevit.calibration.progress import Progress, silent
from edgevit.data import ImageSet, Preprocessing, open_images
from edgevit.errors import UsageError
from edgevit.recipe import DEFAULT_METHOD, Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgevit.graph.model import Graph
    from edgevit.quantizers.simulation import QuantizedGraph
    from edgevit.targets.base import Target
    from edgevit.zoo import LoadedModel

NUM_GOLDEN = 32


def quantize(
    model: str | nn.Module,
    images: str | Path | ImageSet,
    *,
    bits: int = 6,
    weight_bits: int | None = None,
    act_bits: int | None = None,
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
    from edgevit.calibration.run import calibrate
    from edgevit.quantizers.spec import check_bits
    from edgevit.targets.registry import target_named

    chosen_method, chosen_target = method_named(method), target_named(target)
    w_bits = check_bits(bits if weight_bits is None else weight_bits, "--weight-bits")
    a_bits = check_bits(bits if act_bits is None else act_bits, "--act-bits")
    num = check_num_calib(chosen_method.num_images if num_calib is None else num_calib)
    loaded = loaded_model(model, pretrained, weights, seed, preprocessing, progress)
    recipe = Recipe(
        model=loaded.name,
        weight_bits=w_bits,
        act_bits=a_bits,
        method=method,
        target=target,
        num_calib=num,
        seed=seed,
        float_layers=float_layers,
        layer_bits={} if layer_bits is None else dict(layer_bits),
    )
    subject = subject_of(loaded, images, num, seed, chosen_target, progress)
    placement = chosen_target.place(
        subject.prepared,
        weight_bits=w_bits,
        act_bits=a_bits,
        float_layers=float_layers,
        layer_bits=recipe.layer_bits,
    )
    quantized = calibrate(
        subject.prepared, placement, subject.images, chosen_method, seed=seed, progress=progress
    )
    return _artefact(subject, quantized, recipe, chosen_target, progress)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model and the images it is calibrated on, ready to be quantized.

    Args:
        loaded: The model as it was found.
        graph: Its canonical graph.
        prepared: The same in the form the target prefers.
        pixels: uint8 [N, H, W, 3].
        images: float32 [N, 3, H, W], the pixels normalised.
        calibration: What the manifest keeps of the images.
    """

    loaded: LoadedModel
    graph: Graph
    prepared: Graph
    pixels: Pixels
    images: Tensor
    calibration: dict[str, Any]


def subject_of(
    loaded: LoadedModel,
    images: str | Path | ImageSet,
    num: int,
    seed: int,
    target: Target,
    progress: Progress,
) -> Subject:
    """Read the images and capture the model's graph."""
    from edgevit.graph.capture import graph_from_module

    pixels, calibration = _calibration_pixels(images, loaded.preprocessing, num, seed)
    progress("capture graph", 0, 1)
    graph = graph_from_module(loaded.model, loaded.preprocessing.input_size)
    progress("capture graph", 1, 1)
    return Subject(
        loaded=loaded,
        graph=graph,
        prepared=target.prepare(graph),
        pixels=pixels,
        images=tensor_of(loaded.preprocessing.normalize(pixels)),
        calibration=calibration,
    )


def loaded_model(
    model: str | nn.Module,
    pretrained: bool,
    weights: str | Path | None,
    seed: int,
    preprocessing: Preprocessing | None,
    progress: Progress,
) -> LoadedModel:
    """Return the model of this name, or the module given, with its preprocessing."""
    from edgevit.zoo import load_model, loaded_from_module

    progress("load model", 0, 1)
    if isinstance(model, str):
        path = None if weights is None else Path(weights)
        loaded = load_model(model, pretrained=pretrained, weights=path, seed=seed)
    else:
        loaded = loaded_from_module(model, preprocessing)
    progress("load model", 1, 1)
    return loaded


def check_num_calib(num: int) -> int:
    """Return `num` if it is a number of images.

    Raises:
        UsageError: It is below one (EV204).
    """
    if num < 1:
        raise UsageError(
            "EV204",
            f"{num} calibration images are too few.",
            where="--num-calib",
            why="At least one image is needed to see any activation.",
            try_next="--num-calib 32",
        )
    return num


def _calibration_pixels(
    images: str | Path | ImageSet, preprocessing: Preprocessing, num: int, seed: int
) -> tuple[Pixels, dict[str, Any]]:
    """Return uint8 [N, H, W, 3] and what the manifest keeps of the images."""
    image_set = images if isinstance(images, ImageSet) else open_images(images)
    subset = image_set.subset(num, seed)
    blocks, names = [], []
    for pixels, _, batch_names in subset.batches(preprocessing, 32):
        blocks.append(pixels)
        names += list(batch_names)
    return np.concatenate(blocks), {
        "num_images": len(names),
        "names": names,
        "sha256": list(subset.sha256s()),
        "skipped": [str(name) for name in subset.skipped],
    }


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
