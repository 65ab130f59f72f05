"""`edgevit doctor`: what this machine or a board has, what is missing, how to mend it."""

from __future__ import annotations

from edgevit.doctor.board import board_findings
from edgevit.doctor.finding import MISSING, OK, WARNING, Finding
from edgevit.doctor.workstation import workstation_findings

__all__ = ["MISSING", "OK", "WARNING", "Finding", "board_findings", "workstation_findings"]
