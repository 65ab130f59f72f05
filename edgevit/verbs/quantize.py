"""The verb `quantize`: model and images -> graph -> placement -> calibration -> engine's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bundle.manifest import MAIN_VARIANT
from edgevit.data import ImageSet, Preprocessing, open_images
from edgevit.data.tasks import CLASSIFY
from edgevit.errors import check_together
from edgevit.progress import Progress, no_progress
from edgevit.recipe import Recipe, digest_of
from edgevit.verbs.artefact import Artefact, Variant
from edgevit.verbs.budget import BudgetLimits, check_size, common_bits, placement_of, with_widths
from edgevit.verbs.golden import check_golden, golden_arrays
from edgevit.verbs.honoured import with_judged_kernels
from edgevit.verbs.inputs import (
    QuantizationInputs,
    check_num_calib,
    check_seed,
    check_widths,
    images_or_own,
    load_or_describe,
    num_calib_of,
    stand_in_note,
    subject_of,
)
from edgevit.verbs.options import Asked, options_from
from edgevit.verbs.wider import wider_note

if TYPE_CHECKING:
    from torch import nn

    from edgevit.quantizers.quantized_graph import QuantizedGraph
    from edgevit.targets.base import Target
    from edgevit.zoo.class_names import ClassNames


def quantize(
    model: str | nn.Module | None,
    images: str | Path | ImageSet | None = None,
    *,
    recipe: str | Path | None = None,
    bits: int | None = None,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    avg_bits: float | None = None,
    max_size_mb: float | None = None,
    allocation: str = "fisher",
    target: str | None = None,
    method: str | None = None,
    num_calib: int | None = None,
    seed: int | None = None,
    float_layers: tuple[str, ...] | None = None,
    layer_bits: Mapping[str, tuple[int, int]] | None = None,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    task: str | None = None,
    trust_code: bool = False,
    checkpoint: str | Path | None = None,
    classes: ClassNames | None = None,
    class_order: str | None = None,
    allow_fallback: bool = False,
    compare_act_bits: bool = False,
    progress: Progress = no_progress,
) -> Artefact:
    """Quantize a vision transformer after training for one target.

    Args:
        model: A name (`edgevit models` lists them), a transformers folder, ``package:function``,
            or a module (then `preprocessing` is needed unless the module carries timm's
            ``pretrained_cfg``). None takes the recipe's.
        images: Folder, archive or ``.npz`` of images like those the model will see; None takes
            those that come with an embedded model, and for others crops of photographs that come
            with EdgeViT, with a warning in the report.
        recipe: A TOML file, such as a bundle's ``recipe.toml``, that says what is left out below;
            see `edgevit.recipe.Recipe` for its keys. Weights and images of other hashes than it
            has are noted in the report.
        bits: Grid width of weights and activations, 2 to 8; 6 if nothing says it.
        weight_bits, act_bits: Override `bits` for weights or activations.
        avg_bits: Choose widths per layer; the mean of what is quantized is at most this;
            `weight_bits` or `act_bits` beside it stay the same everywhere.
        max_size_mb: Choose widths of weights per layer so that the engine's files in the bundle,
            its graph and packed weights, take at most so many 10^6 bytes; not counted are the fp32
            reference, golden images and further variants.
        allocation: Criterion of that choice, "fisher" or "nuclear".
        target: Device the bundle is for; "cpu" if nothing says it.
        method: Calibration method; "edgevit" if nothing says it.
        num_calib: Number of calibration images, drawn class-balanced; the method's own number
            if left out, or all if there are fewer (noted in the report).
        seed: Seed of everything drawn at random; 0 if nothing says it.
        float_layers: Modules or blocks ("blocks.2", shell patterns) that stay in float.
        layer_bits: Module path of a product -> its own (weight bits, activation bits); not beside
            `avg_bits` or `max_size_mb`, which choose them.
        pretrained: False builds the model with random weights, for speed and plumbing.
        weights: Checkpoint file for the named model.
        weights_key: Which of several state dicts in that file, such as ``"model_ema"``.
        model_args: Arguments of the named model's constructor, such as ``{"img_size": 288}``; what
            a checkpoint's shapes show need not be given.
        preprocessing: All of it, or some of ``input_size``, ``mean``, ``std``, ``crop_pct`` and
            ``interpolation`` by name, for a module of your own or a named model.
        task: "classify", "embed", "segment", "detect" or "features"; left out, the model's head
            says it (see docs/tasks.md).
        trust_code: Import a ``package:function`` that the recipe names; a name given as `model`
            needs no leave.
        checkpoint: Folder in which `edgevit-train` keeps the blocks it has trained; the same call
            goes on from there.
        classes: Class names in the order of the model's outputs, or a file of them; left out, the
            model's own, or those of a file beside `weights` (see docs/validate.md).
        class_order: "torchvision" or "timm": how the class folders were numbered in training, for
            a model without names; kept in the bundle for `validate`.
        allow_fallback: Keep quantized products that an RTX card's compiler does not run in their
            precision, with a counted warning; about this run, so a recipe does not say it.
        compare_act_bits: Where activations are narrower than what the target computes in, say in
            the notes what the target's own width would give; takes some seconds more.
        progress: Called with (stage, done, total).

    Raises:
        EdgeViTError: Any of `edgevit.errors`, each saying what to try next.
    """
    from edgevit.zoo.loaded import preprocessing_values

    asked = options_from(
        recipe,
        budget=avg_bits is not None,
        model=model,
        bits=bits,
        weight_bits=weight_bits,
        act_bits=act_bits,
        target=target,
        method=method,
        num_calib=num_calib,
        seed=seed,
        float_layers=float_layers,
        layer_bits=layer_bits,
        pretrained=pretrained,
        weights=weights,
        weights_key=weights_key,
        model_args=model_args,
        preprocessing=None if preprocessing is None else preprocessing_values(preprocessing),
        task=task,
        classes=classes,
        class_order=class_order,
        trust_code=trust_code,
    )
    limits = BudgetLimits(
        avg_bits=avg_bits,
        max_size_mb=max_size_mb,
        allocation=allocation,
        fixed_weights=weight_bits is not None,
        fixed_acts=act_bits is not None,
        fixed_layers=asked.fixed_layers,
    )
    with asked.blamed():
        made = _quantize(asked, images, limits, checkpoint, compare_act_bits, progress)
        return with_judged_kernels(made, allow_fallback=allow_fallback)


def _quantize(
    asked: Asked,
    images: str | Path | ImageSet | None,
    limits: BudgetLimits,
    checkpoint: str | Path | None,
    compare_act_bits: bool,
    progress: Progress,
) -> Artefact:
    """Check what can be checked at once, then load, calibrate and lower."""
    from edgevit.calibration.methods import method_named
    from edgevit.targets.registry import target_named
    from edgevit.zoo.class_names import name_classes, with_names

    check_together(_checks(asked, images, limits))
    method, target = method_named(asked.method), target_named(asked.target)
    images = images_or_own(images, asked.model, any_photographs=True)
    images = images if isinstance(images, ImageSet) else open_images(images)
    num, notes = num_calib_of(asked.num_calib, method, images)
    common = common_bits(limits, asked.bits)
    widths = check_widths(common, asked.weight_bits, asked.act_bits)
    loaded = load_or_describe(
        asked.model,
        asked.pretrained,
        asked.weights,
        asked.seed,
        asked.preprocessing or None,
        progress,
        weights_key=asked.weights_key,
        model_args=asked.model_args,
        task=asked.task or None,
    )
    naming = name_classes(loaded, *asked.stated, asked.weights)
    loaded = with_names(loaded, naming)
    notes = stand_in_note(images, num, loaded) + notes
    subject = subject_of(loaded, images, num, asked.seed, target, progress)
    recipe = _recipe(asked, subject, widths, num, target)
    artefact = _make(subject, asked, recipe, limits, target, checkpoint, progress)
    if compare_act_bits:
        artefact.quantized.notes += wider_note(
            artefact.quantized, artefact.recipe, subject, target, progress
        )
    artefact.quantized.notes += [
        *subject.loaded.notes,
        *naming.notes,
        *notes,
        *asked.differences(loaded, subject.calibration),
    ]
    return replace(artefact, naming=naming)


def _checks(
    asked: Asked,
    images: str | Path | ImageSet | None,
    limits: BudgetLimits,
) -> list[Callable[[], object]]:
    """Return what can be checked in seconds: all of it is reported before the long work."""
    from edgevit.calibration.methods import method_named
    from edgevit.targets.registry import target_named
    from edgevit.zoo.class_names import check_naming
    from edgevit.zoo.loading import check_obtainable
    from edgevit.zoo.tasks import check_task

    def check_bits_asked() -> None:
        limits.check()
        check_widths(common_bits(limits, asked.bits), asked.weight_bits, asked.act_bits)

    def check_images() -> None:
        found = images_or_own(images, asked.model, any_photographs=True)
        if not isinstance(found, ImageSet):
            open_images(found)

    def check_model() -> None:
        if isinstance(asked.model, str):
            weights = None if asked.weights is None else Path(asked.weights)
            check_obtainable(
                asked.model,
                pretrained=asked.pretrained,
                weights=weights,
                task=asked.task or None,
            )

    checks = (
        lambda: check_naming(*asked.stated),
        lambda: asked.task and check_task(asked.task),
        lambda: check_seed(asked.seed),
        lambda: method_named(asked.method),
        lambda: target_named(asked.target).check_deployable(),
        check_images,
        lambda: asked.num_calib is None or check_num_calib(asked.num_calib),
        check_bits_asked,
        check_model,
    )
    return [asked.blamed()(check) for check in checks]


def _recipe(
    asked: Asked, subject: QuantizationInputs, widths: tuple[int, int], num: int, target: Target
) -> Recipe:
    """Return what is asked for, resolved; `widths` are those of weights and activations."""
    return Recipe(
        model=subject.loaded.name,
        weight_bits=widths[0],
        act_bits=widths[1],
        method=asked.method,
        target=target.name,
        num_calib=num,
        seed=asked.seed,
        float_layers=asked.float_layers,
        layer_bits=dict(asked.layer_bits),
        pretrained=asked.pretrained or asked.weights is not None,
        model_args=subject.loaded.arguments,
        preprocessing=subject.loaded.preprocessing_to_keep(),
        task=asked.task or ("" if subject.loaded.task == CLASSIFY else subject.loaded.task),
        classes=(subject.loaded.classes or ()) if asked.classes else (),
        class_order=asked.class_order,
        weights=asked.checkpoint_name,
        weights_key=asked.weights_key,
        weights_sha256=subject.loaded.weights_sha256,
        images_sha256=digest_of(subject.calibration["sha256"]),
    )


def _make(
    subject: QuantizationInputs,
    asked: Asked,
    recipe: Recipe,
    limits: BudgetLimits,
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
    asked.check_widths_matter(graph, placement)
    check_golden(subject, len(target.variants(graph, placement)))
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
    subject: QuantizationInputs,
    quantized: QuantizedGraph,
    recipe: Recipe,
    target: Target,
    progress: Progress,
) -> Artefact:
    """Lower the quantized graph, and run the golden images through simulation and float32."""
    variants = _variants(subject, quantized, recipe, target, progress)
    progress("lower and check kernels", 0, 1)
    lowered = target.with_kernels(target.lower(quantized), MAIN_VARIANT)
    reference = target.reference(subject.prepared)
    same = {
        name: Variant(quantized=form, lowered=target.lower(form))
        for name, form in target.same_integers(quantized).items()
    }
    progress("lower and check kernels", 1, 1)
    return Artefact(
        quantized=quantized,
        lowered=lowered,
        reference=reference,
        model=subject.loaded,
        recipe=recipe,
        calibration={
            **subject.calibration,
            "method": recipe.method,
            "seed": recipe.seed,
            **_scale_shift([quantized, *(variant.quantized for variant in variants.values())]),
        },
        golden=golden_arrays(subject, quantized, variants, tuple(same)),
        engine=target.engine,
        variants=variants | same,
    )


def _scale_shift(forms: list[QuantizedGraph]) -> dict[str, float]:
    """Return by how many percent scales were moved to exact ones; nothing in a float32 body."""
    shifts = [form.scale_shift for form in forms if form.scale_shift is not None]
    return {"scale_shift_percent": 100 * max(shifts)} if shifts else {}


def _variants(
    subject: QuantizationInputs,
    quantized: QuantizedGraph,
    recipe: Recipe,
    target: Target,
    progress: Progress,
) -> dict[str, Variant]:
    """Return the other forms of the model that the target wants measured on the device."""
    from edgevit.calibration.run import Run
    from edgevit.calibration.search.variants import calibrate_variant

    placements = target.variants(quantized.graph, quantized.placement)
    found = {}
    for done, (name, placement) in enumerate(placements.items()):
        progress("variants", done, len(placements))
        run = Run(
            graph=quantized.graph, placement=placement, images=subject.images, seed=recipe.seed
        )
        made = calibrate_variant(quantized, placement, run)
        lowered = target.with_kernels(target.lower(made), name)
        found[name] = Variant(quantized=made, lowered=lowered)
        progress("variants", done + 1, len(placements))
    return found
