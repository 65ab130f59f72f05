"""The plain methods: every tensor's range on its own.

Source: Nagel et al., "A white paper on neural network quantization" (arXiv 2106.08295), section
3.1, for min-max and squared error; RepQ-ViT (arXiv 2212.08254), section 4.1, for the percentiles.
"""

from __future__ import annotations

from edgevit.calibration.run import Method
from edgevit.calibration.search.parallel import SearchChoices, parallel

MINMAX = Method(
    name="minmax",
    summary="Ranges that cover everything seen",
    source="arXiv 2106.08295, section 3.1",
    calibrate=parallel(SearchChoices(activations="minmax", weights="minmax")),
    cost="1 forward pass",
    order=30,
)
PERCENTILE = Method(
    name="percentile",
    summary="The best of three percentiles by squared error",
    source="RepQ-ViT's initialiser, arXiv 2212.08254, section 4.1",
    calibrate=parallel(SearchChoices(activations="percentile", weights="percentile")),
    order=31,
)
MSE = Method(
    name="mse",
    summary="Least squared error of each tensor on its own",
    source="arXiv 2106.08295, section 3.1",
    calibrate=parallel(SearchChoices(activations="mse", weights="mse")),
    order=32,
)
