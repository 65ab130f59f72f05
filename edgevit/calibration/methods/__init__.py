"""Named calibration methods, all over the same graph, sites and grids."""

from __future__ import annotations

from difflib import get_close_matches

from edgevit.calibration.methods.apq_vit import APQ_VIT
from edgevit.calibration.methods.edgevit import EDGEVIT, EDGEVIT_CODEBOOK
from edgevit.calibration.methods.edgevit_train import EDGEVIT_TRAIN
from edgevit.calibration.methods.fq_vit import FQ_VIT
from edgevit.calibration.methods.gptq import GPTQ
from edgevit.calibration.methods.liu2021 import LIU2021
from edgevit.calibration.methods.noisyquant import NOISYQUANT, NOISYQUANT_PTQ4VIT
from edgevit.calibration.methods.plain import MINMAX, MSE, PERCENTILE
from edgevit.calibration.methods.ptq4vit import PTQ4VIT
from edgevit.calibration.methods.repq_vit import REPQ_VIT, REPQ_VIT_INT
from edgevit.calibration.run import Method
from edgevit.errors import UsageError

_ALL = (
    EDGEVIT,
    EDGEVIT_CODEBOOK,
    EDGEVIT_TRAIN,
    PTQ4VIT,
    GPTQ,
    MINMAX,
    PERCENTILE,
    MSE,
    REPQ_VIT,
    REPQ_VIT_INT,
    FQ_VIT,
    LIU2021,
    APQ_VIT,
    NOISYQUANT,
    NOISYQUANT_PTQ4VIT,
)
METHODS = {method.name: method for method in _ALL}


def method_named(name: str) -> Method:
    """Return the method of this name.

    Raises:
        UsageError: There is none (EV202).
    """
    if name in METHODS:
        return METHODS[name]
    near = get_close_matches(name, METHODS, n=1)
    raise UsageError(
        "EV202",
        f"There is no calibration method {name!r}.",
        where="--method",
        why="Known methods: " + ", ".join(METHODS),
        try_next=f"--method {near[0] if near else 'edgevit'}",
    )
