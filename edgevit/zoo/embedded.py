"""The two small CIFAR-10 models and the image sets that are installed with EdgeViT."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.errors import EnvironmentError_, UsageError

if TYPE_CHECKING:
    from torch import nn

EMBEDDED_MODELS = ("vit_cifar10", "swin_cifar10")
SPLITS = ("calibration", "test")
_CLASSES = {
    "VisionTransformer": "timm.models.vision_transformer",
    "SwinTransformer": "timm.models.swin_transformer",
}


def reference_images(split: str) -> Path:
    """Return the zip of embedded CIFAR-10 images: 256 for calibration, 1,000 for the test.

    Raises:
        UsageError: Another split (EV163).
        EnvironmentError_: The installation is incomplete (EV160).
    """
    if split not in SPLITS:
        raise UsageError("EV163", "There is no such split.", where=split, try_next=str(SPLITS))
    return asset(f"{split}.zip")


def embedded_config(name: str) -> dict[str, Any]:
    """Return class, arguments, preprocessing and class names of an embedded model.

    Raises:
        EnvironmentError_: The installation is incomplete (EV160).
    """
    configs = json.loads(asset("reference_models.json").read_text(encoding="utf-8"))
    if name not in configs:
        raise _incomplete(f"reference_models.json has no {name}")
    config: dict[str, Any] = configs[name]
    return config


def build_embedded(config: dict[str, Any]) -> nn.Module:
    """Build an embedded model with weights drawn from torch's current seed."""
    from importlib import import_module

    home = import_module(_CLASSES[config["class"]])
    model: nn.Module = getattr(home, config["class"])(**config["kwargs"])
    return model


def asset(name: str) -> Path:
    """Return the path of an installed file.

    Raises:
        EnvironmentError_: It is not there (EV160).
    """
    path = Path(str(files("edgevit") / "assets" / name))
    if not path.is_file():
        raise _incomplete(f"{path} is missing")
    return path


def _incomplete(why: str) -> EnvironmentError_:
    return EnvironmentError_(
        "EV160", "EdgeViT is not installed completely.", why=why, try_next="Install it again."
    )
