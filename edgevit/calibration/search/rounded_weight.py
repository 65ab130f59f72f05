"""The integer weight that GPTQ's rounding and a search for the steps give.

Source: Frantar et al., "GPTQ: Accurate post-training quantization for generative pre-trained
transformers" (arXiv 2210.17323), for the codes. A row that is no better for it is rounded to the
nearest codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgevit.calibration.rewrites.rounding import gptq_codes, rounding_loss
from edgevit.calibration.search.weight_scales import search_scale
from edgevit.quantizers.spec import GridSpec
from edgevit.quantizers.uniform import UniformGrid


def round_weight(weight: Tensor, spec: GridSpec, gram: Tensor) -> tuple[UniformGrid, Tensor]:
    """Return grid and int32 codes [out, in]: per row GPTQ's or nearest rounding's, the better.

    Args:
        weight: float32 [out, in].
        spec: Of the weight's grid.
        gram: float32 [in, in], X^T X of the layer's inputs.
    """
    grid = UniformGrid.symmetric(spec, search_scale(weight, spec, gram))
    nearest, codes = grid.codes(weight), gptq_codes(weight, grid, gram)
    losses = [rounding_loss(weight, grid.dequantize(c), gram) for c in (nearest, codes)]
    better = (losses[1] <= losses[0])[:, None]  # [out, 1]
    return grid, torch.where(better, codes, nearest)
