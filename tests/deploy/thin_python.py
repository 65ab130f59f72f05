"""A Python that has what a board has: some packages of the running one, and no other."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path


def bare_python(folder: Path, *packages: str) -> str:
    """Make an environment of this Python that has these packages of it and no other.

    Returns:
        What PATH is on a board with that Python.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    inside = next(folder.glob("lib/python3*/site-packages"))
    for package in packages:
        spec = find_spec(package)
        assert spec is not None, package
        assert spec.origin is not None, package
        here = Path(spec.origin).parents[1]
        for found in (here / package, *here.glob(f"{package}.libs"), *here.glob(f"{package}-*")):
            (inside / found.name).symlink_to(found)
    return f"{folder}/bin:/usr/bin:/bin"
