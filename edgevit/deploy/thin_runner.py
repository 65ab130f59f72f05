"""What of EdgeViT goes to the board: the rooms that need Python 3.8, numpy and an engine only."""

from __future__ import annotations

from pathlib import Path

import edgevit

_FILES = (
    "__init__.py",
    "errors.py",
    "bundle/*.py",
    "data/__init__.py",
    "data/normalizing.py",
    "data/paths.py",
    "quantizers/__init__.py",
    "quantizers/packing.py",
    "report/__init__.py",
    "report/eer.py",
    "report/statistics.py",
    "report/validation.py",
    "runner/**/*.py",
    "scratch.py",
    "targets/__init__.py",
    "targets/engine_probe.py",
    "targets/profiles.py",
)


def thin_runner_files() -> dict[str, Path]:
    """Return name below the folder that is put on the board's path -> file here."""
    home = Path(edgevit.__file__).resolve().parent
    found = [path for pattern in _FILES for path in home.glob(pattern)]
    return {f"edgevit/{path.relative_to(home).as_posix()}": path for path in sorted(found)}
