"""The tables of methods: every method at every width on the small models, or on a real DeiT-Tiny.

One cell is one calibration, run over all test images. Each finished cell is appended to
results/TABLE.csv at once, and its per-image results are kept in the cache, so that the benchmark
can be stopped and started again and methods can be compared image by image later.
"""

from __future__ import annotations

import argparse
import subprocess
import time
import traceback
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cells import Cell, cells, is_done
from paired import mean_interval, percent
from rows import add_row
from subjects import Run, Subject, in_batches, save, subject

from edgevit.calibration.methods import method_named
from edgevit.calibration.run import calibrate
from edgevit.data import open_images
from edgevit.errors import EdgeViTError, UnsupportedError
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.runner.measure.statistics import drop_points
from edgevit.targets.onnx.builder import whole_model
from edgevit.targets.registry import target_named


def run(options: argparse.Namespace) -> int:
    """Measure all cells that have no row yet; return how many could not be measured."""
    torch.set_num_threads(options.threads)
    failed = 0

    @cache
    def subject_of(model: str, twin: str) -> Subject:
        return subject(
            model,
            twin,
            options.data,
            options.num_images,
            options.threads,
            options.batch,
            options.weights,
        )

    @cache
    def images_of(model: str, num: int, seed: int) -> torch.Tensor:
        preprocessing = subject_of(model, "plain").preprocessing
        parts = open_images(options.calib).subset(num, seed).batches(preprocessing, 64)
        pixels = np.concatenate([part[0] for part in parts])  # [num, H, W, 3]
        return torch.from_numpy(preprocessing.normalize(pixels))

    for cell in cells(options):
        if not options.redo and is_done(cell, options.num_images, options.table):
            continue
        try:
            on = subject_of(cell.model, cell.twin)
            images = images_of(cell.model, cell.num_calib, cell.seed)
            add_row(options.table, measure(cell, on, images, options))
        except Exception as error:  # one method's defect must not cost the rest of a night
            failed += 1
            print(f"no row of {cell}: {type(error).__name__}: {error}", flush=True)
            if not isinstance(error, EdgeViTError):
                traceback.print_exc()
    return failed


def measure(
    cell: Cell, on: Subject, calibration: torch.Tensor, options: argparse.Namespace
) -> dict[str, Any]:
    """Calibrate, run, keep the per-image results; return the row."""
    start, start_cpu = time.perf_counter(), time.process_time()
    quantized, engine, refusal = quantized_for(cell, on, calibration)
    calibrated, calibrated_cpu = time.perf_counter(), time.process_time()
    runner = simulation(quantized) if engine is None else engine.run
    sizes = {"batch": options.batch, "threads": options.threads}
    logits = in_batches(runner, on.images.pixels, on.preprocessing, **sizes)
    part = np.linspace(0, len(logits) - 1, min(options.simulated, len(logits))).astype(int)
    simulated = logits[part]
    if engine is not None:
        pixels = on.images.pixels[part]
        simulated = in_batches(simulation(quantized), pixels, on.preprocessing, **sizes)
    found = per_image(on.logits, logits, on.images.labels)
    save(cell.path(on.images.name), **found)
    same = (simulated.argmax(1) == logits[part].argmax(1)).mean()
    return {
        **asdict(cell),
        "asked_images": options.num_images or "all",
        **row(found, on),
        "runs_on": "simulation" if engine is None else "engine",
        "refusal": refusal,
        "agreement_simulated": "" if engine is None else 100 * float(same),
        "simulated_images": "" if engine is None else len(part),
        "calibration_seconds": calibrated - start,
        "calibration_cpu_seconds": calibrated_cpu - start_cpu,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
        "revision": revision(),
    }


def quantized_for(
    cell: Cell, on: Subject, images: torch.Tensor
) -> tuple[QuantizedGraph, EngineSession | None, str]:
    """Return the quantized graph and its engine; no engine and the reason where cpu refuses.

    Raises:
        UnsupportedError: The simulation refuses it too.
    """
    try:
        quantized = _calibrated("cpu", cell, on, images)
        lowered = target_named("cpu").lower(quantized)
    except UnsupportedError as error:
        return _calibrated("simulation", cell, on, images), None, f"{error.code} {error.what}"
    onnx = whole_model(lowered.onnx, lowered.tensors)
    return quantized, EngineSession(onnx, threads=1, session_config=lowered.session_config), ""


def _calibrated(target: str, cell: Cell, on: Subject, images: torch.Tensor) -> QuantizedGraph:
    placement = target_named(target).place(
        on.graph, weight_bits=cell.weight_bits, act_bits=cell.act_bits
    )
    return calibrate(on.graph, placement, images, method_named(cell.method), seed=cell.seed)


def simulation(quantized: QuantizedGraph) -> Run:
    """Return the exact integer simulation as a function of arrays."""
    return lambda images: quantized.forward(torch.from_numpy(images)).numpy()


def per_image(
    reference: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
) -> dict[str, npt.NDArray[Any]]:
    """Return kl float32 [N] in nats, agrees, right and fp32_right bool [N].

    kl is that of softmax(logits) from softmax(reference).
    """
    p, q = log_softmax(reference), log_softmax(logits)  # [N, classes]
    best, reference_best = logits.argmax(1), reference.argmax(1)
    return {
        "kl": (np.exp(p) * (p - q)).sum(1).astype(np.float32),
        "agrees": best == reference_best,
        "right": best == labels,
        "fp32_right": reference_best == labels,
    }


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return log softmax over the last axis in float64."""
    x = logits.astype(np.float64)
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def row(found: dict[str, npt.NDArray[Any]], on: Subject) -> dict[str, Any]:
    """Return the accuracies of a cell with their 95 % intervals."""
    right, fp32 = found["right"], found["fp32_right"]
    drop = drop_points(int((fp32 & ~right).sum()), int((right & ~fp32).sum()), len(right))
    kl, agreement = mean_interval(found["kl"]), percent(found["agrees"])
    return {
        "images": len(right),
        "images_sha256": on.images.name,
        "top1_fp32": 100 * float(fp32.mean()),
        "top1": 100 * float(right.mean()),
        "drop_points": drop.value,
        "drop_low": drop.low,
        "drop_high": drop.high,
        "agreement_fp32": agreement.value,
        "agreement_low": agreement.low,
        "agreement_high": agreement.high,
        "kl_to_fp32": kl.value,
        "kl_low": kl.low,
        "kl_high": kl.high,
    }


@cache
def revision() -> str:
    """Return the commit that was measured, with a + when edgevit/ had changes not committed."""
    here = Path(__file__).parent.parent
    ask = {"cwd": here, "capture_output": True, "text": True}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **ask).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "edgevit"], **ask).stdout.strip()
    return commit + "+" * bool(changed)
