"""What a calibration method is: a name, where it comes from, and a function of a `Run`."""

from __future__ import annotations

from dataclasses import dataclass

from edgevit.calibration.run import Calibrator


@dataclass(frozen=True, kw_only=True)
class Method:
    """One calibration method.

    Args:
        name: As given to ``--method``.
        summary: One line for tables.
        source: Paper, or what it is.
        calibrate: From a `Run` to the quantized graph.
        num_images: Calibration images unless the user says otherwise.
        cost: What it costs, in words: passes over the images.
        needs: What a target must offer beyond uniform grids, in words; empty for nothing.
    """

    name: str
    summary: str
    source: str
    calibrate: Calibrator
    num_images: int = 32
    cost: str = "2 forward passes"
    needs: str = ""
