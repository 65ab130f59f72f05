"""An execution provider that comes as a library of its own and is registered with ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping


@dataclass(frozen=True)
class ProviderPlugin:
    """A registered provider with the devices it runs on.

    Which one that is, and with which options, is never said by a bundle.

    Args:
        name: Of the provider.
        devices: ONNX Runtime's OrtEpDevice of each.
        options: Of the provider.
    """

    name: str
    devices: tuple[Any, ...]
    options: Mapping[str, str] = field(default_factory=dict)
