"""Latency of the engine against the fp32 ONNX engine, strictly in turns in one process.

python benchmarks/latency.py --data imagenet_sample --models deit_s,vit_b,swin_t --bits 8,6
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from rows import add_row

from edgevit import api
from edgevit.runner.engines.onnxruntime.session import session_from_bundle
from edgevit.runner.measure.latency import measure_alternating
from edgevit.runner.measure.statistics import ratio_of_medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--models", default="deit_s,vit_b,swin_t")
    parser.add_argument("--bits", default="8")
    parser.add_argument("--method", default="edgevit")
    parser.add_argument("--num-calib", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    for model in options.models.split(","):
        for bits in map(int, options.bits.split(",")):
            measure(options, model, bits)


def measure(options: argparse.Namespace, model: str, bits: int) -> None:
    artefact = api.quantize(
        model,
        options.data,
        bits=bits,
        method=options.method,
        num_calib=options.num_calib,
        pretrained=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        bundle = artefact.save(Path(folder) / "b")
        sessions = {
            kind: session_from_bundle(bundle, kind, threads=options.threads)
            for kind in ("fp32", "engine")
        }
    images = artefact.golden["images"][np.arange(options.batch) % options.num_calib]
    image = artefact.model.preprocessing.normalize(images)
    found = measure_alternating(sessions, image, warmup=10, rounds=options.rounds)
    fp32, engine = found["fp32"], found["engine"]
    ratio = ratio_of_medians(engine.samples_ms, fp32.samples_ms)
    add_row(
        "latency",
        {
            "model": model,
            "bits": bits,
            "method": options.method,
            "threads": options.threads,
            "batch": options.batch,
            "rounds": len(fp32.samples_ms),
            "fp32_p50_ms": fp32.p50_ms,
            "engine_p50_ms": engine.p50_ms,
            "fp32_p90_ms": fp32.p90_ms,
            "engine_p90_ms": engine.p90_ms,
            "ratio": ratio.value,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
        },
    )


if __name__ == "__main__":
    main()
