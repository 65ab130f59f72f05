"""The small models on a TensorRT target against the cpu target: what symmetric grids cost.

    python benchmarks/tensorrt_accuracy.py --data cifar10.tar.gz::test

Every graph runs in ONNX Runtime on the CPU, those for TensorRT with optimisations off.
"""

from __future__ import annotations

import argparse

from rows import add_row

from edgevit import api
from edgevit.data import labels_for, open_images
from edgevit.runner.engines.onnxruntime.session import EngineSession
from edgevit.runner.measure.accuracy import Predictions, predict_all
from edgevit.runner.measure.statistics import drop_points
from edgevit.targets.base import Lowered
from edgevit.targets.onnx.builder import whole_model
from edgevit.verbs.artefact import Artefact
from edgevit.zoo import load_model, reference_images


def engine(lowered: Lowered, *, optimize: bool) -> EngineSession:
    model = whole_model(lowered.onnx, lowered.tensors)
    config = lowered.session_config
    return EngineSession(model, threads=1, optimize=optimize, session_config=config)


def engines(
    model: str, bits: int, method: str, target: str, variants: list[str]
) -> dict[str, EngineSession]:
    """Return the float32 model, that of the cpu target, and the other target's main form."""
    calibration = str(reference_images("calibration"))
    made: dict[str, Artefact] = {
        name: api.quantize(model, calibration, bits=bits, method=method, target=name)
        for name in ("cpu", target)
    }
    found = {
        "fp32": engine(made["cpu"].reference, optimize=True),
        "cpu": engine(made["cpu"].lowered, optimize=True),
        f"{target} int8": engine(made[target].lowered, optimize=False),
    }
    for name in variants:
        lowered = made[target].variants[name].lowered
        found[f"{target} {name}"] = engine(lowered, optimize=False)
    return found


def measure(model: str, options: argparse.Namespace) -> None:
    loaded, bits, method = load_model(model), options.bits, options.method
    chosen = open_images(options.data).subset(options.num_images, 1)
    images = labels_for(loaded.classes, chosen, loaded.num_classes)
    preprocessing = loaded.preprocessing
    predictions = predict_all(
        engines(model, bits, method, options.target, options.variants.split(",")[1:]),
        images.batches(preprocessing, 64),
        preprocessing.normalize,
    )
    for name, found in predictions.items():
        add_row(
            "tensorrt_accuracy",
            {
                "model": model,
                "bits": bits,
                "method": method,
                "engine": name,
                "images": found.num_images,
                "top1_percent": found.accuracy_percent(1),
                **against(predictions["cpu"], found),
            },
        )


def against(cpu: Predictions, found: Predictions) -> dict[str, float]:
    """Return the points of top-1 lost against the cpu target, with their 95 % interval."""
    before, after = cpu.correct(1), found.correct(1)
    drop = drop_points((before & ~after).sum(), (after & ~before).sum(), len(before))
    return {"drop_points": drop.value, "drop_low": drop.low, "drop_high": drop.high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="labelled CIFAR-10 images")
    parser.add_argument("--models", default="vit_cifar10,swin_cifar10")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--method", default="edgevit")
    parser.add_argument("--target", default="jetson-orin-nano")
    parser.add_argument("--variants", default="int8", help="int8 first, then further ones")
    parser.add_argument("--num-images", type=int, default=8000)
    options = parser.parse_args()
    for model in options.models.split(","):
        measure(model, options)


if __name__ == "__main__":
    main()
