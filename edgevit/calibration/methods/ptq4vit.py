"""PTQ4ViT: Hessian-guided search of scales, twin uniform grids after softmax and GELU.

Source: Yuan et al., "PTQ4ViT: Post-training quantization for vision transformers with twin
uniform quantization" (ECCV 2022, arXiv 2111.12293), sections 3.2-3.3. Two departures: the
gradient is a true Fisher gradient (the official code's is zero in its default mode), and the
ratio of the twin steps is 2^m as in the paper's eq. 9.
"""

from __future__ import annotations

from edgevit.calibration.run import Method
from edgevit.calibration.search.parallel import SearchChoices, parallel

PTQ4VIT = Method(
    name="ptq4vit",
    summary="Hessian-guided search with twin uniform grids",
    source="Yuan et al., ECCV 2022, arXiv 2111.12293 (true Fisher gradient, ratio 2^m)",
    calibrate=parallel(
        SearchChoices(
            activations="fisher",
            weights="gram",
            per_tensor_weights=True,
            symmetric_activations=True,
            twin=True,
            exact_heads=True,
        )
    ),
    cost="2 forward passes, 1 backward pass",
    needs="twin grids where offered, else symmetric uniform ones",
    order=10,
)
