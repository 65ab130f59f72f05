"""Emitters of operators by ATen operator; products have writers of their own, one a target."""

from __future__ import annotations

from typing import Any

from edgevit.targets.onnx.context import Emitter
from edgevit.targets.onnx.emitters import elementwise, layout, normalisation, windows

EMITTERS: dict[Any, Emitter] = {
    **layout.EMITTERS,
    **elementwise.EMITTERS,
    **normalisation.EMITTERS,
    **windows.EMITTERS,
}
