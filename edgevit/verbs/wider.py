"""Says what activations of 8 bits would give where narrower ones save nothing.

A device that computes in 8 bits takes as much time and memory for narrower activations. What they
cost in accuracy is measured against a quick calibration at 8 bits, on photographs that come with
EdgeViT: the calibration images are no judges, for weights and biases were fitted to them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgevit.verbs.budget import placement_of

if TYPE_CHECKING:
    from torch import Tensor

    from edgevit.progress import Progress
    from edgevit.quantizers.quantized_graph import QuantizedGraph
    from edgevit.recipe import Recipe
    from edgevit.targets.base import Target
    from edgevit.verbs.inputs import QuantizationInputs

FITTED, JUDGED = 8, 16
"""Images that the comparison is calibrated on, and photographs that both are judged on."""


def wider_note(
    quantized: QuantizedGraph,
    recipe: Recipe,
    subject: QuantizationInputs,
    target: Target,
    progress: Progress,
) -> list[str]:
    """Return a note on `--act-bits` of the width that the target computes in.

    Nothing where activations have that width, where the model is no classifier, where the method
    takes long, and where wider activations are no better.
    """
    from edgevit.calibration.methods import method_named
    from edgevit.calibration.run import calibrate

    wide, method = target.computed_bits, method_named(recipe.method)
    narrowest = min([recipe.act_bits, *(acts for _, acts in recipe.layer_bits.values())])
    if narrowest >= wide or method.takes_long or not subject.prepared.is_classifier:
        return []
    progress("compare with wider activations", 0, 1)
    layers = {module: (weights, wide) for module, (weights, _) in recipe.layer_bits.items()}
    asked = replace(recipe, act_bits=wide)
    other = calibrate(
        subject.prepared,
        placement_of(asked, subject.prepared, target, layers),
        subject.images[:FITTED],
        method,
        seed=recipe.seed,
    )
    images = _photographs(subject, recipe.seed + 1)
    exact = subject.graph.forward(images)
    narrow_kl, wide_kl = (divergence(exact, form.forward(images)) for form in (quantized, other))
    progress("compare with wider activations", 1, 1)
    if wide_kl >= narrow_kl:
        return []
    return [
        f"activations of {narrowest} bits save neither size nor time on {target.name}, which "
        f"computes in {wide}: KL to fp32 on {len(images)} photographs is {narrow_kl:.2g}, "
        f"with --act-bits {wide} {wide_kl:.2g}"
    ]


def _photographs(subject: QuantizationInputs, seed: int) -> Tensor:
    from edgevit.data.photographs import photographs
    from edgevit.verbs.artefact import tensor_of

    preprocessing = subject.loaded.preprocessing
    pixels, _, _ = next(iter(photographs().subset(JUDGED, seed).batches(preprocessing, JUDGED)))
    return tensor_of(preprocessing.normalize(pixels))


def divergence(exact: Tensor, other: Tensor) -> float:
    """Return the mean KL divergence in nats of softmax(other) from softmax(exact), [B, classes]."""
    logs = (exact.log_softmax(1), other.log_softmax(1))
    return float((logs[0].exp() * (logs[0] - logs[1])).sum(1).mean())
