"""Bootstrap over images: an image enters a draw with all that was counted in it, or not at all.

Source: B. Efron, "Bootstrap Methods: Another Look at the Jackknife", Ann. Statist. 7 (1979); here
the percentile interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgevit.runner.measure.paired import Interval

if TYPE_CHECKING:
    from typing import Callable

    import numpy.typing as npt

    Weights = npt.NDArray[np.float64]

RESAMPLES = 1000


def percent_over_images(
    share: Callable[[Weights], float], num_images: int, *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return a share, or a difference of two, in percent with its interval.

    Args:
        share: From how often each image counts, float64 [N], to the share.
        num_images: N.
        confidence: Two-sided confidence of the interval.
        seed: Makes the interval repeatable.
    """
    random = np.random.default_rng(seed)
    even = np.full(num_images, 1 / num_images)
    draws = [
        share(random.multinomial(num_images, even).astype(np.float64)) for _ in range(RESAMPLES)
    ]
    known = np.asarray(draws)[~np.isnan(draws)]
    value, tail = share(np.ones(num_images)), 50 * (1 - confidence)
    low, high = np.percentile(known, [tail, 100 - tail]) if len(known) else (value, value)
    return Interval(value=100 * value, low=100 * float(low), high=100 * float(high))
