"""Lists the files of EdgeViT that go to the board: they need Python 3.8, numpy and an engine."""

from __future__ import annotations

from pathlib import Path

_FILES = (
    "__init__.py",
    "errors.py",
    "version.py",
    "bundle/**/*.py",
    "data/__init__.py",
    "data/normalizing.py",
    "data/paths.py",
    "data/tasks.py",
    "runner/**/*.py",
    "scratch.py",
)


def thin_runner_files() -> dict[str, Path]:
    """Return name below the folder that is put on the board's path -> file here."""
    home = Path(__file__).resolve().parents[1]
    found = [path for pattern in _FILES for path in home.glob(pattern)]
    return {f"edgevit/{path.relative_to(home).as_posix()}": path for path in sorted(found)}
