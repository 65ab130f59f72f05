"""Checks on the spot that the engine still computes what the simulation computed.

The bundle's golden images go through the engine; its outputs are compared with those of the
integer simulation. Errors are given relative to the rms of what quantization itself changed
(simulated - fp32), because an engine error far below that is of no consequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.bundle.golden import fp32_of, is_of_classes, simulated_of
from edgevit.errors import DeviceError
from edgevit.runner.measure.accuracy import outputs_from
from edgevit.runner.measure.outputs import errors_of
from edgevit.runner.measure.scores import agreement_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.runner.measure.accuracy import Normalize, Runnable
    from edgevit.runner.measure.outputs import OutputErrors

    Arrays = Mapping[str, npt.NDArray[np.float32]]
    Errors = Mapping[str, OutputErrors]

MIN_SQNR_DB = 27.0
"""Least SQNR of an output to the simulated one (it means a cosine of 0.999), unless its error is
below that of quantization itself."""
_BATCH = 8


@dataclass(frozen=True)
class SelfCheck:
    """Distance of the engine from the simulation on the golden images.

    Args:
        num_images: How many golden images there are.
        agreement_percent: Images whose top-1 class is the simulated one, in percent; None of a
            model that does not classify.
        identical_percent: Images whose outputs are the simulated ones bit for bit, in percent.
        max_error: Largest absolute error of the main output.
        rms_error: Root mean square error of the main output.
        quantization_rms: rms of (simulated - fp32) of it; None when the bundle has no fp32 ones.
        max_error_relative: max_error / quantization_rms; None without it or when it is 0.
        rms_error_relative: rms_error / quantization_rms; None as above.
        outputs: Of named outputs, name -> an `OutputCheck` as a dictionary; None of a classifier.
    """

    num_images: int
    agreement_percent: float | None
    identical_percent: float
    max_error: float
    rms_error: float
    quantization_rms: float | None
    max_error_relative: float | None
    rms_error_relative: float | None
    outputs: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary; without ``outputs`` of a classifier."""
        content = asdict(self)
        if self.outputs is None:
            del content["outputs"]
        return content


@dataclass(frozen=True)
class OutputCheck:
    """One named output of the engine against the simulation and against fp32.

    Args:
        sqnr_db: Engine against simulation; None where they are equal.
        cosine: Mean over the images, engine against simulation.
        fp32_sqnr_db, fp32_cosine: Engine against fp32; None without fp32 outputs.
        quantization_sqnr_db: Simulation against fp32; None without, or where they are equal.
        within: Whether the engine is as near to the simulation as `MIN_SQNR_DB` asks, or nearer
            than quantization has moved the simulation from fp32.
    """

    sqnr_db: float | None
    cosine: float
    fp32_sqnr_db: float | None
    fp32_cosine: float | None
    quantization_sqnr_db: float | None
    within: bool


def outputs_on(session: Runnable, images: npt.NDArray[np.uint8], normalize: Normalize) -> Arrays:
    """Return an engine's outputs [n, ...] by name on images [n, H, W, 3], a few at a time."""
    found: dict[str, list[npt.NDArray[np.float32]]] = {}
    for start in range(0, len(images), _BATCH):
        for name, value in outputs_from(session, normalize(images[start : start + _BATCH])).items():
            found.setdefault(name, []).append(value)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def self_check(
    session: Runnable, golden: Mapping[str, npt.NDArray[Any]], normalize: Normalize
) -> SelfCheck:
    """Run the golden images through an engine.

    Args:
        session: The quantized engine.
        golden: What `Bundle.golden` returns.
        normalize: Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W].

    Raises:
        DeviceError: The engine fails, or has another number of classes or other outputs (EV711).
    """
    images, simulated, exact = golden["images"], simulated_of(golden), fp32_of(golden)
    found = outputs_on(session, images, normalize)
    _check_same(found, simulated)
    main = next(iter(simulated))
    error = found[main].astype(np.float64) - simulated[main]
    change = _rms(simulated[main].astype(np.float64) - exact[main]) if exact else None
    max_error, rms_error = float(np.abs(error).max()), _rms(error)
    return SelfCheck(
        num_images=len(images),
        agreement_percent=agreement_of(found, simulated),
        identical_percent=100 * float(_identical(found, simulated).mean()),
        max_error=max_error,
        rms_error=rms_error,
        quantization_rms=change,
        max_error_relative=max_error / change if change else None,
        rms_error_relative=rms_error / change if change else None,
        outputs=None if is_of_classes(golden) else _checks(found, simulated, exact),
    )


def _check_same(found: Arrays, simulated: Arrays) -> None:
    shapes, wanted = ({k: list(v.shape) for k, v in one.items()} for one in (found, simulated))
    if shapes != wanted:
        raise DeviceError(
            "EV711",
            "The engine is not the model the golden outputs belong to.",
            why=f"Outputs are {shapes} instead of {wanted}.",
            try_next="Write the bundle again.",
        )


def _identical(found: Arrays, simulated: Arrays) -> npt.NDArray[np.bool_]:
    """Return bool [n]: which images have all outputs bit for bit."""
    same = [(found[k] == v).reshape(len(v), -1).all(axis=1) for k, v in simulated.items()]
    return np.asarray(np.stack(same).all(axis=0))


def _checks(found: Arrays, simulated: Arrays, exact: Arrays) -> dict[str, Any]:
    own, moved, whole = (
        errors_of(*pair) if pair[0] else {}
        for pair in ((simulated, found), (exact, simulated), (exact, found))
    )
    return {name: asdict(_check(name, own, moved, whole)) for name in simulated}


def _check(name: str, own: Errors, moved: Errors, whole: Errors) -> OutputCheck:
    one, change, fp32 = own[name], moved.get(name), whole.get(name)
    least = one.signal / 10 ** (MIN_SQNR_DB / 10)
    limit = max(least, 0.0 if change is None else change.noise)
    return OutputCheck(
        sqnr_db=one.sqnr_db,
        cosine=one.mean_cosine,
        fp32_sqnr_db=None if fp32 is None else fp32.sqnr_db,
        fp32_cosine=None if fp32 is None else fp32.mean_cosine,
        quantization_sqnr_db=None if change is None else change.sqnr_db,
        within=one.noise <= limit,
    )


def _rms(values: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
