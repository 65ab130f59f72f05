"""The verb `simulate`: any method on any images, in torch; nothing is lowered or written.

The target `simulation` offers every grid there is, so methods may use grids that no engine here
runs; with another target's name its own grids are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.data import ImageSet, Preprocessing, open_images
from edgevit.data.tasks import CLASSIFY
from edgevit.progress import Progress, no_progress
from edgevit.recipe import DEFAULT_METHOD
from edgevit.runner.measure.scores import predicted_classes
from edgevit.verbs.artefact import Pixels, Simulation, logits_of
from edgevit.verbs.inputs import (
    QuantizationInputs,
    check_seed,
    check_widths,
    data_or_own,
    images_or_own,
    load_or_describe,
    num_calib_of,
    stand_in_note,
    subject_of,
)
from edgevit.verbs.options import Asked, options_from
from edgevit.verbs.validate import open_labelled, require_classes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgevit.calibration.run import Method
    from edgevit.quantizers.quantized_graph import QuantizedGraph
    from edgevit.quantizers.spec import Placement
    from edgevit.report.simulation import Simulated
    from edgevit.zoo import LoadedModel
    from edgevit.zoo.class_names import ClassNames

Images = str | Path | ImageSet
Labels = npt.NDArray[np.int64]
Logits = Sequence[tuple[npt.NDArray[np.float32], Labels]]
"""Logits [B, classes] and labels [B] of each batch, kept while the methods are run in turn."""
_BATCH = 64


def simulate(
    model: str | nn.Module,
    images: Images | None = None,
    *,
    bits: int = 6,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    method: str = DEFAULT_METHOD,
    num_calib: int | None = None,
    seed: int = 0,
    float_layers: tuple[str, ...] = (),
    target: str = "simulation",
    pretrained: bool = True,
    weights: str | Path | None = None,
    weights_key: str = "",
    model_args: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> Simulation:
    """Calibrate with one method and simulate; arguments and errors as in `edgevit.quantize`."""
    from edgevit.zoo.loaded import preprocessing_values

    asked = Asked(
        model=model,
        bits=bits,
        weight_bits=weight_bits,
        act_bits=act_bits,
        method=method,
        num_calib=num_calib,
        seed=seed,
        float_layers=float_layers,
        target=target,
        pretrained=pretrained,
        weights=weights,
        weights_key=weights_key,
        model_args=model_args or {},
        preprocessing=preprocessing_values(preprocessing),
    )
    case = _case(asked, images, (method,), None, progress)
    return Simulation(
        quantized=case.quantized(method, progress),
        graph=case.subject.prepared,
        preprocessing=case.subject.loaded.preprocessing,
    )


def compare_methods(
    model: str | nn.Module | None,
    images: Images | None = None,
    data: Images | None = None,
    *,
    methods: Sequence[str] = (),
    recipe: str | Path | None = None,
    bits: int | None = None,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    num: int | None = None,
    labels: bool = True,
    num_calib: int | None = None,
    seed: int | None = None,
    float_layers: tuple[str, ...] | None = None,
    layer_bits: Mapping[str, tuple[int, int]] | None = None,
    target: str = "simulation",
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    classes: ClassNames | None = None,
    class_order: str | None = None,
    trust_code: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Simulate methods on the same images; return the report of `edgevit.report.simulation`.

    Args:
        model, images, recipe, bits, weight_bits, act_bits, num_calib, seed, float_layers,
        layer_bits, pretrained, weights, weights_key, model_args, preprocessing, classes,
        class_order, trust_code, progress: As for `edgevit.quantize`.
        data: The images to compare on; None takes those that come with an embedded model. Without
            class folders there is no accuracy, but agreement and KL.
        methods: Names of `edgevit methods`; the recipe's or "edgevit" if there are none.
        num: Use only this many of them, drawn class-balanced with `seed`.
        labels: False leaves class folders out of account.
        target: Whose grids are used; "simulation" has all.

    Raises:
        EdgeViTError: Any of `edgevit.errors`, each saying what to try next; there are no images
            to compare on (EV250).
    """
    from edgevit.report.simulation import simulation_report
    from edgevit.zoo.class_names import Naming
    from edgevit.zoo.loaded import preprocessing_values

    asked = options_from(
        recipe,
        budget=False,
        model=model,
        bits=bits,
        weight_bits=weight_bits,
        act_bits=act_bits,
        method=methods[0] if methods else None,
        num_calib=num_calib,
        seed=seed,
        float_layers=float_layers,
        layer_bits=layer_bits,
        target=target,
        pretrained=pretrained,
        weights=weights,
        weights_key=weights_key,
        model_args=model_args,
        preprocessing=None if preprocessing is None else preprocessing_values(preprocessing),
        classes=classes,
        class_order=class_order,
        trust_code=trust_code,
    )
    with asked.blamed():
        names = tuple(dict.fromkeys(methods)) or (asked.method,)
        data = data_or_own(data, asked.model)

        def shown(loaded: LoadedModel) -> ImageSet:
            require_classes(loaded.num_classes if loaded.task == CLASSIFY else None)
            if labels:
                naming = Naming(names=loaded.classes, order=asked.class_order or None)
                return open_labelled(data, naming, loaded.num_classes, num, asked.seed)
            found = data if isinstance(data, ImageSet) else open_images(data)
            return found if num is None else found.subset(num, asked.seed, option="--num")

        case = _case(asked, images, names, shown, progress)
        forward = case.subject.graph.forward
        fp32 = [(case.logits(forward, pixels), found) for pixels, found in case.batches()]
        rows = [_simulate(case, name, fp32, progress) for name in names]
    return simulation_report(case.head(), rows, _right(fp32), skipped=case.skipped)


@dataclass(frozen=True, kw_only=True)
class _Case:
    """The case that all methods have in common: the model, its grids, the images.

    Args:
        asked: The choices.
        widths: Of weights and activations.
        subject: Model, graph and calibration images, as many as the method with the most takes.
        placement: The grids.
        counts: Method -> number of calibration images, and notes about it.
        shown: The images to compare on; None for none.
    """

    asked: Asked
    widths: tuple[int, int]
    subject: QuantizationInputs
    placement: Placement
    counts: Mapping[str, tuple[int, list[str]]]
    shown: ImageSet | None

    def quantized(self, method: str, progress: Progress) -> QuantizedGraph:
        """Calibrate on the first of the images, as many as are the method's own."""
        from edgevit.calibration.methods import method_named
        from edgevit.calibration.run import calibrate

        num, notes = self.counts[method]
        quantized = calibrate(
            self.subject.prepared,
            self.placement,
            self.subject.images[:num],
            method_named(method),
            seed=self.asked.seed,
            progress=progress,
        )
        quantized.notes += notes
        return quantized

    def logits(
        self, forward: Callable[[Tensor], Tensor], pixels: Pixels
    ) -> npt.NDArray[np.float32]:
        """Return logits [B, classes] of pixels uint8 [B, H, W, 3]."""
        return logits_of(forward, self.subject.loaded.preprocessing, pixels)

    def batches(self) -> Iterator[tuple[Pixels, Labels]]:
        """Yield pixels uint8 [B, H, W, 3] and labels [B], -1 where there is none."""
        if self.shown is not None:
            for pixels, labels, _ in self.shown.batches(self.subject.loaded.preprocessing, _BATCH):
                yield pixels, labels

    @property
    def skipped(self) -> list[str]:
        """Names of damaged images that were left out."""
        return [] if self.shown is None else [str(name) for name in self.shown.skipped]

    def head(self) -> dict[str, Any]:
        """Return what the report says of the model."""
        loaded, asked = self.subject.loaded, self.asked
        return {
            "model": loaded.name,
            "parameters": loaded.parameters,
            "flops": loaded.flops,
            "target": asked.target,
            "bits": {"weights": self.widths[0], "activations": self.widths[1]},
            "layer_bits": {name: list(pair) for name, pair in asked.layer_bits.items()},
            "float_layers": list(asked.float_layers),
            "seed": asked.seed,
        }


def _case(
    asked: Asked,
    images: Images | None,
    names: Sequence[str],
    shown: Callable[[LoadedModel], ImageSet] | None,
    progress: Progress,
) -> _Case:
    """Check what can be checked at once, then load the model, all images and the grids."""
    from edgevit.calibration.methods import method_named
    from edgevit.targets.registry import target_named
    from edgevit.zoo.class_names import check_naming, name_classes, with_names

    check_naming(*asked.stated)
    methods: list[Method] = [method_named(name) for name in names]
    target = target_named(asked.target)
    check_seed(asked.seed)
    widths = check_widths(asked.bits, asked.weight_bits, asked.act_bits)
    images = images_or_own(images, asked.model, any_photographs=True)
    images = images if isinstance(images, ImageSet) else open_images(images)
    counts = {method.name: num_calib_of(asked.num_calib, method, images) for method in methods}
    loaded = load_or_describe(
        asked.model,
        asked.pretrained,
        asked.weights,
        asked.seed,
        asked.preprocessing or None,
        progress,
        weights_key=asked.weights_key,
        model_args=asked.model_args,
    )
    loaded = with_names(loaded, name_classes(loaded, *asked.stated, asked.weights))
    counts = {
        name: (num, [*loaded.notes, *stand_in_note(images, num, loaded), *notes])
        for name, (num, notes) in counts.items()
    }
    judged = None if shown is None else shown(loaded)
    most = max(num for num, _ in counts.values())
    subject = subject_of(loaded, images, most, asked.seed, target, progress)
    others = asked.differences(loaded, subject.calibration)
    counts = {name: (num, [*notes, *others]) for name, (num, notes) in counts.items()}
    placement = target.place(
        subject.prepared,
        weight_bits=widths[0],
        act_bits=widths[1],
        float_layers=asked.float_layers,
        layer_bits=asked.layer_bits,
    )
    asked.check_widths_matter(subject.prepared, placement)
    return _Case(
        asked=asked,
        widths=widths,
        subject=subject,
        placement=placement,
        counts=counts,
        shown=judged,
    )


def _simulate(case: _Case, method: str, fp32: Logits, progress: Progress) -> Simulated:
    """Calibrate one method and run it beside fp32's logits, batch by batch."""
    from edgevit.report.simulation import Simulated

    quantized = case.quantized(method, progress)
    num_calib, _ = case.counts[method]
    row = Simulated(method=method, num_calib=num_calib, warnings=quantized.notes)
    total = sum(len(labels) for _, labels in fp32)
    for (pixels, labels), (exact, _) in zip(case.batches(), fp32, strict=True):
        row.tally.add(exact, case.logits(quantized.forward, pixels), labels)
        progress(f"simulate {method}", row.tally.num_images, total)
    return row


def _right(fp32: Logits) -> int | None:
    """Return how many images fp32 gets right; None where one has no label."""
    if any((labels < 0).any() for _, labels in fp32):
        return None
    return sum(int((predicted_classes(logits) == labels).sum()) for logits, labels in fp32)
