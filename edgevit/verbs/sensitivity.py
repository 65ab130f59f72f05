"""The verb `sensitivity`: what each layer of a model costs when it is quantized."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.data import ImageSet, Preprocessing
from edgevit.data.tasks import CLASSIFY
from edgevit.errors import DataError, EdgeViTError
from edgevit.progress import Progress, no_progress
from edgevit.verbs.artefact import tensor_of
from edgevit.verbs.inputs import (
    QuantizationInputs,
    check_num_calib,
    check_seed,
    check_widths,
    images_or_own,
    load_or_describe,
    subject_of,
)
from edgevit.verbs.options import SIMULATE
from edgevit.verbs.validate import open_labelled, require_classes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgevit.calibration.run import Method
    from edgevit.calibration.statistics.sensitivity import Effect, Noise
    from edgevit.quantizers.quantized_graph import QuantizedGraph
    from edgevit.quantizers.spec import Placement
    from edgevit.targets.base import Target
    from edgevit.zoo.class_names import ClassNames

NUM_IMAGES = 200
_BATCH = 100
Row = dict[str, Any]


def sensitivity(
    model: str | nn.Module,
    images: str | Path | ImageSet | None = None,
    *,
    bits: int = 6,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    data: str | Path | ImageSet | None = None,
    num: int | None = NUM_IMAGES,
    target: str = "cpu",
    method: str | None = None,
    num_calib: int = 32,
    seed: int = 0,
    float_layers: tuple[str, ...] = (),
    pretrained: bool = True,
    weights: str | Path | None = None,
    weights_key: str = "",
    model_args: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    classes: ClassNames | None = None,
    class_order: str | None = None,
    progress: Progress = no_progress,
) -> list[Row]:
    """Return one row per layer in execution order (see docs/sensitivity.md for the columns).

    Args:
        model, images, target, seed, float_layers, pretrained, weights, weights_key, model_args,
            preprocessing, classes, class_order, progress: As for `quantize`.
        bits, weight_bits, act_bits: Widths of every layer.
        data: Labelled images; without them the columns of accuracy are None.
        num: Use only this many of them, drawn class-balanced; None for all.
        method: Calibrate with this method; None for grids that suit each layer on its own, without
            what methods do to make one layer repair the errors of others.
        num_calib: Number of calibration images.

    Raises:
        EdgeViTError: Any of `edgevit.errors`, each saying what to try next.
    """
    from edgevit.calibration.methods import method_named
    from edgevit.targets.registry import target_named
    from edgevit.zoo.class_names import check_naming, name_classes

    check_naming(classes, class_order)
    chosen = target_named(target)
    chosen_method = None if method is None else method_named(method)
    check_seed(seed)
    w_bits, a_bits = check_widths(bits, weight_bits, act_bits)
    check_num_calib(num_calib)
    images = images_or_own(images, model)
    loaded = load_or_describe(
        model,
        pretrained,
        weights,
        seed,
        preprocessing,
        progress,
        weights_key=weights_key,
        model_args=model_args,
    )
    judged = None
    if data is not None:
        require_classes(loaded.num_classes if loaded.task == CLASSIFY else None)
        naming = name_classes(loaded, classes, class_order, weights)
        judged = open_labelled(data, naming, loaded.num_classes, num, seed)
        _check_labelled(judged)
    subject = subject_of(loaded, images, num_calib, seed, chosen, progress)
    widths = {"weight_bits": w_bits, "act_bits": a_bits}
    quantized = _quantize(subject, chosen, chosen_method, widths, float_layers, seed, progress)
    return _rows(subject, quantized, judged, seed, progress)


def _check_labelled(images: ImageSet) -> None:
    """Refuse images without labels: every prediction would count as wrong.

    Raises:
        DataError: They are in no class folders (EV111).
    """
    if not images.classes:
        raise DataError(
            "EV111",
            "The images have no labels.",
            where=f"--data {images.location}",
            why="They are not in class folders, so there is no accuracy to measure.",
            try_next="Give one folder per class, or leave out --data for the columns without it.",
        )


def _quantize(
    subject: QuantizationInputs,
    target: Target,
    method: Method | None,
    widths: dict[str, int],
    float_layers: tuple[str, ...],
    seed: int,
    progress: Progress,
) -> QuantizedGraph:
    """Calibrate with a method, or give each layer the grids that suit it on its own."""
    from edgevit.calibration.mixed.candidates import LayerBits, candidates
    from edgevit.calibration.run import Run, calibrate

    graph, images = subject.prepared, subject.images

    def place(layer_bits: LayerBits) -> Placement:
        return target.place(
            graph,
            weight_bits=widths["weight_bits"],
            act_bits=widths["act_bits"],
            float_layers=float_layers,
            layer_bits=layer_bits,
        )

    if method is not None:
        with _advise_here():
            return calibrate(graph, place({}), images, method, seed=seed, progress=progress)
    run = Run(graph=graph.clone(), placement=place({}), images=images, seed=seed, progress=progress)
    pair = widths["weight_bits"], widths["act_bits"]
    found = candidates(run, place, pair)
    return found.quantized({gemm.name: pair for gemm in found.gemms})


@contextmanager
def _advise_here() -> Iterator[None]:
    """Let errors inside the block advise what this verb can do by itself: simulate every grid."""
    try:
        yield
    except EdgeViTError as error:
        error.try_next = error.try_next.replace(SIMULATE, "--target simulation")
        raise


def _rows(
    subject: QuantizationInputs,
    quantized: QuantizedGraph,
    judged: ImageSet | None,
    seed: int,
    progress: Progress,
) -> list[Row]:
    from edgevit.calibration.run import MEMORY_BYTES
    from edgevit.calibration.statistics.ranges import images_per_batch
    from edgevit.calibration.statistics.sensitivity import layer_noise, whole_effects

    batch_size = images_per_batch(quantized.graph, subject.images[:1], MEMORY_BYTES // 3)
    noise = layer_noise(
        quantized, subject.images, batch_size=batch_size, seed=seed, progress=progress
    )
    effects: dict[str, tuple[Effect, Effect]] = {}
    if judged is not None:
        images, preprocessing = judged, subject.loaded.preprocessing

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for pixels, labels, _ in images.batches(preprocessing, min(_BATCH, 4 * batch_size)):
                yield tensor_of(preprocessing.normalize(pixels)), tensor_of(labels)

        effects = whole_effects(quantized, batches, progress)
    rows = []
    for gemm in quantized.graph.gemms:
        if gemm.name in quantized.layers:
            row = _head(quantized, gemm.name)
            rows.append({**row, **_measure(noise[gemm.name], gemm.name, effects)})
    return rows


def _head(quantized: QuantizedGraph, name: str) -> Row:
    """Return what is known of a layer before anything is measured."""
    gemm, options = quantized.graph.gemm(name), quantized.placement.options
    return {
        "module": gemm.module,
        "kind": gemm.kind,
        "parameters": 0 if gemm.weight is None else quantized.graph.weight(gemm).numel(),
        "left_role": gemm.left.role.value,
        "right_role": gemm.right.role.value,
        "left_bits": options[gemm.left.name][0].bits,
        "right_bits": options[gemm.right.name][0].bits,
    }


def _measure(noise: Noise, name: str, effects: dict[str, tuple[Effect, Effect]]) -> Row:
    row: Row = {
        "left_sqnr_db": noise.sqnr_db(0),
        "right_sqnr_db": noise.sqnr_db(1),
        "fisher_error": noise.fisher,
    }
    only, rest = effects.get(name, (None, None))
    ends = {end: effects[end][0] if effects else None for end in ("float32", "quantized")}
    for key, effect in {"only": only, "all_but": rest, **ends}.items():
        row[f"top1_{key}"] = None if effect is None else effect.top1
        row[f"kl_{key}"] = None if effect is None else effect.kl
    return row
