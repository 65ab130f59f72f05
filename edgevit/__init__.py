"""EdgeViT: post-training quantization of vision transformers; what is calibrated is what runs.

The public names are loaded on first use, so that importing the package costs nothing and a
board without torch can still open and run a bundle.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgevit.version import __version__

if TYPE_CHECKING:
    from edgevit.api import Artefact, build, check, inspect, load, quantize, sensitivity, validate
    from edgevit.errors import EdgeViTError
    from edgevit.recipe import Recipe

__all__ = [
    "Artefact",
    "EdgeViTError",
    "Recipe",
    "__version__",
    "build",
    "check",
    "inspect",
    "load",
    "quantize",
    "sensitivity",
    "validate",
]

_HOMES = {"EdgeViTError": "edgevit.errors", "Recipe": "edgevit.recipe"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'edgevit' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "edgevit.api")), name)
