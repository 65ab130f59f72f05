"""Compares an engine's logits on the golden images of its variant with the simulated ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.bundle.manifest_schema import bad_manifest
from edgevit.bundle.variants import golden_key
from edgevit.runner.measure.scores import agreement_percent
from edgevit.runner.measure.selfcheck import logits_on

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.measure.accuracy import Normalize, Runnable

    Golden = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class EngineParity:
    """Distance of an engine from its own simulation on the golden images.

    Args:
        num_images: How many there are.
        agreement_percent: Images with the simulated top-1 class.
        cosine: Cosine of all logits with the simulated ones.
        max_error: Largest absolute logit error.
    """

    num_images: int
    agreement_percent: float
    cosine: float
    max_error: float


@dataclass(frozen=True)
class ParityLimits:
    """Limits within which an engine counts as computing the same.

    Args:
        min_cosine: Least cosine of the logits.
        max_flipped_percent: Most images whose top-1 class differs; one image is always allowed,
            as a near tie may fall either way.
    """

    min_cosine: float = 0.999
    max_flipped_percent: float = 2.0

    def broken_by(self, parity: EngineParity) -> str:
        """Return what is wrong, empty if nothing is."""
        flipped = round(parity.num_images * (100 - parity.agreement_percent) / 100)
        allowed = max(1, int(parity.num_images * self.max_flipped_percent / 100))
        if not parity.cosine >= self.min_cosine:  # also when it is NaN
            return (
                f"parity: logits differ from the simulation, cosine {parity.cosine:.5f}"
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
    expected = simulated_logits(golden, variant).astype(np.float64)  # [n, classes]
    found = logits_on(session, images, normalize).astype(np.float64)  # [n, classes]
    if found.shape != expected.shape:
        return EngineParity(len(images), 0.0, 0.0, float("inf"))
    norms = float(np.linalg.norm(found) * np.linalg.norm(expected))
    return EngineParity(
        num_images=len(images),
        agreement_percent=agreement_percent(found, expected),
        cosine=float((found * expected).sum() / norms) if norms else float("nan"),
        max_error=float(np.abs(found - expected).max()),
    )


def simulated_logits(golden: Mapping[str, npt.NDArray[Any]], variant: str) -> npt.NDArray[Any]:
    """Return the simulated logits of a variant, float32 [n, classes].

    Raises:
        BundleError: There are none (EV402); those of another variant would not do.
    """
    key = golden_key(variant)
    if key not in golden:
        raise bad_manifest(f"the golden images have no {key}")
    return golden[key]
