"""A model name, checkpoint or module in; a model in eval mode and its preprocessing out.

The public names are loaded on first use: listing models and finding the embedded images needs
no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgevit.zoo.embedded import EMBEDDED_MODELS, reference_images
    from edgevit.zoo.listing import ModelRow, list_models
    from edgevit.zoo.loaded import LoadedModel, loaded_from_module
    from edgevit.zoo.loading import load_model

__all__ = [
    "EMBEDDED_MODELS",
    "LoadedModel",
    "ModelRow",
    "list_models",
    "load_model",
    "loaded_from_module",
    "reference_images",
]
_HOMES = {
    "EMBEDDED_MODELS": "embedded",
    "LoadedModel": "loaded",
    "ModelRow": "listing",
    "list_models": "listing",
    "load_model": "loading",
    "loaded_from_module": "loaded",
    "reference_images": "embedded",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgevit.zoo' has no attribute {name!r}")
    return getattr(import_module(f"edgevit.zoo.{_HOMES[name]}"), name)
