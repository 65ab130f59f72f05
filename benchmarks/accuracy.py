"""Accuracy of the engine on labelled images, against fp32 and against its own simulation.

    python benchmarks/accuracy.py --data cifar10.tar.gz::test --models vit_cifar10,swin_cifar10 \
        --bits 8,6 --methods edgevit,minmax

makes bundles and measures what is in them (results/accuracy.csv). With --table methods it measures
every method at every width on the models and their hardened twins (results/methods.csv), goes on
where it was stopped, and --summary compares the methods image by image afterwards:

    python benchmarks/accuracy.py --table methods --data cifar10.tar.gz::test
    python benchmarks/accuracy.py --summary

--table real is the same on a real DeiT-Tiny and 400 ImageNet images (results/real.csv). Its data
lie in $EDGEVIT_DATA or beside the checkout in shared/data; without them it prints SKIPPED.

    EDGEVIT_DATA=DATA python benchmarks/accuracy.py --table real
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import cells
import methods
import numpy as np
import summary
from real_data import IMAGENET, PHOTOS, WEIGHTS, is_missing
from rows import add_row
from subjects import TWINS

from edgevit import api
from edgevit.data import Preprocessing, labels_for, open_images
from edgevit.runner.engines.onnxruntime.session import session_from_bundle
from edgevit.runner.measure.accuracy import Predictions, predict_all
from edgevit.runner.measure.statistics import drop_points
from edgevit.zoo import reference_images

SMALL = {
    "models": "vit_cifar10,swin_cifar10",
    "twins": ",".join(TWINS),
    "calib": str(reference_images("calibration")),
}
REAL = {
    "models": "deit_t",
    "twins": "plain",
    "calib": str(PHOTOS),
    "data": str(IMAGENET),
    "weights": WEIGHTS,
    "bits": "8,6,4/8,4,3",
    "seeds": "0,1",
}
"""What is measured unless an option says otherwise."""


class Simulation:
    """The exact integer simulation behind the same interface as an engine session."""

    def __init__(self, artefact: api.Artefact) -> None:
        self.forward = artefact.quantized.forward

    def run(self, images: np.ndarray) -> np.ndarray:
        import torch

        return self.forward(torch.from_numpy(images)).numpy()


def kl(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of softmax(other) from softmax(reference), in nats."""
    p, q = methods.log_softmax(reference), methods.log_softmax(other)
    return float((np.exp(p) * (p - q)).sum(1).mean())


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x.astype(np.float64)))))


def agreement(a: Predictions, b: Predictions) -> float:
    return 100 * float((a.top5[:, 0] == b.top5[:, 0]).mean())


def measure(options: argparse.Namespace, model: str, bits: tuple[int, int], method: str) -> None:
    artefact = api.quantize(
        model,
        str(reference_images("calibration")),
        weight_bits=bits[0],
        act_bits=bits[1],
        method=method,
        num_calib=int(options.num_calib),
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        bundle = artefact.save(Path(folder) / "bundle")
        sessions = {kind: session_from_bundle(bundle, kind) for kind in ("fp32", "engine")}
        preprocessing = Preprocessing.from_dict(bundle.preprocessing)
        classes = tuple(bundle.manifest["model"]["classes"])
        images = labels_for(classes, open_images(options.data), len(classes))
        everything = {**sessions, "simulated": Simulation(artefact)}
        found = predict_all(everything, images.batches(preprocessing, 100), preprocessing.normalize)
    fp32, engine, simulated = found["fp32"], found["engine"], found["simulated"]
    right, engine_right = fp32.correct(1), engine.correct(1)
    drop = drop_points(
        int((right & ~engine_right).sum()), int((engine_right & ~right).sum()), len(right)
    )
    quantization_error = rms(simulated.logits - fp32.logits)
    add_row(
        "accuracy",
        {
            "model": model,
            "method": method,
            "weight_bits": bits[0],
            "act_bits": bits[1],
            "num_calib": int(options.num_calib),
            "seed": options.seed,
            "images": len(right),
            "top1_fp32": fp32.accuracy_percent(1),
            "top1_engine": engine.accuracy_percent(1),
            "drop_points": drop.value,
            "drop_low": drop.low,
            "drop_high": drop.high,
            "agreement_fp32": agreement(engine, fp32),
            "agreement_simulated": agreement(engine, simulated),
            "kl_to_fp32": kl(fp32.logits, engine.logits),
            "rms_engine_minus_simulated": rms(engine.logits - simulated.logits),
            "rms_simulated_minus_fp32": quantization_error,
            "error_ratio": rms(engine.logits - simulated.logits) / quantization_error,
        },
    )


def bundles(options: argparse.Namespace) -> None:
    """Add a row to results/accuracy.csv for every model, width and method."""
    for model in options.models.split(","):
        for text in (options.bits or "8,6").split(","):
            weight, _, act = text.partition("/")
            for method in (options.methods or "edgevit,minmax").split(","):
                measure(options, model, (int(weight), int(act or weight)), method)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="labelled test images")
    parser.add_argument("--models")
    parser.add_argument("--bits", help="such as 8,6,4/8 (weights/activations)")
    parser.add_argument("--methods", help="two, or in the table of methods all, if left out")
    parser.add_argument(
        "--num-calib", default=str(cells.NUM_CALIB), help="in the table of methods also: own"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bundles' table")
    table = parser.add_argument_group("the table of methods, results/methods.csv")
    table.add_argument("--table", choices=("bundles", *cells.TABLES), default="bundles")
    table.add_argument("--twins")
    table.add_argument("--seeds", help=f"draws of calibration images, {cells.SEEDS}")
    table.add_argument("--calib", help="calibration images, those that are embedded if left out")
    table.add_argument("--weights", type=Path, help="checkpoint file in place of published weights")
    table.add_argument("--num-images", type=int, help="test images, all if left out")
    table.add_argument("--simulated", type=int, default=1000, help="images simulated as well")
    table.add_argument("--threads", type=int, default=2)
    table.add_argument("--batch", type=int, default=16, help="16 fits the cache")
    table.add_argument("--redo", action="store_true", help="measure cells that have a row again")
    table.add_argument("--summary", action="store_true", help="compare what is measured, and end")
    table.add_argument("--reference", default="edgevit", help="what it compares with")
    options = parser.parse_args()
    if options.summary:
        return summary.main(options.reference, options.table.replace("bundles", "methods"))
    if options.table == "real" and is_missing(WEIGHTS, PHOTOS, IMAGENET):
        return 0
    for name, value in (REAL if options.table == "real" else SMALL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.data is None:
        parser.error("--data is needed")
    if options.table in cells.TABLES:
        return min(methods.run(options), 1)
    bundles(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
