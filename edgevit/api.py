"""The public verbs: quantize, load, validate, inspect. They connect the rooms and do nothing else.

Names -> model and images -> canonical graph -> placement (the target's) -> calibration -> lowering
-> bundle -> sessions on the device -> report.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.bundle import Bundle, open_bundle, write_bundle
from edgevit.calibration.progress import Progress, silent
from edgevit.data import ImageSet, Preprocessing, open_images
from edgevit.errors import AccuracyGateError, LatencyGateError, UndecidedError, UsageError
from edgevit.recipe import DEFAULT_METHOD, Recipe

if TYPE_CHECKING:
    from torch import nn

    from edgevit.quantizers.simulation import QuantizedGraph
    from edgevit.targets.base import Lowered
    from edgevit.zoo import LoadedModel

Pixels = npt.NDArray[np.uint8]
NUM_GOLDEN = 32
DEFAULT_MAX_DROP = 1.0
"""Points of top-1 the verdict allows when the user sets no limit."""
_VERSIONS = ("torch", "timm", "onnx", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A quantized model in memory: simulate it, or save it as a bundle.

    Args:
        quantized: The exact integer simulation; `simulate` runs it.
        lowered: The engine's form.
        reference: The float32 model in the engine's form.
        model: Where the model came from, its classes and preprocessing.
        recipe: The choices made, resolved.
        calibration: Number, names and SHA-256 of the calibration images.
        golden: Images with their simulated and float32 logits.
    """

    quantized: QuantizedGraph
    lowered: Lowered
    reference: Lowered
    model: LoadedModel
    recipe: Recipe
    calibration: dict[str, Any]
    golden: dict[str, npt.NDArray[Any]]

    def simulate(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Return logits [B, classes] of pixels uint8 [B, H, W, 3], as the engine computes them."""
        return _logits(self.quantized.forward, self.model.preprocessing, pixels)

    def save(
        self, path: str | Path, *, overwrite: bool = False, include_reference: bool = True
    ) -> Bundle:
        """Write the bundle and open it again (which verifies it).

        Args:
            path: Folder to make.
            overwrite: Replace a bundle that is there.
            include_reference: Keep the float32 model in it, for `validate` to compare with.

        Raises:
            UsageError: The folder exists (EV411).
            EnvironmentError_: It can't be written or the disk is full (EV412).
        """
        write_bundle(
            path,
            graph_onnx=self.lowered.onnx,
            tensors=self.lowered.tensors,
            packed_bits=self.lowered.packed_bits,
            reference=(self.reference.onnx, self.reference.tensors) if include_reference else None,
            golden=self.golden,
            manifest=self._manifest(),
            recipe_toml=self.recipe.to_toml(),
            overwrite=overwrite,
        )
        return open_bundle(path)

    def _manifest(self) -> dict[str, Any]:
        model = self.model
        return {
            "model": {
                "name": model.name,
                "source": model.source,
                "pretrained": model.pretrained,
                "input_size": list(model.preprocessing.input_size),
                "num_classes": model.num_classes,
                "classes": None if model.classes is None else list(model.classes),
                "parameters": model.parameters,
                "flops": model.flops,
                "weights_sha256": model.weights_sha256,
            },
            "recipe": self.recipe.to_dict(),
            "preprocessing": model.preprocessing.to_dict(),
            "target": self.recipe.target,
            "engine": {
                "provider": "CPUExecutionProvider",
                "session_config": self.lowered.session_config,
            },
            "calibration": self.calibration,
            "versions": _versions(),
            "layers": self.lowered.layers,
            "bits": _bits(self.recipe, self.lowered.layers),
            "warnings": self.quantized.notes,
        }


def quantize(
    model: str | nn.Module,
    images: str | Path | ImageSet,
    *,
    bits: int = 6,
    weight_bits: int | None = None,
    act_bits: int | None = None,
    target: str = "cpu",
    method: str = DEFAULT_METHOD,
    num_calib: int = 32,
    seed: int = 0,
    float_layers: tuple[str, ...] = (),
    pretrained: bool = True,
    weights: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    progress: Progress = silent,
) -> Artefact:
    """Quantize a vision transformer after training for one target.

    Args:
        model: A name (`edgevit models` lists them), a transformers folder, ``package:function``,
            or a module (then `preprocessing` is needed unless the module carries timm's
            ``pretrained_cfg``).
        images: Folder, archive or ``.npz`` of images like those the model will see.
        bits: Grid width of weights and activations, 2 to 8; see the next two to set one.
        weight_bits, act_bits: Override `bits` for weights or activations.
        target: Device the bundle is for.
        method: Calibration method.
        num_calib: Number of calibration images, drawn class-balanced.
        seed: Seed of everything drawn at random.
        float_layers: Module paths (shell patterns) that stay in float.
        pretrained: False builds the model with random weights, for speed and plumbing.
        weights: Checkpoint file for the named model.
        preprocessing: For a module of your own.
        progress: Called with (stage, done, total).

    Raises:
        EdgeViTError: Any of `edgevit.errors`, each saying what to try next.
    """
    from edgevit.calibration.methods import method_named
    from edgevit.calibration.run import calibrate
    from edgevit.graph.capture import graph_from_module
    from edgevit.quantizers.spec import check_bits
    from edgevit.targets.registry import target_named
    from edgevit.zoo import load_model, loaded_from_module

    chosen_method, chosen_target = method_named(method), target_named(target)
    w_bits = check_bits(bits if weight_bits is None else weight_bits, "--weight-bits")
    a_bits = check_bits(bits if act_bits is None else act_bits, "--act-bits")
    progress("load model", 0, 1)
    if isinstance(model, str):
        loaded = load_model(
            model,
            pretrained=pretrained,
            weights=None if weights is None else Path(weights),
            seed=seed,
        )
    else:
        loaded = loaded_from_module(model, preprocessing)
    progress("load model", 1, 1)
    recipe = Recipe(
        model=loaded.name,
        weight_bits=w_bits,
        act_bits=a_bits,
        method=method,
        target=target,
        num_calib=num_calib,
        seed=seed,
        float_layers=float_layers,
    )
    pixels, calibration = _calibration_pixels(images, loaded.preprocessing, recipe)
    progress("capture graph", 0, 1)
    graph = graph_from_module(loaded.model, loaded.preprocessing.input_size)
    progress("capture graph", 1, 1)
    prepared = chosen_target.prepare(graph)
    placement = chosen_target.place(
        prepared, weight_bits=w_bits, act_bits=a_bits, float_layers=float_layers
    )
    tensor = _tensor(loaded.preprocessing.normalize(pixels))
    quantized = calibrate(prepared, placement, tensor, chosen_method, seed=seed, progress=progress)
    progress("lower and check kernels", 0, 1)
    lowered, reference = chosen_target.lower(quantized), chosen_target.reference(prepared)
    progress("lower and check kernels", 1, 1)
    golden: dict[str, npt.NDArray[Any]] = {
        "images": pixels[:NUM_GOLDEN],
        "logits_simulated": _logits(quantized.forward, loaded.preprocessing, pixels[:NUM_GOLDEN]),
        "logits_fp32": _logits(graph.forward, loaded.preprocessing, pixels[:NUM_GOLDEN]),
        "names": np.array(calibration["names"][:NUM_GOLDEN]),
    }
    return Artefact(
        quantized=quantized,
        lowered=lowered,
        reference=reference,
        model=loaded,
        recipe=recipe,
        calibration={**calibration, "method": method, "seed": seed},
        golden=golden,
    )


def load(path: str | Path) -> Bundle:
    """Open a bundle, with every file verified.

    Raises:
        BundleError: It is damaged, incomplete, unsafe or too new.
    """
    return open_bundle(path)


def validate(
    bundle: str | Path | Bundle,
    data: str | Path | ImageSet,
    *,
    num: int | None = None,
    seed: int = 0,
    max_drop: float | None = None,
    max_latency_ms: float | None = None,
    threads: int | None = None,
    batch: int = 1,
    rounds: int = 50,
    provider: str | None = None,
    eer_weights: tuple[float, float] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure a bundle on this device and return the report (see docs/validate.md).

    Args:
        bundle: A folder or an opened bundle.
        data: Labelled images; class folders are matched with the model's class names.
        num: Use only this many images, drawn class-balanced with `seed`.
        max_drop: Accuracy limit in points for the verdict; 1.0 if left out.
        max_latency_ms: Not used here; `check_gates` compares it with the report.
        threads: CPU threads of the engines, None for all cores.
        batch: Batch size of the latency runs.
        rounds: Alternating latency rounds.
        provider: ONNX Runtime provider; None for the one the bundle was made for.
        eer_weights: Weights of (bits, size) in the weighted Efficient Error Rate.
        progress: Called with (stage, done, total).

    Raises:
        EdgeViTError: Any of `edgevit.errors`; accuracy and latency gates are `check_gates`.
    """
    from edgevit.data import labels_for
    from edgevit.report.validation import Measurements, validation_report
    from edgevit.runner.accuracy import predict_all
    from edgevit.runner.memory import peak_memory_bytes
    from edgevit.runner.selfcheck import self_check
    from edgevit.runner.session import session_from_bundle

    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    preprocessing = Preprocessing.from_dict(opened.preprocessing)
    images = data if isinstance(data, ImageSet) else open_images(data)
    if num is not None:
        images = images.subset(num, seed)
    images = labels_for(_class_names(opened), images, opened.manifest["model"]["num_classes"])
    kinds: list[Any] = ["fp32", "engine"] if opened.has_reference else ["engine"]
    sessions = {
        kind: session_from_bundle(opened, kind, threads=threads, provider=provider)
        for kind in kinds
    }
    checked = self_check(sessions["engine"], opened.golden(), preprocessing.normalize)
    predictions = predict_all(
        sessions,
        images.batches(preprocessing, 16),
        preprocessing.normalize,
        on_batch=lambda done: progress("accuracy", done, len(images)),
    )
    latency, conditions = _latency(opened, sessions, batch, rounds, threads, progress)
    del sessions
    memory = {}
    for done, kind in enumerate(kinds, 1):
        memory[kind] = peak_memory_bytes(opened.path, kind, threads=threads, provider=provider)
        progress("peak memory", done, len(kinds))
    measured = Measurements(
        engine=predictions["engine"],
        fp32=predictions.get("fp32"),
        self_check=checked,
        latency=latency,
        latency_conditions=conditions,
        peak_memory_bytes=memory,
        skipped_images=[str(name) for name in images.skipped],
    )
    weights = None
    if eer_weights is not None:
        weights = {"bits": eer_weights[0], "size_megabytes": eer_weights[1]}
    return validation_report(
        opened,
        measured,
        max_drop_points=DEFAULT_MAX_DROP if max_drop is None else max_drop,
        eer_weights=weights,
    )


def _class_names(bundle: Bundle) -> tuple[str, ...] | None:
    classes = bundle.manifest["model"].get("classes")
    return None if classes is None else tuple(classes)


def _latency(
    bundle: Bundle,
    sessions: dict[str, Any],
    batch: int,
    rounds: int,
    threads: int | None,
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return samples by engine and the conditions they were taken under."""
    from edgevit.runner.latency import measure_alternating

    if batch < 1:
        raise UsageError("EV207", f"A batch of {batch} images can't be run.", where="--batch")
    images = bundle.golden()["images"]
    images = images[np.arange(batch) % len(images)]  # [batch, H, W, 3]
    image = Preprocessing.from_dict(bundle.preprocessing).normalize(images)
    progress("latency", 0, 1)
    samples = measure_alternating(sessions, image, warmup=10, rounds=rounds, max_seconds=300)
    progress("latency", 1, 1)
    used = threads if threads is not None else os.cpu_count()
    return dict(samples), {"threads": used, "batch": batch, "rounds": rounds, "warmup": 10}


def check_gates(
    report: dict[str, Any], *, max_drop: float | None, max_latency_ms: float | None
) -> None:
    """Raise when a limit the user set does not hold.

    Raises:
        AccuracyGateError: The drop is above `max_drop` (EV501).
        UndecidedError: There are too few images to tell (EV502).
        LatencyGateError: The median latency is above `max_latency_ms` (EV601).
    """
    if max_drop is not None and report["verdict"] == "FAIL":
        raise AccuracyGateError(
            "EV501",
            "The accuracy drop is above the limit.",
            where=f"--max-drop {max_drop:g}",
            why=report["verdict_reason"],
            try_next="Quantize to more bits, or leave sensitive layers in float.",
        )
    if max_drop is not None and report["verdict"] == "UNDECIDED":
        raise UndecidedError(
            "EV502",
            "There are too few images to decide.",
            where=f"--max-drop {max_drop:g}",
            why=report["verdict_reason"],
            try_next="Validate on more images.",
        )
    p50 = report["latency_ms"]["engine"]["p50"]
    if max_latency_ms is not None and p50 > max_latency_ms:
        raise LatencyGateError(
            "EV601",
            "The latency is above the limit.",
            where=f"--max-latency-ms {max_latency_ms:g}",
            why=f"The engine's median is {p50:.2f} ms.",
            try_next="Use more threads, a smaller model, or a faster device.",
        )


def inspect(path: str | Path) -> dict[str, Any]:
    """Return the verified manifest of a bundle and its sizes in bytes."""
    bundle = open_bundle(path)
    sizes = {kind: bundle.size_bytes(kind) for kind in ("bundle", "engine", "reference", "total")}
    return {**bundle.manifest, "size_bytes": sizes}


def _calibration_pixels(
    images: str | Path | ImageSet, preprocessing: Preprocessing, recipe: Recipe
) -> tuple[Pixels, dict[str, Any]]:
    """Return uint8 [N, H, W, 3] and what the manifest keeps of the images."""
    if recipe.num_calib < 1:
        raise UsageError(
            "EV204",
            f"{recipe.num_calib} calibration images are too few.",
            where="--num-calib",
            why="At least one image is needed to see any activation.",
            try_next="--num-calib 32",
        )
    image_set = images if isinstance(images, ImageSet) else open_images(images)
    subset = image_set.subset(recipe.num_calib, recipe.seed)
    blocks, names = [], []
    for pixels, _, batch_names in subset.batches(preprocessing, 32):
        blocks.append(pixels)
        names += list(batch_names)
    return np.concatenate(blocks), {
        "num_images": len(names),
        "names": names,
        "sha256": list(subset.sha256s()),
        "skipped": [str(name) for name in subset.skipped],
    }


def _tensor(array: npt.NDArray[np.float32]) -> Any:
    import torch

    return torch.from_numpy(array)


def _logits(
    forward: Any, preprocessing: Preprocessing, pixels: Pixels, batch_size: int = 8
) -> npt.NDArray[np.float32]:
    """Run a torch function over pixels uint8 [N, H, W, 3] in batches."""
    import torch

    with torch.no_grad():
        parts = [
            forward(_tensor(preprocessing.normalize(part))).numpy()
            for part in _parts(pixels, batch_size)
        ]
    return np.concatenate(parts).astype(np.float32)


def _parts(pixels: Pixels, size: int) -> Iterator[Pixels]:
    for start in range(0, len(pixels), size):
        yield pixels[start : start + size]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _bits(recipe: Recipe, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the widths asked for and the means over what was done; float counts as 32 bits."""
    weights = [row for row in layers if row["parameters"]]
    total = sum(row["parameters"] for row in weights)
    stored = sum(row["parameters"] * (row.get("weight_bits") or 32) for row in weights)
    acts = [row.get("left_bits", 32) for row in layers]
    return {
        "weights": recipe.weight_bits,
        "activations": recipe.act_bits,
        "weight_mean": stored / max(total, 1),
        "act_mean": sum(acts) / max(len(acts), 1),
        "float_products": sum(row["kernel"] == "float32" for row in layers),
        "products": len(layers),
    }
