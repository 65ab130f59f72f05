"""Where the real DeiT-Tiny and the real images lie: $EDGEVIT_DATA, or shared/data by the checkout.

None of it comes with EdgeViT: what needs it prints SKIPPED where it is missing.
"""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ.get("EDGEVIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA / "deit_tiny.safetensors"
PHOTOS = DATA / "photos"
"""Photographs to calibrate on."""
IMAGENET = DATA / "imagenet_sample"
"""400 labelled images of ImageNet to measure on."""
CIFAR = DATA / "cifar10.tar.gz"


def is_missing(*needed: Path) -> bool:
    """Return whether any of these is missing; print SKIPPED and which if so."""
    missing = [path.name for path in needed if not path.exists()]
    if missing:
        print(f"SKIPPED: {', '.join(missing)} not found; set EDGEVIT_DATA")
    return bool(missing)
