"""The golden arrays of an artefact: a few images, and what simulation and fp32 give for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.bundle.golden import num_golden
from edgevit.bundle.manifest import MAIN_VARIANT
from edgevit.bundle.variants import golden_key
from edgevit.data.tasks import LOGITS
from edgevit.errors import UnsupportedError
from edgevit.verbs.artefact import Variant, outputs_over, stated_outputs

if TYPE_CHECKING:
    from edgevit.quantizers.quantized_graph import QuantizedGraph
    from edgevit.verbs.inputs import QuantizationInputs

NUM_GOLDEN = 32
_OWN_FORMS = 2  # fp32 and the main form
Arrays = dict[str, npt.NDArray[Any]]


def golden_arrays(
    subject: QuantizationInputs,
    quantized: QuantizedGraph,
    variants: Mapping[str, Variant],
    same: tuple[str, ...],
) -> Arrays:
    """Return the golden arrays in the form that `write_bundle` takes.

    Args:
        variants: Further forms of the model, each with outputs of its own.
        same: Names of forms with the outputs of the main one.
    """
    outputs = stated_outputs(subject.graph, subject.loaded)
    forms = _OWN_FORMS + len(variants) + len(same)
    count = num_golden(outputs, NUM_GOLDEN, forms) if outputs else NUM_GOLDEN
    pixels, preprocessing = subject.pixels[:count], subject.loaded.preprocessing
    simulated = outputs_over(quantized.forward_all, preprocessing, pixels)
    exact = outputs_over(subject.graph.forward_all, preprocessing, pixels)
    golden: Arrays = {
        "images": pixels,
        **_stored(simulated, MAIN_VARIANT, bool(outputs)),
        **_named(exact, "fp32" if outputs else "logits_fp32", bool(outputs)),
        "names": np.array(subject.calibration["names"][:count]),
    }
    for name, variant in variants.items():
        found = outputs_over(variant.quantized.forward_all, preprocessing, pixels)
        golden |= _stored(found, name, bool(outputs))
    for name in same:
        golden |= _stored(simulated, name, bool(outputs))
    return golden


def check_golden(subject: QuantizationInputs, variants: int) -> None:
    """Refuse, before anything is calibrated, outputs of which no golden image can be kept.

    Args:
        variants: Further forms that the target wants of the model.

    Raises:
        UnsupportedError: The outputs of one image take too much (EV354).
    """
    outputs = stated_outputs(subject.graph, subject.loaded)
    forms = _OWN_FORMS + variants + 1  # perhaps one more of the same integers
    if num_golden(outputs, NUM_GOLDEN, forms):
        return
    image_bytes = sum(one.image_bytes for one in outputs)
    raise UnsupportedError(
        "EV354",
        "The model's outputs are too large to be compared.",
        where=", ".join(one.name for one in outputs[:8]),
        why=f"They take {image_bytes:,} bytes an image, and a bundle keeps them up to {forms} "
        "times for a golden image.",
        try_next="Let the model return them before they are enlarged, or give a smaller "
        "--input-size.",
    )


def _stored(values: Arrays, variant: str, named: bool) -> Arrays:
    return _named(values, golden_key(variant, named=named), named)


def _named(values: Arrays, key: str, named: bool) -> Arrays:
    return {f"{key}/{k}": v for k, v in values.items()} if named else {key: values[LOGITS]}
