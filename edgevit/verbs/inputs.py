"""Loads the inputs of `quantize`: a model as a canonical graph, and images to calibrate on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.data import ImageSet, Preprocessing, open_images
from edgevit.data.photographs import is_stand_in, photographs
from edgevit.errors import UnsupportedError, UsageError
from edgevit.progress import Progress
from edgevit.quantizers.spec import check_bits
from edgevit.verbs.artefact import Pixels, tensor_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgevit.calibration.run import Method
    from edgevit.graph.model import Graph
    from edgevit.targets.base import Target
    from edgevit.zoo import LoadedModel

SMALLEST_PHOTOGRAPH = 64
# benchmarks/results/calibration_images.csv, seed 0
STAND_IN_COST = (
    "photographs that come with EdgeViT, as --calib names no images; on a real DeiT-Tiny at W6A6 "
    "(400 real images) KL to fp32 was 0.048 so, 0.035 with 32 images like the task's, top-1 77.0 "
    "and 75.5 %"
)


@dataclass(frozen=True, kw_only=True)
class QuantizationInputs:
    """A model and the images it is calibrated on, ready to be quantized.

    Args:
        loaded: The model as it was found, its multiply-adds counted from the graph.
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
) -> QuantizationInputs:
    """Read the images and capture the model's graph."""
    from edgevit.graph.capture import graph_from_module
    from edgevit.graph.multiply_adds import multiply_adds

    pixels, calibration = _calibration_pixels(images, loaded.preprocessing, num, seed)
    progress("capture graph", 0, 1)
    size = loaded.preprocessing.input_size
    graph = graph_from_module(loaded.model, size, outputs=loaded.outputs)
    prepared = target.prepare(graph)
    target.check_graph(prepared)
    _check_products(graph)
    progress("capture graph", 1, 1)
    return QuantizationInputs(
        loaded=replace(loaded, flops=multiply_adds(graph), notes=(*loaded.notes, *graph.notes)),
        graph=graph,
        prepared=prepared,
        pixels=pixels,
        images=tensor_of(loaded.preprocessing.normalize(pixels)),
        calibration=calibration,
    )


def _check_products(graph: Graph) -> None:
    """Refuse a model in which there is nothing to quantize (EV323)."""
    if not any(gemm.weight is not None for gemm in graph.gemms):
        raise UnsupportedError(
            "EV323",
            "The model has nothing to quantize.",
            where="the model's products",
            why="There is no linear layer and no convolution with constant weights in what its "
            "outputs are computed from.",
            try_next="Give a model with such layers.",
        )


def load_or_describe(
    model: str | nn.Module,
    pretrained: bool,
    weights: str | Path | None,
    seed: int,
    preprocessing: Preprocessing | Mapping[str, Any] | None,
    progress: Progress,
    *,
    weights_key: str = "",
    model_args: Mapping[str, Any] | None = None,
    task: str | None = None,
) -> LoadedModel:
    """Return the model of this name, or the module given, with its preprocessing."""
    from edgevit.zoo import load_model, loaded_from_module

    progress("load model", 0, 1)
    if isinstance(model, str):
        path = None if weights is None else Path(weights)
        loaded = load_model(
            model,
            pretrained=pretrained,
            weights=path,
            seed=seed,
            weights_key=weights_key,
            model_args=model_args,
            preprocessing=preprocessing,
            task=task,
        )
    else:
        loaded = loaded_from_module(model, preprocessing, task=task)
    progress("load model", 1, 1)
    return loaded


def check_seed(seed: int) -> int:
    """Return `seed` if a generator can be seeded with it.

    Raises:
        UsageError: It is negative or above 2^63 - 1 (EV220).
    """
    if not 0 <= seed < 1 << 63:
        raise UsageError(
            "EV220",
            f"{seed} is not a seed.",
            where="--seed",
            why="A seed is a whole number from 0 to 2^63 - 1.",
            try_next="--seed 0",
        )
    return seed


def check_widths(bits: int, weight_bits: int | None, act_bits: int | None) -> tuple[int, int]:
    """Return (weight bits, activation bits); `bits` stands for what is None.

    Raises:
        UsageError: A width EdgeViT has no grids for (EV201), under the name the user gave it.
    """
    weights = check_bits(bits, "--bits") if weight_bits is None else weight_bits
    acts = check_bits(bits, "--bits") if act_bits is None else act_bits
    return check_bits(weights, "--weight-bits"), check_bits(acts, "--act-bits")


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


def num_calib_of(asked: int | None, method: Method, images: ImageSet) -> tuple[int, list[str]]:
    """Return how many images to calibrate on, and a note if there are fewer than the method's."""
    if asked is not None:
        return check_num_calib(asked), []
    if len(images) >= method.num_images:
        return method.num_images, []
    note = f"{len(images)} calibration images instead of {method.num_images}: there are no more"
    return len(images), [note]


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


def images_or_own(
    images: str | Path | ImageSet | None, model: str | nn.Module, *, any_photographs: bool = False
) -> str | Path | ImageSet:
    """Return the images given, else those that come with an embedded model.

    Args:
        images: What the user gave.
        model: A name, or a module.
        any_photographs: Let the photographs that come with EdgeViT stand in for other models.

    Raises:
        UsageError: There are none (EV205), or the model has no known name.
    """
    if images is not None:
        return images
    if isinstance(model, str):
        from edgevit.zoo import EMBEDDED_MODELS, reference_images
        from edgevit.zoo.loading import check_name

        if model in EMBEDDED_MODELS:
            return reference_images("calibration")
        check_name(model)  # a mistyped name is the likelier mistake
    if any_photographs:
        return photographs()
    raise _no_images("EdgeViT never calibrates on random data; ranges would be meaningless.")


def stand_in_note(images: ImageSet, num: int, loaded: LoadedModel) -> list[str]:
    """Return the warning that photographs of EdgeViT's own stood in for images of the task.

    Raises:
        UsageError: The model's input is too small for photographs to be like it (EV205).
    """
    if not is_stand_in(images):
        return []
    side = min(loaded.preprocessing.input_size[1:])
    if side < SMALLEST_PHOTOGRAPH:
        raise _no_images(
            f"The photographs that come with EdgeViT stand in for inputs of {SMALLEST_PHOTOGRAPH} "
            f"pixels and more; this model takes {side}."
        )
    return [f"calibrated on {num} crops of the {STAND_IN_COST}"]


def _no_images(why: str) -> UsageError:
    return UsageError(
        "EV205",
        "Calibration images are needed.",
        where="--calib",
        why=why,
        try_next="--calib DIR with a few dozen images like those the model will see.",
    )


def data_or_own(
    data: str | Path | ImageSet | None, model: str | nn.Module
) -> str | Path | ImageSet:
    """Return the images given, else the test images that come with an embedded model.

    Raises:
        UsageError: There are none (EV250), or the model has no known name.
    """
    if data is not None:
        return data
    if isinstance(model, str):
        from edgevit.zoo import EMBEDDED_MODELS, reference_images
        from edgevit.zoo.loading import check_name

        if model in EMBEDDED_MODELS:
            return reference_images("test")
        check_name(model)  # a mistyped name is the likelier mistake
    raise UsageError(
        "EV250",
        "Images to compare on are needed.",
        where="--data",
        why="fp32 and simulation are compared image by image.",
        try_next="--data DIR: class folders for accuracy, or any folder of images for agreement "
        "and KL alone.",
    )
