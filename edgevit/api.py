"""The public verbs. They connect the rooms and do nothing else.

Names -> model and images -> canonical graph -> placement (the target's) -> calibration -> lowering
-> bundle -> sessions on the device -> report.
"""

from __future__ import annotations

from pathlib import Path

from edgevit.bundle import Bundle
from edgevit.runner.engines import open_for_engine
from edgevit.verbs.artefact import Artefact
from edgevit.verbs.build import build
from edgevit.verbs.check import check, refuse_errors
from edgevit.verbs.deploy import deploy
from edgevit.verbs.explain import explain
from edgevit.verbs.inspect import inspect
from edgevit.verbs.quantize import quantize
from edgevit.verbs.sensitivity import sensitivity
from edgevit.verbs.simulate import compare_methods, simulate
from edgevit.verbs.validate import check_gates, validate

__all__ = [
    "Artefact",
    "build",
    "check",
    "check_gates",
    "compare_methods",
    "deploy",
    "explain",
    "inspect",
    "load",
    "quantize",
    "refuse_errors",
    "sensitivity",
    "simulate",
    "validate",
]


def load(path: str | Path) -> Bundle:
    """Open a bundle, with every file verified.

    Raises:
        BundleError: It is damaged, incomplete, unsafe or too new.
    """
    return open_for_engine(path)
