"""How much of timm and transformers works: one row a model, each in a process of its own.

    python benchmarks/families.py --data imagenet_sample

Models that have a row are skipped, so the run can be stopped and started again; --redo measures
those named again, and of two rows of one model the last counts. `docs/families.md` is written from
the rows (``python tests/doc_tables.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from family_list import FamilyModel, family_models
from rows import add_row, read_rows

from edgevit.bundle.limits import MEMORY_VARIABLE

TABLE = "families"
COLUMNS = (
    "model",
    "family",
    "library",
    "mobile",
    "arguments",
    "input_size",
    "megaparameters",
    "captured",
    "on_cpu",
    "agreement_percent",
    "identical_percent",
    "difference_to_noise",
    "integer_percent",
    "float_reasons",
    "latency_ratio",
    "w6a6",
    "w6a6_difference_to_noise",
    "jetson",
    "jetson_errors",
    "jetson_rules",
    "sm89",
    "seconds",
    "error",
)
"""`captured`, `on_cpu` (quantized to W8A8, saved, opened and run), `w6a6` (method edgevit on cpu),
`jetson` (exported and checked) and `sm89` (compiled) are "yes", "no" where a step before failed,
empty where nobody asked, or the code of the error."""
STEPS = ("captured", "on_cpu", "w6a6", "jetson", "sm89")


def one_third(models: tuple[FamilyModel, ...]) -> set[str]:
    """Return the names of every third model: those that the method `edgevit` is run on too."""
    return {model.name for model in models[::3]}


MEMORY_MB = "2500"
"""What the activations of 16 images may take: two convolutional hybrids need more than the usual
1000 (EV421)."""


def is_done(model: FamilyModel) -> bool:
    """Return whether a model has a row."""
    return any(row["model"] == model.name for row in read_rows(TABLE))


def measured(model: FamilyModel, options: argparse.Namespace) -> dict[str, Any]:
    """Return the row of a model, as far as a process of its own gets in time and memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.json"
        command = [sys.executable, __file__, "--one", model.name, "--row", str(path)]
        command += ["--num-images", str(options.num_images), "--memory-gb", str(options.memory_gb)]
        command += ["--data", options.data] if options.data else []
        log = Path(folder) / "log"
        try:
            with log.open("w") as file:
                ended = subprocess.run(
                    command, timeout=options.timeout, stdout=file, stderr=file, check=False
                ).returncode
            why = f"ended with status {ended}: {log.read_text()[-200:]}" if ended else ""
        except subprocess.TimeoutExpired:
            why = f"took more than {options.timeout} seconds"
        row = json.loads(path.read_text()) if path.exists() else {}
    full = {**dict.fromkeys(COLUMNS, ""), **_named(model), **row}
    return {**full, "error": " ".join(why.split())} if why else full


def _named(model: FamilyModel) -> dict[str, Any]:
    arguments = ", ".join(f"{name}={_text(value)}" for name, value in model.arguments.items())
    return {
        "model": model.name,
        "family": model.family,
        "library": model.library,
        "mobile": "yes" if model.is_mobile else "no",
        "arguments": arguments,
    }


def _text(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[2], dict):
        return f"{value[1]}({', '.join(f'{k}={_text(v)}' for k, v in value[2].items())})"
    return repr(value)


def measure_here(options: argparse.Namespace) -> None:
    """Measure one model in this process and keep its row after each step."""
    from family_steps import Trial

    os.environ.setdefault(MEMORY_VARIABLE, MEMORY_MB)
    bytes_ = options.memory_gb << 30
    resource.setrlimit(resource.RLIMIT_DATA, (bytes_, bytes_))
    models = family_models()
    model = next(model for model in models if model.name == options.one)
    steps = [step for step in STEPS if step != "w6a6" or model.name in one_third(models)]
    trial = Trial(model=model, data=options.data, num_images=options.num_images)
    for row in trial.rows(steps):
        Path(options.row).write_text(json.dumps(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="real images; photographs that come with EdgeViT if not")
    parser.add_argument("--models", default="", help="names, all if left out")
    parser.add_argument("--part", default="1/1", help="such as 1/2, for two runs side by side")
    parser.add_argument("--num-images", type=int, default=8, help="to calibrate and compare on")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for one model")
    parser.add_argument("--memory-gb", type=int, default=12, help="memory for one model")
    parser.add_argument("--redo", action="store_true", help="measure what has a row again")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure_here(options)
        return
    wanted = set(options.models.split(",")) - {""}
    first, parts = map(int, options.part.split("/"))
    for model in family_models()[first - 1 :: parts]:
        if (not wanted or model.name in wanted) and (options.redo or not is_done(model)):
            add_row(TABLE, measured(model, options))


if __name__ == "__main__":
    main()
