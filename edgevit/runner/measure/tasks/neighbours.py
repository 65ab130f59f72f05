"""Nearest neighbours among the embeddings of one set of images, by cosine.

Every image is looked up among all others, engine against engine and fp32 against fp32, as both are
used: an index is built with the model that asks it. Source: Wu et al., "Unsupervised Feature
Learning via Non-Parametric Instance Discrimination" (arXiv:1805.01978), section 3.4, the vote here
without weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

NEIGHBOURS = 20
"""Most neighbours that vote."""
MOST_IMAGES = 20000
"""First images that are looked up among each other; their number enters squared."""
_BLOCK = 512


def nearest(embeddings: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Return the nearest other images of each image, int64 [N, count].

    Args:
        embeddings: float32 [N, D]; their lengths do not matter.
        count: 1 to N - 1; ties go to the earlier image.
    """
    unit = _unit(embeddings)
    found = np.empty((len(unit), count), np.int64)
    for start in range(0, len(unit), _BLOCK):
        block = unit[start : start + _BLOCK]
        similar = block @ unit.T  # [block, N]
        rows = np.arange(len(block))
        similar[rows, start + rows] = -np.inf  # an image is not its own neighbour
        found[start : start + len(block)] = _largest(similar, count)
    return found


def vote(labels: npt.NDArray[np.int64], neighbours: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the commonest label among each image's neighbours, int64 [N].

    Args:
        labels: int64 [N].
        neighbours: int64 [N, count], the nearest first; of labels as common the nearest one's wins.
    """
    named = labels[neighbours]  # [N, count]
    votes = (named[:, :, None] == named[:, None, :]).sum(axis=2)  # [N, count]
    best = votes.argmax(axis=1)  # the first of the largest, which is the nearest
    chosen: npt.NDArray[np.int64] = named[np.arange(len(named)), best]
    return chosen


def shared(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float:
    """Return which share of the neighbours [N, count] both know, whatever their order, 0 to 1."""
    both = (first[:, :, None] == second[:, None, :]).any(axis=2)  # [N, count]
    return float(both.mean())


def _unit(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = embeddings.reshape(len(embeddings), -1).astype(np.float64)  # [N, D]
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = wide / np.maximum(lengths, np.finfo(np.float64).tiny)
    return unit


def _largest(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Return where the largest values of each row are, int64 [rows, count], the largest first."""
    last = values.shape[1] - count
    threshold = np.partition(values, last, axis=1)[:, last]  # [rows]
    found = np.empty((len(values), count), np.int64)
    for row, (each, least) in enumerate(zip(values, threshold)):
        candidates = np.flatnonzero(each >= least)  # in the order of the images
        found[row] = candidates[np.argsort(-each[candidates], kind="stable")][:count]
    return found
