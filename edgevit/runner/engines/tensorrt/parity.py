"""Compares an engine's outputs on the golden images of its variant with the simulated ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.bundle.golden import is_of_classes, simulated_of
from edgevit.bundle.manifest_schema import bad_manifest
from edgevit.bundle.variants import golden_key
from edgevit.runner.measure.scores import agreement_of
from edgevit.runner.measure.selfcheck import outputs_on

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.measure.accuracy import Normalize, Runnable

    Golden = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class EngineParity:
    """Distance of an engine from its own simulation on the golden images.

    Args:
        num_images: How many there are.
        agreement_percent: Images with the simulated top-1 class; None of named outputs.
        cosine: Cosine of an output of all images with the simulated one, the least of several.
        max_error: Largest absolute error.
    """

    num_images: int
    agreement_percent: float | None
    cosine: float
    max_error: float


@dataclass(frozen=True)
class ParityLimits:
    """Limits within which an engine counts as computing the same.

    Args:
        min_cosine: Least cosine of an output.
        max_flipped_percent: Most images whose top-1 class differs; one image is always allowed,
            as a near tie may fall either way.
    """

    min_cosine: float = 0.999
    max_flipped_percent: float = 2.0

    def broken_by(self, parity: EngineParity) -> str:
        """Return what is wrong, empty if nothing is."""
        agreement = 100.0 if parity.agreement_percent is None else parity.agreement_percent
        flipped = round(parity.num_images * (100 - agreement) / 100)
        allowed = max(1, int(parity.num_images * self.max_flipped_percent / 100))
        if not parity.cosine >= self.min_cosine:  # also when it is NaN
            return (
                f"parity: outputs differ from the simulation, cosine {parity.cosine:.5f}"
                f" below {self.min_cosine:g}"
            )
        if flipped > allowed:
            return (
                f"parity: {flipped} of {parity.num_images} golden images get another class"
                f" than in the simulation, {allowed} allowed"
            )
        return ""


def check_parity(
    session: Runnable, golden: Golden, normalize: Normalize, variant: str
) -> EngineParity:
    """Return how close an engine is to the simulation of its variant.

    Args:
        session: The engine.
        golden: What `Bundle.golden` returns.
        normalize: Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W].
        variant: Whose simulation.

    Raises:
        EdgeViTError: What the session raises.
    """
    images = golden["images"]
    expected, found = simulated_outputs(golden, variant), outputs_on(session, images, normalize)
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in expected.items()}:
        return EngineParity(len(images), 0.0, 0.0, float("inf"))
    pairs = [(v.astype(np.float64), found[k].astype(np.float64)) for k, v in expected.items()]
    cosines = [_cosine(*pair) for pair in pairs]
    return EngineParity(
        num_images=len(images),
        agreement_percent=agreement_of(found, expected),
        cosine=float("nan") if np.isnan(cosines).any() else min(cosines),
        max_error=max(float(np.abs(one - other).max()) for one, other in pairs),
    )


def _cosine(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one * other).sum() / norms) if norms else float("nan")


def simulated_outputs(golden: Golden, variant: str) -> dict[str, npt.NDArray[Any]]:
    """Return output -> what the simulation of a variant gave, float32 [n, ...].

    Raises:
        BundleError: There is nothing (EV402); that of another variant would not do.
    """
    found = simulated_of(golden, variant)
    if not found:
        named = not is_of_classes(golden)
        raise bad_manifest(f"the golden images have no {golden_key(variant, named=named)}")
    return found
