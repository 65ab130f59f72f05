"""The conformance checker: looks at an ONNX graph with the rules TensorRT has for it.

It works on anybody's ONNX file. Rules have stable numbers; each is one function in `rules_*.py`.
"""

from edgevit.targets.tensorrt.conformance.checking import Conformance, RuleFinding, check_onnx
from edgevit.targets.tensorrt.conformance.rule import RULES, BuildFacts, GraphParity, Level

__all__ = [
    "RULES",
    "BuildFacts",
    "Conformance",
    "GraphParity",
    "Level",
    "RuleFinding",
    "check_onnx",
]
