"""The conformance checker: looks at an ONNX graph with the rules TensorRT has for it.

It works on anybody's ONNX file. Rules have stable numbers; each is one function in `rules_*.py`,
which are found here: a rule of a new subject is one new file.
"""

import pkgutil
from importlib import import_module

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

for _file in pkgutil.iter_modules(__path__):
    if _file.name.startswith("rules_"):
        import_module(f"{__name__}.{_file.name}")  # importing it enters its rules
