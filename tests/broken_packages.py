"""Packages that can't be used, each in its own way."""

from __future__ import annotations

from pathlib import Path

BROKEN = {
    "raises": (
        "raise ImportError('libonnxruntime.so.1: cannot open shared object file')",
        "libonnxruntime.so.1: cannot open shared object file",
    ),
    "stub": ("", "has no __version__"),
    "no processor": (
        "__version__ = '1.20.0'\ndef get_available_providers():\n    return ['CUDA']",
        "no CPUExecutionProvider",
    ),
    "crashes": ("import os\nos.abort()", "its import ends with status -6"),
    "exits": ("raise SystemExit(0)", "its import ends without a word"),
}
"""Name -> what its __init__.py holds, and words of the finding."""


def package(folder: Path, name: str, source: str) -> Path:
    """Write a package with this source below a folder that goes on the path."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source + "\n")
    return folder
