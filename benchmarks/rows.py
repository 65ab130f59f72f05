"""Appends rows to a CSV under benchmarks/results, each with the command that made it."""

from __future__ import annotations

import csv
import platform
import re
import shlex
import sys
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_FOLDERS = re.compile(r"^((?:--[a-z-]+=)?)[/~.][^,]*/")
"""Where the files of this machine lie: no part of a command that others can run."""


def processor() -> str:
    """Return the processor's name as the kernel gives it, or the machine type."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def read_rows(name: str) -> list[dict[str, str]]:
    """Return the rows of results/NAME.csv, none when there is no such file."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add_row(name: str, row: dict[str, Any]) -> None:
    """Append one row to results/NAME.csv (header from the first row) and print it.

    Raises:
        ValueError: The file has other columns.
    """
    arguments = [_FOLDERS.sub(r"\1", a) for a in sys.argv[1:]]
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments])
    rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
    full = {**rounded, "date": date.today().isoformat(), "cpu": processor(), "command": command}
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    is_new = not path.exists()
    if not is_new:
        _check_header(path, list(full))
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(full))
        if is_new:
            writer.writeheader()
        writer.writerow(full)
    print(full, flush=True)


def _check_header(path: Path, wanted: list[str]) -> None:
    with path.open(newline="") as file:
        found = next(csv.reader(file), None)
    if found != wanted:
        raise ValueError(f"{path.name} has the columns {found}, not {wanted}")
