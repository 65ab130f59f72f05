"""Images in, uint8 batches out: folders, archives and arrays, decoded and cropped for a model.

Needs numpy and Pillow only, so that a board without torch can read the same images.
"""

from __future__ import annotations

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
