"""The report of simulated methods: accuracy, agreement, KL and SQNR against the fp32 model.

All methods see the same images, so every drop is paired. KL is the mean over images, in nats, of
fp32's softmax against the simulated one; SQNR is that of all logits together, in dB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.report.cells import new_table, plain_text
from edgevit.report.table import counts_lines
from edgevit.runner.measure.scores import class_scores
from edgevit.runner.measure.statistics import drop_points, mcnemar_exact_p, wilson_percent

if TYPE_CHECKING:
    import numpy.typing as npt
    from rich.console import RenderableType

    Logits = npt.NDArray[np.float32]
    Labels = npt.NDArray[np.int64]


@dataclass(kw_only=True)
class Tally:
    """Sums over one method's logits, batch by batch.

    Args:
        num_images: Images so far.
        agreeing: Images on which both name the same class.
        only_fp32, only_simulated: Images that only one of the two gets right.
        kl: Sum of KL divergences in nats.
        signal, noise: Sums of squares of fp32's logits and of the error.
    """

    num_images: int = 0
    agreeing: int = 0
    only_fp32: int = 0
    only_simulated: int = 0
    kl: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, fp32: Logits, simulated: Logits, labels: Labels) -> None:
        """Add a batch of logits [B, classes] with labels [B], -1 where there is none."""
        exact = class_scores(fp32.astype(np.float64))
        found = class_scores(simulated.astype(np.float64))
        best, found_best = exact.argmax(1), found.argmax(1)  # [B]
        right, found_right = best == labels, found_best == labels
        self.num_images += len(labels)
        self.agreeing += int((best == found_best).sum())
        self.only_fp32 += int((right & ~found_right).sum())
        self.only_simulated += int((found_right & ~right).sum())
        p, q = _log_softmax(exact), _log_softmax(found)  # [B, classes]
        self.kl += float((np.exp(p) * (p - q)).sum())
        self.signal += float((exact**2).sum())
        self.noise += float(((found - exact) ** 2).sum())

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise of the logits; None where one of them is nothing."""
        if not self.signal or not self.noise:
            return None
        return 10 * math.log10(self.signal / self.noise)


@dataclass(kw_only=True)
class Simulated:
    """One method that was simulated.

    Args:
        method: Its name.
        num_calib: Images it was calibrated on.
        tally: What its logits add up to.
        warnings: Of its calibration.
    """

    method: str
    num_calib: int
    tally: Tally = field(default_factory=Tally)
    warnings: Sequence[str] = ()


def simulation_report(
    head: Mapping[str, Any],
    simulated: Sequence[Simulated],
    fp32_right: int | None,
    *,
    skipped: Sequence[str] = (),
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Return the report as one JSON-able dictionary; percents are 0 to 100.

    Args:
        head: What is known of the model: model, target, bits, parameters, flops.
        simulated: The methods, in the order of the rows.
        fp32_right: Images that fp32 gets right; None where they have no labels.
        skipped: Names of damaged images that were left out.
        confidence: Of every interval.
    """
    num_images = simulated[0].tally.num_images
    top1 = None
    if fp32_right is not None:
        top1 = wilson_percent(fp32_right, num_images, confidence=confidence).to_dict()
    return {
        "schema_version": 1,
        **head,
        "num_images": num_images,
        "confidence": confidence,
        "top1_fp32": top1,
        "methods": [_row(one, fp32_right, confidence) for one in simulated],
        "skipped_images": list(skipped),
    }


def _row(one: Simulated, fp32_right: int | None, confidence: float) -> dict[str, Any]:
    tally = one.tally
    pair = (tally.only_fp32, tally.only_simulated)
    top1 = drop = p = None
    if fp32_right is not None:
        top1 = 100 * (fp32_right - pair[0] + pair[1]) / tally.num_images
        drop = drop_points(*pair, tally.num_images, confidence=confidence).to_dict()
        p = mcnemar_exact_p(*pair)
    return {
        "method": one.method,
        "num_calib": one.num_calib,
        "top1": top1,
        "drop_points": drop,
        "mcnemar_p": p,
        "agreement": 100 * tally.agreeing / tally.num_images,
        "kl": max(0.0, tally.kl / tally.num_images),
        "sqnr_db": tally.sqnr_db,
        "warnings": list(one.warnings),
    }


def simulation_table(report: Mapping[str, Any]) -> RenderableType:
    """Return the report as a table, one row per method below that of fp32."""
    from rich.console import Group

    bits = report["bits"]
    widths = f"W{bits['weights']}A{bits['activations']}"
    title = f"{report['model']}  {widths}  {report['num_images']} images, simulated"
    numbers: tuple[str, ...] = ("agree", "KL", "SQNR dB")
    if report["top1_fp32"] is not None:
        numbers = ("top-1", "drop in points", *numbers)
    table = new_table(title, "method", *numbers, numbers=numbers)
    for cells in [_fp32_cells(report), *map(_cells, report["methods"])]:
        table.add_row(*(plain_text(cells.get(name, "")) for name in ("method", *numbers)))
    lines = [
        *counts_lines(report),
        "KL of fp32's softmax against the simulated one, nats per image",
    ]
    if report["skipped_images"]:
        lines.append(f"{len(report['skipped_images'])} damaged images skipped")
    for row in report["methods"]:
        lines += [f"warning: {row['method']}: {warning}" for warning in row["warnings"]]
    return Group(table, *(plain_text(line) for line in lines))


def _fp32_cells(report: Mapping[str, Any]) -> dict[str, str]:
    top1 = report["top1_fp32"]
    return {"method": "fp32", "top-1": "" if top1 is None else f"{top1['value']:.2f} %"}


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    cells = {
        "method": row["method"],
        "agree": f"{row['agreement']:.2f} %",
        "KL": f"{row['kl']:.2g}",
        "SQNR dB": "-" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
    }
    drop = row["drop_points"]
    if drop is not None:
        cells["top-1"] = f"{row['top1']:.2f} %"
        value, low, high = (drop[key] + 0.0 for key in ("value", "low", "high"))
        cells["drop in points"] = f"{value:.2f} [{low:.2f}, {high:.2f}]"
    return cells


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(1, keepdims=True)  # [B, classes]
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
