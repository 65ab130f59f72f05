"""Pixels to model input: the last step of the preprocessing, which needs numpy alone.

It is apart from preprocessing.py because a board has no Pillow; both sides compute it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt


LARGEST = 1e6
"""Of mean and std, and of one over std; no pictures are normalised with anything near."""


def normalize(
    pixels: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.float32]:
    """Turn uint8 pixels [B, H, W, C] into float32 [B, C, H, W]: (x / 255 - mean) / std."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    scaled -= np.asarray(mean, dtype=np.float32)
    scaled /= np.asarray(std, dtype=np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))  # [B, C, H, W]


def normalizer(
    preprocessing: Mapping[str, Any],
) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """Return the normalization of a bundle's preprocessing.

    Args:
        preprocessing: `Bundle.preprocessing`; ``mean`` and ``std`` are read, three numbers each,
            or one for a model of grey pictures.

    Raises:
        DataError: They are missing or impossible (EV108).
    """
    try:
        mean, std = ([float(value) for value in preprocessing[key]] for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise _impossible(f"{type(error).__name__}: {error}") from error
    fits = len(mean) in (1, 3) and len(std) == len(mean)
    if not fits or not are_possible(mean, std):
        raise _impossible(f"mean={mean} std={std}")
    return lambda pixels: normalize(pixels, mean, std)


def are_possible(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Return whether float32 can be normalized with these without leaving its range."""
    return all(abs(value) <= LARGEST for value in mean) and all(
        1 / LARGEST <= value <= LARGEST for value in std
    )


def _impossible(why: str) -> DataError:
    return DataError(
        "EV108",
        "The preprocessing has impossible values.",
        where="mean, std",
        why=why,
        try_next="mean and std are 3 numbers each, or 1 for grey; std above 0.",
    )
