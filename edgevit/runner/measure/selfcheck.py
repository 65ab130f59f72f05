"""Checks on the spot that the engine still computes what the simulation computed.

The bundle's golden images go through the engine; its logits are compared with those of the integer
simulation. Errors are given relative to the rms of what quantization itself changed
(simulated - fp32), because an engine error far below that is of no consequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.errors import DeviceError
from edgevit.runner.measure.scores import agreement_percent

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.measure.accuracy import Normalize, Runnable

_BATCH = 8


@dataclass(frozen=True)
class SelfCheck:
    """Distance of the engine from the simulation on the golden images.

    Args:
        num_images: How many golden images there are.
        agreement_percent: Images whose top-1 class is the simulated one, in percent.
        identical_percent: Images whose logits are the simulated ones bit for bit, in percent.
        max_error: Largest absolute logit error.
        rms_error: Root mean square logit error.
        quantization_rms: rms of (simulated - fp32) logits; None when the bundle has no fp32 ones.
        max_error_relative: max_error / quantization_rms; None without it or when it is 0.
        rms_error_relative: rms_error / quantization_rms; None as above.
    """

    num_images: int
    agreement_percent: float
    identical_percent: float
    max_error: float
    rms_error: float
    quantization_rms: float | None
    max_error_relative: float | None
    rms_error_relative: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


def logits_on(
    session: Runnable, images: npt.NDArray[np.uint8], normalize: Normalize
) -> npt.NDArray[np.float32]:
    """Return an engine's logits [n, classes] on images [n, H, W, 3], a few at a time."""
    batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    return np.concatenate([session.run(normalize(batch)) for batch in batches])


def self_check(
    session: Runnable, golden: Mapping[str, npt.NDArray[Any]], normalize: Normalize
) -> SelfCheck:
    """Run the golden images through an engine.

    Args:
        session: The quantized engine.
        golden: What `Bundle.golden` returns.
        normalize: Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W].

    Raises:
        DeviceError: The engine fails, or has another number of classes (EV711).
    """
    images, simulated = golden["images"], golden["logits_simulated"]
    found = logits_on(session, images, normalize)
    if found.shape != simulated.shape:
        raise DeviceError(
            "EV711",
            "The engine is not the model the golden logits belong to.",
            why=f"Logits are {list(found.shape)} instead of {list(simulated.shape)}.",
            try_next="Write the bundle again.",
        )
    error = found.astype(np.float64) - simulated
    change = _quantization_rms(golden)
    max_error, rms_error = float(np.abs(error).max()), _rms(error)
    return SelfCheck(
        num_images=len(images),
        agreement_percent=agreement_percent(found, simulated),
        identical_percent=100 * float((found == simulated).all(axis=1).mean()),
        max_error=max_error,
        rms_error=rms_error,
        quantization_rms=change,
        max_error_relative=max_error / change if change else None,
        rms_error_relative=rms_error / change if change else None,
    )


def _quantization_rms(golden: Mapping[str, npt.NDArray[Any]]) -> float | None:
    if "logits_fp32" not in golden:
        return None
    return _rms(golden["logits_simulated"].astype(np.float64) - golden["logits_fp32"])


def _rms(values: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
