"""The first run on a machine with a GPU: does TensorRT for RTX run there, is it right, how fast?

    bash benchmarks/gpu.sh                      all of it, six minutes at most
    bash benchmarks/gpu.sh --device cpu --models vit_cifar10      a dry run of what torch does

If the engine runs: parity of every variant with the golden logits, and latency of all of them in
alternation at several batch sizes, beside the cost model's prediction. If it does not (a card that
it is not for): the same graphs through torch, and the roundings through Triton, so that at least
the numbers are checked on a GPU. Every finding is one line of JSON. Exit status 75: no GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_torch import TorchGraph

import edgevit
from edgevit.bundle import Bundle
from edgevit.data.normalizing import normalizer
from edgevit.runner.engines.tensorrt.building import BuildSettings, plan_from_onnx
from edgevit.runner.engines.tensorrt.parity import check_parity
from edgevit.runner.engines.tensorrt.session import TensorRTSession
from edgevit.runner.engines.tensorrt_rtx.compiling import compiled_from_onnx
from edgevit.targets.tensorrt.profiles import PROFILES
from edgevit.zoo import EMBEDDED_MODELS

NO_GPU = 75
TARGET = "tensorrt-ada"
"""It has all variants and the graphs of the RTX cards; for those, quantizing would compile."""
ROUNDS, RUNS = 5, 20
"""Of the alternation, and of an engine in one turn."""
SETTINGS = BuildSettings(best_batch=8, max_batch=64)
_BEGAN = time.monotonic()


def say(what: str, **facts: Any) -> None:
    """Print one finding."""
    at_s = round(time.monotonic() - _BEGAN, 1)
    print(json.dumps({"what": what, **facts, "at_s": at_s}), flush=True)


def main() -> int:
    """Return the exit status."""
    asked = _asked()
    if asked.device == "cuda" and not torch.cuda.is_available():
        say("no GPU", why="torch sees none", try_next="--device cpu is a dry run without one")
        return NO_GPU
    say("machine", **_machine(asked.device))
    bundles = {name: _bundle(name, asked) for name in asked.models.split(",")}
    refused = "there is no card: a dry run"
    if asked.device == "cuda":
        refused = _why_not(next(iter(bundles.values())).engine_onnx())
    say("TensorRT for RTX", runs=not refused, why=refused)
    for name, bundle in bundles.items():
        if _left(asked) < 20:
            say("out of time", left_out=name)
            continue
        for variant in bundle.variants:
            _predict(name, bundle, variant, asked.device, list(map(int, asked.batches.split(","))))
        (_with_torch if refused else _with_engine)(name, bundle, asked)
    _roundings(bundles, asked.device)
    return 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", default="deit_s,vit_b,swin_t")
    parser.add_argument("--bundles", type=Path, help="folder of bundles NAME, else they are made")
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=330, help="no model begins after that")
    return parser.parse_args()


def _left(asked: argparse.Namespace) -> float:
    return float(asked.seconds) - (time.monotonic() - _BEGAN)


def _machine(device: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"torch": torch.__version__, "device": device}
    if device == "cuda":
        one = torch.cuda.get_device_properties(0)
        facts |= {"gpu": one.name, "capability": f"{one.major}.{one.minor}"}
    return facts


def _bundle(name: str, asked: argparse.Namespace) -> Bundle:
    if asked.bundles is not None:
        return edgevit.load(asked.bundles / name)
    trained = name in EMBEDDED_MODELS
    settings = {"bits": 8, "target": TARGET, "method": "minmax", "num_calib": 8}
    artefact = edgevit.quantize(name, pretrained=None if trained else False, **settings)
    say("quantized", model=name, weights="trained" if trained else "untrained")
    return artefact.save(Path(tempfile.mkdtemp()) / name)


def _why_not(onnx: bytes) -> str:
    """Return why TensorRT for RTX does not run a graph here, "" if it does; in another process."""
    script = str(Path(__file__).with_name("gpu_engine.py"))
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(onnx)
        try:
            tried = subprocess.run(
                [sys.executable, script, file.name], capture_output=True, text=True, timeout=90
            )
        except subprocess.TimeoutExpired:
            return "it does not answer within 90 seconds"
    said = (tried.stderr or tried.stdout).strip().splitlines()
    return "" if tried.returncode == 0 else f"status {tried.returncode}: {' | '.join(said[-6:])}"


def _with_torch(name: str, bundle: Bundle, asked: argparse.Namespace) -> None:
    """Parity of every variant of a model, run by torch as it is written and in integers."""
    torch.backends.cuda.matmul.allow_tf32 = False
    for variant in bundle.variants:
        for integers in (False, True)[: 1 if variant == "fp16" else 2]:
            session = TorchGraph(bundle.engine_onnx(variant), asked.device, integers=integers)
            _parity(name, bundle, variant, session)
            say("products", model=name, variant=variant, **session.products)


def _parity(name: str, bundle: Bundle, variant: str, session: Any) -> None:
    found = check_parity(session, bundle.golden(), normalizer(bundle.preprocessing), variant)
    say("parity", model=name, variant=variant, engine=session.engine, **asdict(found))


def _predict(name: str, bundle: Bundle, variant: str, device: str, batches: list[int]) -> None:
    """Say what the cost model expects of an engine compiled ahead of time; for its card or Ada."""
    try:
        from edgevit.bundle.graph_values import graph_values
        from edgevit.runner.engines.tensorrt.cost_model import kernel_works, predicted_ms
        from edgevit.runner.engines.tensorrt.device_peaks import DEVICES
        from edgevit.runner.engines.tensorrt.kernel_sizes import sized_kernels
    except ImportError as error:  # a version without a cost model
        say("prediction", model=name, variant=variant, why=str(error))
        return
    capability = _machine(device).get("capability", "8.9")
    cards = [one for one in PROFILES.values() if one.engine == "tensorrt_rtx"]
    card = next((one for one in cards if one.compute_capability == capability), None)
    if card is None:
        say("prediction", model=name, variant=variant, why=f"no RTX card has {capability}")
        return
    try:
        layers = compiled_from_onnx(bundle.engine_onnx(variant), (card.compiles_as,)).layers
        works = kernel_works(sized_kernels(layers, graph_values(bundle, variant)))
    except edgevit.EdgeViTError as error:
        say("prediction", model=name, variant=variant, code=error.code, why=str(error)[:300])
        return
    times = predicted_ms(works, DEVICES[card.name], batches).sum(0)
    told = {str(batch): round(float(ms), 4) for batch, ms in zip(batches, times, strict=True)}
    say("prediction", model=name, variant=variant, card=card.name, kernels=len(layers), ms=told)


def _with_engine(name: str, bundle: Bundle, asked: argparse.Namespace) -> None:
    """Parity and latency of every variant of a model on the engine itself."""
    from edgevit.runner.engines.tensorrt_rtx.bindings import load_rtx

    trt, sessions = load_rtx(), {}
    for variant in bundle.variants:
        try:
            plan = plan_from_onnx(trt, bundle.engine_onnx(variant), SETTINGS)
            sessions[variant] = TensorRTSession(plan.data, trt=trt)
            _parity(name, bundle, variant, sessions[variant])
        except edgevit.EdgeViTError as error:
            say("refused", model=name, variant=variant, code=error.code, why=str(error)[:500])
    for batch in map(int, asked.batches.split(",")):
        times = _in_turns(sessions, np.zeros((batch, 3, *bundle.input_size[-2:]), np.float32))
        for variant, samples in times:
            say("latency", model=name, variant=variant, batch=batch, median_ms=samples[0],
                least_ms=samples[1], rounds=ROUNDS, runs=RUNS)  # fmt: skip


def _in_turns(sessions: dict[str, Any], images: Any) -> Iterator[tuple[str, tuple[float, float]]]:
    """Yield variant -> median and least milliseconds on the GPU; copies are not counted."""
    found: dict[str, list[float]] = {variant: [] for variant in sessions}
    for _ in range(ROUNDS):
        for variant, session in sessions.items():
            found[variant] += session.kernel_times_ms(images, RUNS).tolist()
    for variant, samples in found.items():
        yield variant, (float(np.median(samples)), float(np.min(samples)))


def _roundings(bundles: dict[str, Bundle], device: str) -> None:
    try:
        from gpu_rounding import rounding
    except ImportError as error:
        say("roundings", why=f"there is no Triton: {error}")
        return
    models = [bundle.engine_onnx(name) for bundle in bundles.values() for name in bundle.variants]
    say("roundings", **rounding(models, device))


if __name__ == "__main__":
    sys.exit(main())
