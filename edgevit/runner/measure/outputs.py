"""Errors of an engine's outputs against those of fp32: SQNR in dB and mean cosine, per output.

Sums alone are kept, so that dense outputs of many images take no memory. SQNR is
``10 log10(sum y^2 / sum (y - y_hat)^2)`` over all images; the cosine is per image, over all of its
elements, and its interval is that of a mean (normal approximation, 95 %).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

_Z = 1.959964


@dataclass
class OutputErrors:
    """Sums over the images of one output.

    Args:
        images: How many there were.
        signal, noise: Squares of the reference, and of the difference.
        cosines, squares: Sums of each image's cosine, and of its square.
        least: Smallest cosine of an image.
        largest: Largest absolute difference of an element.
    """

    images: int = 0
    signal: float = 0.0
    noise: float = 0.0
    cosines: float = 0.0
    squares: float = 0.0
    least: float = 1.0
    largest: float = 0.0

    def add(self, reference: Array, found: Array) -> None:
        """Add a batch, float32 [B, ...] each.

        Raises:
            ValueError: The shapes differ.
        """
        if reference.shape != found.shape:
            raise ValueError(f"{list(found.shape)} instead of {list(reference.shape)}")
        for one, other in zip(reference, found):  # an image at a time: no copy of a dense batch
            self._add_image(np.ravel(one).astype(np.float64), np.ravel(other).astype(np.float64))

    def _add_image(self, wanted: npt.NDArray[Any], found: npt.NDArray[Any]) -> None:
        signal, power = float(wanted @ wanted), float(found @ found)
        difference = found - wanted
        norm = math.sqrt(signal) * math.sqrt(power)
        cosine = float(wanted @ found) / norm if norm else float(signal == power)
        cosine = max(-1.0, min(1.0, cosine))
        self.images += 1
        self.signal, self.noise = self.signal + signal, self.noise + float(difference @ difference)
        self.cosines, self.squares = self.cosines + cosine, self.squares + cosine * cosine
        self.least = min(self.least, cosine)
        self.largest = max(self.largest, float(np.abs(difference).max()) if wanted.size else 0.0)

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise; None where one of them is nothing."""
        if self.noise <= 0 or self.signal <= 0:
            return None
        return 10 * math.log10(self.signal / self.noise)

    @property
    def mean_cosine(self) -> float:
        """Mean over the images; 1 without any."""
        return self.cosines / self.images if self.images else 1.0

    def cosine_interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the mean cosine."""
        if self.images < 2:
            return -1.0, 1.0
        mean = self.mean_cosine
        variance = max(self.squares / self.images - mean * mean, 0.0)
        half = _Z * math.sqrt(variance / (self.images - 1))
        return max(-1.0, mean - half), min(1.0, mean + half)

    def to_dict(self) -> dict[str, Any]:
        """Return what a report says of it."""
        low, high = self.cosine_interval()
        return {
            "num_images": self.images,
            "sqnr_db": self.sqnr_db,
            "cosine": self.mean_cosine,
            "cosine_low": low,
            "cosine_high": high,
            "least_cosine": self.least,
            "max_error": self.largest,
        }


def errors_of(
    reference: Mapping[str, Array], found: Mapping[str, Array]
) -> dict[str, OutputErrors]:
    """Return the errors of each output of the same images, float32 [n, ...] each."""
    errors = {}
    for name, values in reference.items():
        errors[name] = OutputErrors()
        errors[name].add(values, found[name])
    return errors
