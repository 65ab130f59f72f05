"""What the doctor says of TensorRT for RTX: on workstations, on cards, on Jetsons."""

import pytest

from edgevit.doctor.board import board_findings
from edgevit.doctor.workstation import workstation_findings
from edgevit.runner.board.facts import board_facts

NAME, CARD = "TensorRT for RTX", "RTX card"


def facts_of(tmp_path, version="1.7.1.116", kind="computer", **graphics):
    """Facts of a computer; `graphics` as nvidia-smi tells them."""
    facts = board_facts(tmp_path)
    facts["python"].update(tensorrt_rtx=version, onnxruntime="1.32.0", numpy="2.4.6", cuda="13.5")
    facts["gpu"].update(graphics)
    facts["memory_bytes"] = {"available": 8 << 30, "total": 16 << 30}
    return {**facts, "kind": kind, "system": {**facts["system"], "machine": "x86_64"}}


def rtx_4090(**changed):
    card = {"name": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9", "driver": "580.65.06"}
    return {**card, **changed}


def listed(findings):
    return {finding.name: finding for finding in findings}


def test_a_workstation_without_a_card_can_compile(tmp_path):
    found = listed(workstation_findings(facts_of(tmp_path)))
    assert (found[NAME].status, found[NAME].found) == ("ok", "1.7.1.116")
    assert CARD not in found
    found = listed(workstation_findings(facts_of(tmp_path, version=None)))
    assert found[NAME].status == "warning"
    assert "to compile engines" in found[NAME].found
    assert found[NAME].mend.endswith("pip install tensorrt-rtx-cu13")
    assert NAME not in listed(workstation_findings(facts_of(tmp_path, version=None), "cpu"))


def test_a_card_with_its_driver_is_ok(tmp_path):
    found = listed(board_findings(facts_of(tmp_path, **rtx_4090()), "rtx-ada"))
    assert found[CARD].status == found[NAME].status == "ok"
    assert found[CARD].found == "NVIDIA GeForce RTX 4090, SM89, driver 580.65.06"
    assert found["TensorRT"].status == "warning"  # the full one is not needed for this target


def test_what_the_target_needs_is_missing_and_the_rest_a_warning(tmp_path):
    facts = facts_of(tmp_path, version=None, **rtx_4090())
    assert listed(board_findings(facts, "rtx-ada"))[NAME].status == "missing"
    assert listed(board_findings(facts, "tensorrt-ada"))[NAME].status == "warning"


@pytest.mark.parametrize(
    ("changed", "status", "said", "mend"),
    [
        ({"driver": "550.54.14"}, "warning", "no CUDA 13", "tensorrt-rtx-cu12"),
        ({"compute_capability": "9.0"}, "missing", "SM90", "--target tensorrt"),
    ],
)
def test_a_card_or_driver_that_does_not_fit(tmp_path, changed, status, said, mend):
    found = listed(board_findings(facts_of(tmp_path, **rtx_4090(**changed)), "rtx-ada"))[CARD]
    assert found.status == status
    assert said in found.found
    assert mend in found.mend


def test_a_jetson_has_no_use_for_it(tmp_path):
    facts = facts_of(tmp_path, version=None, kind="jetson", compute_capability="8.7")
    found = listed(board_findings(facts, "rtx-ampere"))
    assert NAME not in found
    assert found["device"].status == "missing"
