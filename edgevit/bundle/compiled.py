"""The compiled engines of a bundle: rows of the manifest's ``engines``, one for each file.

An engine is a program in effect. Here its row is checked and its file is read; whether it may be
run is decided by whoever opens it.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

from edgevit.bundle.kernels import is_sha256
from edgevit.bundle.manifest import CAPABILITIES, ENGINE_FILES, MAIN_VARIANT
from edgevit.bundle.manifest_schema import bad_manifest

MAX_ENGINE_BYTES = 3 << 30
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){1,4}\Z")
_ENGINE = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_MAX_BATCH, _MAX_SECONDS = 1 << 20, 1e7


@dataclass(frozen=True)
class CompiledFile:
    """An engine to be kept in a bundle, or its row in a manifest.

    Args:
        variant: Form of the model it was compiled of.
        capabilities: What it was compiled for, such as ("SM86", "SM89").
        engine: Name of what compiled it and runs it, such as "tensorrt_rtx".
        version: Of that.
        batches: Smallest, best and largest batch.
        list_sha256: SHA-256 of the compiler's list of kernels.
        seconds: How long it took.
        data: The engine; empty in what is read from a manifest.
    """

    variant: str
    capabilities: tuple[str, ...]
    engine: str
    version: str
    batches: tuple[int, int, int]
    list_sha256: str
    seconds: float
    data: bytes = field(default=b"", repr=False)

    @property
    def file(self) -> str:
        """Name of its file in the bundle."""
        return ENGINE_FILES[self.variant, self.capabilities[0]]

    def to_dict(self) -> dict[str, Any]:
        """Return its row."""
        return {
            "variant": self.variant,
            "file": self.file,
            "engine": self.engine,
            "version": self.version,
            "capabilities": list(self.capabilities),
            "batches": list(self.batches),
            "list_sha256": self.list_sha256,
            "seconds": round(self.seconds, 3),
        }


def check_engines(manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest whose engines are malformed, or are not those in its ``files``.

    Raises:
        BundleError: EV402.
    """
    rows = manifest.get("engines", [])
    if not isinstance(rows, list) or len(rows) > len(ENGINE_FILES):
        raise bad_manifest(f"engines is not a list of at most {len(ENGINE_FILES)}")
    variants = (MAIN_VARIANT, *manifest.get("variants", {}))
    files: set[str] = set()
    served: set[tuple[str, str]] = set()
    for index, row in enumerate(rows):
        wrong = _wrong(row, variants)
        if wrong:
            raise bad_manifest(f"engines.{index}{wrong}")
        pairs = {(row["variant"], capability) for capability in row["capabilities"]}
        if len(pairs) != len(row["capabilities"]) or served & pairs:
            raise bad_manifest(f"engines.{index} is for a card that has an engine already")
        served |= pairs
        files.add(row["file"])
    if files != set(ENGINE_FILES.values()) & set(manifest["files"]):
        raise bad_manifest("engines does not name the engines in files")


def _wrong(row: Any, variants: tuple[str, ...]) -> str:
    """Return what is wrong with a row, or an empty string."""
    if not isinstance(row, dict) or set(row) != set(_ROW):
        return f" has other keys than {', '.join(_ROW)}"
    for key, check in _ROW.items():
        if not check(row[key]):
            return f".{key} has the wrong type or value"
    if row["variant"] not in variants:
        return ".variant is none of the bundle's"
    named = ENGINE_FILES[row["variant"], row["capabilities"][0]]
    return "" if row["file"] == named else f".file is not {named}"


def _is_batches(value: Any) -> bool:
    if not isinstance(value, list) or [type(one) for one in value] != [int] * 3:
        return False
    smallest, best, largest = value
    return bool(1 <= smallest <= best <= largest <= _MAX_BATCH)


def _is_capabilities(value: Any) -> bool:
    if not isinstance(value, list) or not 0 < len(value) <= len(CAPABILITIES):
        return False
    return all(isinstance(one, str) and one in CAPABILITIES for one in value)


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= _MAX_SECONDS


_ROW = {
    "variant": lambda value: isinstance(value, str),
    "file": lambda value: isinstance(value, str),
    "engine": lambda value: isinstance(value, str) and bool(_ENGINE.match(value)),
    "version": lambda value: isinstance(value, str) and bool(_VERSION.match(value)),
    "capabilities": _is_capabilities,
    "batches": _is_batches,
    "list_sha256": is_sha256,
    "seconds": _is_seconds,
}


def is_left_out(folder: Path, name: str) -> bool:
    """Return whether a file of a bundle is an engine that was not copied with it."""
    return name in ENGINE_FILES.values() and not os.path.lexists(str(folder / name))
