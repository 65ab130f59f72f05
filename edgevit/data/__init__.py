"""Images in, uint8 batches out: folders, archives and arrays, decoded and cropped for a model.

Needs numpy and Pillow; `edgevit.data.normalizing` alone does without Pillow, which is why the
names below are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgevit.data.decoding import image_from_bytes, rgb_from_image
    from edgevit.data.imageset import ImageItem, ImageSet
    from edgevit.data.labels import labels_for
    from edgevit.data.opening import open_images
    from edgevit.data.preprocessing import Preprocessing

__all__ = [
    "ImageItem",
    "ImageSet",
    "Preprocessing",
    "image_from_bytes",
    "labels_for",
    "open_images",
    "rgb_from_image",
]

_HOMES = {
    "ImageItem": "imageset",
    "ImageSet": "imageset",
    "Preprocessing": "preprocessing",
    "image_from_bytes": "decoding",
    "labels_for": "labels",
    "open_images": "opening",
    "rgb_from_image": "decoding",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgevit.data' has no attribute {name!r}")
    return getattr(import_module(f"edgevit.data.{_HOMES[name]}"), name)
