"""The verb `simulate`: calibrate a model for the `simulation` target, to compare methods.

Nothing is lowered and no bundle is written; methods may use grids that no engine here runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgevit.artefact import Pixels, logits_of
from edgevit.calibration.progress import Progress, silent
from edgevit.data import ImageSet, Preprocessing, open_images
from edgevit.recipe import DEFAULT_METHOD
from edgevit.subject import (
    check_num_calib,
    check_seed,
    check_widths,
    images_or_own,
    loaded_model,
    stand_in_note,
    subject_of,
)

if TYPE_CHECKING:
    from torch import nn

    from edgevit.graph.model import Graph
    from edgevit.quantizers.simulation import QuantizedGraph


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A quantized model that runs in torch only, beside its float32 original."""

    quantized: QuantizedGraph
    graph: Graph
    preprocessing: Preprocessing

    def logits(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Return the quantized model's logits [B, classes] of pixels uint8 [B, H, W, 3]."""
        return logits_of(self.quantized.forward, self.preprocessing, pixels)

    def logits_fp32(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Return the float32 model's logits [B, classes] of pixels uint8 [B, H, W, 3]."""
        return logits_of(self.graph.forward, self.preprocessing, pixels)


def simulate(
    model: str | nn.Module,
    images: str | Path | ImageSet | None = None,
    *,
    bits: int = 6,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    method: str = DEFAULT_METHOD,
    num_calib: int | None = None,
    seed: int = 0,
    target: str = "simulation",
    pretrained: bool = True,
    preprocessing: Preprocessing | None = None,
    progress: Progress = silent,
) -> Simulation:
    """Calibrate and simulate; arguments and errors as in `edgevit.quantize`."""
    from edgevit.calibration.methods import method_named
    from edgevit.calibration.run import calibrate
    from edgevit.targets.registry import target_named

    chosen, offers = method_named(method), target_named(target)
    num = check_num_calib(chosen.num_images if num_calib is None else num_calib)
    w_bits, a_bits = check_widths(bits, weight_bits, act_bits)
    check_seed(seed)
    images = images_or_own(images, model, any_photographs=True)
    images = images if isinstance(images, ImageSet) else open_images(images)
    loaded = loaded_model(model, pretrained, None, seed, preprocessing, progress)
    notes = stand_in_note(images, num, loaded)
    subject = subject_of(loaded, images, num, seed, offers, progress)
    placement = offers.place(subject.prepared, weight_bits=w_bits, act_bits=a_bits)
    quantized = calibrate(
        subject.prepared, placement, subject.images, chosen, seed=seed, progress=progress
    )
    quantized.notes += notes
    return Simulation(
        quantized=quantized, graph=subject.prepared, preprocessing=loaded.preprocessing
    )
