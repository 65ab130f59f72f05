"""A bundle on a 64-bit Arm processor: golden logits, and every layer's codes, sums and outputs.

    bash benchmarks/aarch64.sh --cpus cortex-a57,neoverse-n1,max

The shell script prepares an Arm userland and calls this. A model is quantized here; the rooms of
EdgeViT that a board gets then run it in the emulator, in each form that the bundle has. For each
layer the simulation starts from the input the Arm engine itself had there, so that codes, int32
sums and float32 outputs are compared bit for bit (see `edgevit.targets.cpu.parity`). Exit status 1
if, in the form that the board's runner takes, codes, sums or classes differ, or outputs by more
than Arm's rounding once (fused multiply-add) where x86 rounds twice.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rows import add_row

from edgevit import api
from edgevit.bundle import open_bundle
from edgevit.bundle.manifest import MAIN_VARIANT
from edgevit.data import open_images
from edgevit.deploy.thin_runner import thin_runner_files
from edgevit.runner.engines.onnxruntime.session import session_from_bundle
from edgevit.runner.measure.selfcheck import self_check
from edgevit.targets.cpu.kernels import kernels_in
from edgevit.targets.cpu.parity import Engine, Tensors, engine_here, integer_layer_parity
from edgevit.zoo import reference_images

# Without an Arm /proc/cpuinfo ONNX Runtime's reader of it ends in a segmentation fault. What the
# processor can do (asimddp, i8mm, ...) is not read from there but asked of the kernel, here qemu.
PARTS = {"cortex-a57": "d07", "cortex-a72": "d08", "cortex-a76": "d0b", "neoverse-n1": "d0c"}
PARTS["max"] = "d40"
CPUINFO = """processor\t: 0
Features\t: fp asimd cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0x{part}
CPU revision\t: 0

"""
BOARD = Path(__file__).with_name("aarch64_board.py")
Board = Callable[..., dict[str, Any]]


def install_rooms(folder: Path) -> None:
    """Copy what `edgevit deploy` sends to a board, and nothing else of EdgeViT."""
    for name, path in thin_runner_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / name)
    shutil.copy(BOARD, folder)


def emulated(cpu: str, userland: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts the Arm Python on this processor, and its environment."""
    python = next((userland / "usr/bin").glob("python3.[0-9]*[0-9]"))
    (userland / "proc").mkdir(exist_ok=True)
    (userland / "proc/cpuinfo").write_text(CPUINFO.format(part=PARTS.get(cpu, PARTS["max"])))
    environment = {
        "PATH": "/usr/bin",
        "PYTHONHOME": str(userland / "usr"),
        "PYTHONPATH": os.environ["PACKAGES"],
    }
    return [os.environ["QEMU"], "-cpu", cpu, "-L", str(userland), str(python)], environment


def board_with(python: list[str], environment: dict[str, str], rooms: Path) -> Board:
    """Return what runs the board's program with this Python and reads its answer."""
    paths = [str(rooms), environment.get("PYTHONPATH", "")]
    environment = {
        **environment,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(*arguments: str | Path) -> dict[str, Any]:
        command = [*python, str(rooms / BOARD.name), *map(str, arguments)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"the board's program ended with status {done.returncode}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    return run


def engine_on(board: Board, folder: Path) -> Engine:
    """Return the board's engine in the form `integer_layer_parity` asks for."""

    def engine(model: bytes, wanted: list[str], images: Any) -> tuple[Tensors, dict[str, str]]:
        (folder / "model.onnx").write_bytes(model)
        (folder / "names.json").write_text(json.dumps(wanted))
        np.save(folder / "images.npy", images)
        board("tensors", folder)
        with np.load(folder / "tensors.npz") as archive:
            values = {name: archive[str(i)] for i, name in enumerate(wanted)}
        return values, kernels_in(folder / "optimised.onnx", model)

    return engine


def compared_with_here(engine: Engine, counts: dict[str, int]) -> Engine:
    """Also count how many codes of whole runs are those of this machine's own engine."""

    def both(model: bytes, wanted: list[str], images: Any) -> tuple[Tensors, dict[str, str]]:
        values, kernels = engine(model, wanted, images)
        here, _ = engine_here(model, wanted, images)
        for name in wanted:
            if values[name].dtype in (np.int8, np.uint8):
                counts["codes_run"] += values[name].size
                counts["codes_unlike_here"] += int((values[name] != here[name]).sum())
        return values, kernels

    return both


def measure(
    options: argparse.Namespace, cpu: str, board: Board, work: Path, artefact: Any
) -> dict[str, Any]:
    """Return the row of one processor."""
    start = time.perf_counter()
    checked, bundle = board("golden", work / "bundle"), open_bundle(work / "bundle")
    normalize = artefact.model.preprocessing.normalize
    here = self_check(session_from_bundle(bundle, threads=1), bundle.golden(), normalize)
    images = open_images(reference_images("test")).subset(options.num_images, 1)
    pixels, _, _ = next(iter(images.batches(artefact.model.preprocessing, options.num_images)))
    counts = {"codes_run": 0, "codes_unlike_here": 0}
    layers = integer_layer_parity(
        artefact.quantized,
        normalize(pixels),
        layers_at_once=1000,
        engine=compared_with_here(engine_on(board, work), counts),
    )
    for layer in layers:
        if not layer.is_exact_up_to_fusing:
            print("  differs:", layer)
    return {
        "model": options.model,
        "bits": options.bits,
        "emulated": cpu,
        "machine": checked["machine"],
        "python": checked["python"],
        "engine": checked["engine"],
        "golden_images": checked["num_images"],
        "golden_agreement": checked["agreement_percent"],
        "golden_identical": checked["identical_percent"],
        "golden_max_error": checked["max_error"],
        "golden_rms_error_relative": checked["rms_error_relative"],
        "host_max_error": here.max_error,
        "host_rms_error_relative": here.rms_error_relative,
        "images": options.num_images,
        "layers": len(layers),
        "exact_layers": sum(layer.is_exact for layer in layers),
        "exact_up_to_fusing": sum(layer.is_exact_up_to_fusing for layer in layers),
        "codes": sum(layer.codes for layer in layers),
        "wrong_codes": sum(layer.wrong_codes for layer in layers),
        "sums": sum(layer.sums for layer in layers),
        "wrong_sums": sum(layer.wrong_sums for layer in layers),
        "outputs_rounded_once": sum(layer.fused_outputs for layer in layers),
        "wrong_outputs": sum(layer.wrong_outputs - layer.fused_outputs for layer in layers),
        "codes_unlike_host_run": counts["codes_unlike_here"] / max(counts["codes_run"], 1),
        "kernels": "+".join(sorted({layer.kernel for layer in layers})),
        "seconds": time.perf_counter() - start,
    }


def measure_forms(
    options: argparse.Namespace, cpu: str, board: Board, work: Path, artefact: Any
) -> list[dict[str, Any]]:
    """Return a row for each form of the model; `taken` is the one that the board's runner takes."""
    taken = board("golden", work / "bundle")["variant"]
    forms = {MAIN_VARIANT: artefact.quantized}
    forms |= {name: variant.quantized for name, variant in artefact.variants.items()}
    rows = []
    for name, quantized in forms.items():
        row = measure(options, cpu, board, work, replace(artefact, quantized=quantized))
        rows.append({**row, "method": options.method, "variant": name, "taken": name == taken})
    return rows


def is_good(row: dict[str, Any]) -> bool:
    """Return whether the board computes the simulation's integers and names its classes."""
    same = row["exact_up_to_fusing"] == row["layers"] > 0
    return bool(same and row["golden_agreement"] == 100)


def add_options(parser: argparse.ArgumentParser, table: str, bits: int) -> None:
    """Add what can be asked of every emulated processor; rows go to results/TABLE.csv."""
    parser.add_argument("--model", default="vit_cifar10", help="an embedded model")
    parser.add_argument("--bits", type=int, default=bits)
    parser.add_argument("--method", default="edgevit")
    parser.add_argument("--num-images", type=int, default=4)
    parser.add_argument("--record", action="store_true", help=f"append to results/{table}.csv")


def run_on(
    cpus: list[str],
    started_on: Callable[[str], tuple[list[str], dict[str, str]]],
    table: str,
    options: argparse.Namespace,
) -> bool:
    """Measure a bundle on processors, print or record the rows.

    Args:
        cpus: Names that qemu knows.
        started_on: Returns the command that starts Python on one of them, and its environment.
        table: Name of the CSV.
        options: As `add_options` says.

    Returns:
        Whether on each of them the form that the runner takes is good.
    """
    artefact = api.quantize(
        options.model, reference_images("calibration"), bits=options.bits, method=options.method
    )
    good = []
    with tempfile.TemporaryDirectory(prefix="edgevit-") as folder:
        work = Path(folder)
        install_rooms(work / "rooms")
        artefact.save(work / "bundle")
        for cpu in cpus:
            board = board_with(*started_on(cpu), work / "rooms")
            for row in measure_forms(options, cpu, board, work, artefact):
                add_row(table, row) if options.record else print(row, flush=True)
                good += [is_good(row)] if row["taken"] else []
    return len(good) == len(cpus) and all(good)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpus", default="cortex-a57,neoverse-n1,max", help="names qemu knows")
    add_options(parser, "aarch64", bits=6)
    options = parser.parse_args()
    userland = Path(os.environ["USERLAND"])
    good = run_on(options.cpus.split(","), lambda cpu: emulated(cpu, userland), "aarch64", options)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
