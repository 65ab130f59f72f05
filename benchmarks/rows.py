"""Appends rows to a CSV under benchmarks/results, each with the command that made it."""

from __future__ import annotations

import csv
import platform
import shlex
import sys
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def processor() -> str:
    """Return the processor's name as the kernel gives it, or the machine type."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def add_row(name: str, row: dict[str, Any]) -> None:
    """Append one row to results/NAME.csv (header from the first row) and print it."""
    script = Path(sys.argv[0])
    arguments = [a if "/" not in a else Path(a).name for a in sys.argv[1:]]
    command = shlex.join(["python", f"benchmarks/{script.name}", *arguments])
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
    full = {**rounded, "date": date.today().isoformat(), "cpu": processor(), "command": command}
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(full))
        if is_new:
            writer.writeheader()
        writer.writerow(full)
    print(full, flush=True)
