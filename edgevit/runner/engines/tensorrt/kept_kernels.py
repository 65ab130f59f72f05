"""The place of the kernels that TensorRT for RTX made for this card, beside their engine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgevit.runner.engines.tensorrt.caching import EngineCache, digest_of

_DRIVER = Path("/proc/driver/nvidia/version")


def kernels_key(engine: str, driver: str) -> str:
    """Return the key of the kernels that an engine made for its card under a driver.

    Args:
        engine: The engine's own key, which names the card.
        driver: Its version; empty where it is not known.
    """
    return digest_of({"engine": engine, "driver": driver})


def driver_version(file: Path = _DRIVER) -> str:
    """Return the version of NVIDIA's driver such as "580.65.06", "" where there is none."""
    text = file.read_text(errors="replace") if file.is_file() else ""
    found = re.search(r"Kernel Module\D*?(?:x86_64|aarch64)?\s+(\d+\.\d+(?:\.\d+)?)", text)
    return found.group(1) if found else ""


@dataclass(frozen=True)
class KernelStore:
    """The place of one engine's kernels in a cache.

    Args:
        cache: The folder.
        key: What `kernels_key` returns.
    """

    cache: EngineCache
    key: str

    def read(self) -> bytes | None:
        """Return what is there, None if nothing is, and nothing of what is damaged."""
        return self.cache.kernels(self.key)

    def write(self, data: bytes) -> None:
        """Keep it; raises EV755 as `EngineCache.store_kernels`."""
        self.cache.store_kernels(self.key, data)

    def forget(self) -> None:
        """Remove it."""
        self.cache.forget_kernels(self.key)
