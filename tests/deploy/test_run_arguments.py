"""The conditions of a measurement as a command line for a board, and back."""

import pytest

from edgevit.runner.board.__main__ import _options
from edgevit.runner.measure.conditions import Conditions
from edgevit.verbs.deploy import run_arguments


@pytest.mark.parametrize(
    "conditions",
    [
        Conditions(),
        Conditions(engine="tensorrt_rtx", trust_code=True, threads=2, batch=8, max_drop=0.5),
        Conditions(provider="NvTensorRTRTXExecutionProvider"),
    ],
)
def test_a_board_reads_what_was_said(conditions):
    found = vars(_options(run_arguments(conditions)))
    assert {name: found[name] for name in vars(conditions)} == vars(conditions)
