"""Finds every name of TensorRT's API that a source file touches.

`trt.A.B` is found wherever it stands. Members of TensorRT's objects are found through the names of
the variables that hold them, which the package uses consistently.
"""

from __future__ import annotations

import ast

CLASS_OF_VARIABLE = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "profile": "IOptimizationProfile",
    "image": "ITensor",
    "cache": "ITimingCache",
    "found": "ITimingCache",
    "self._runtime": "Runtime",
    "self._engine": "ICudaEngine",
    "engine": "ICudaEngine",
    "self._context": "IExecutionContext",
    "inspector": "EngineInspector",
    "runtime": "Runtime",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
}
FILES_WITH_OBJECTS = ("building.py", "session.py", "library.py", "validity.py")


def names_in(source: str, *, objects: bool) -> set[str]:
    """Return dotted names below the module, such as "BuilderFlag.TF32" or "Builder.reset"."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner, _, member = ast.unparse(node).rpartition(".")
            if owner in ("trt", "self._trt") or owner.startswith(("trt.", "self._trt.")):
                found.add(f"{owner}.{member}".split("trt.", 1)[1])
            elif objects and owner in CLASS_OF_VARIABLE:
                found.add(f"{CLASS_OF_VARIABLE[owner]}.{member}")
    return found
