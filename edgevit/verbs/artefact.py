"""The artefact that `quantize` returns: a model in memory, which can be simulated and saved."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.bundle import Bundle, VariantModel, open_bundle, write_bundle
from edgevit.bundle.outputs import Output
from edgevit.bundle.tensors import encode
from edgevit.data import Preprocessing
from edgevit.data.tasks import CLASSIFY
from edgevit.recipe import Recipe
from edgevit.runner.engines import engine_named

if TYPE_CHECKING:
    from torch import Tensor

    from edgevit.graph.model import Graph
    from edgevit.quantizers.quantized_graph import QuantizedGraph
    from edgevit.runner.engines.tensorrt.kernel_table import KernelTable
    from edgevit.targets.base import Lowered
    from edgevit.zoo import LoadedModel
    from edgevit.zoo.class_names import Naming

Pixels = npt.NDArray[np.uint8]
_VERSIONS = ("torch", "timm", "onnx", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A further form of a quantized model."""

    quantized: QuantizedGraph
    lowered: Lowered


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
        engine: Name of what runs it on its target.
        variants: Further forms of the model by name, each with its simulation and engine's form.
        naming: Where the class names are from, and how class folders without them are numbered.
    """

    quantized: QuantizedGraph
    lowered: Lowered
    reference: Lowered
    model: LoadedModel
    recipe: Recipe
    calibration: dict[str, Any]
    golden: dict[str, npt.NDArray[Any]]
    engine: str = "onnxruntime"
    variants: dict[str, Variant] = field(default_factory=dict)
    naming: Naming | None = None

    def simulate(self, pixels: Pixels, variant: str | None = None) -> npt.NDArray[np.float32]:
        """Return the main output [B, ...] of pixels uint8 [B, H, W, 3], as the engine computes it.

        Of a classifier these are the logits [B, classes]; `simulate_all` returns every output.

        Args:
            variant: One of `variants`; the main form if left out.
        """
        quantized = self.quantized if variant is None else self.variants[variant].quantized
        return logits_of(quantized.forward, self.model.preprocessing, pixels)

    def simulate_all(
        self, pixels: Pixels, variant: str | None = None
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Return every output, float32 [B, ...] by name; arguments as for `simulate`."""
        quantized = self.quantized if variant is None else self.variants[variant].quantized
        return outputs_over(quantized.forward_all, self.model.preprocessing, pixels)

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
            kernel_tables=[table.to_dict() for table in self.kernel_tables],
            variants={name: _store(one.lowered) for name, one in self.variants.items()},
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
                **self._classes_stated(),
                **self._outputs_stated(),
                "parameters": model.parameters,
                "flops": model.flops,
                "weights_sha256": model.weights_sha256,
                "arguments": dict(model.arguments),
                "preprocessing_source": model.preprocessing_source,
            },
            "recipe": self.recipe.to_dict(),
            "preprocessing": model.preprocessing.to_dict(),
            "target": self.recipe.target,
            "engine": engine_named(self.engine).table(self.lowered.session_config),
            "calibration": self.calibration,
            "versions": _versions(),
            "layers": self.lowered.layers,
            "bits": bits_of(self.recipe, self.lowered.layers),
            "warnings": self.quantized.notes,
        }

    @property
    def kernel_tables(self) -> list[KernelTable]:
        """The kernels of every form that was compiled, the main one first."""
        forms = [self.lowered, *(variant.lowered for variant in self.variants.values())]
        return [form.kernels for form in forms if form.kernels is not None]

    def _outputs_stated(self) -> dict[str, Any]:
        """Return outputs and task; nothing of a classifier, whose logits go without saying."""
        outputs = stated_outputs(self.quantized.graph, self.model)
        if not outputs:
            return {}
        return {"outputs": [one.to_dict() for one in outputs], "task": self.model.task}

    def _classes_stated(self) -> dict[str, str]:
        """Return where names and order of the classes are from, as far as anybody stated them."""
        if self.naming is None:
            return {}
        source = self.naming.source if self.model.classes else None
        stated = {"classes_from": source, "class_order": self.naming.order}
        return {key: value for key, value in stated.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A quantized model that runs in torch only, beside its float32 original."""

    quantized: QuantizedGraph
    graph: Graph
    preprocessing: Preprocessing

    def logits(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Return the quantized model's logits [B, classes] of pixels uint8 [B, H, W, 3]."""
        return logits_of(self.quantized.forward, self.preprocessing, pixels)

    def logits_fp32(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Return the float32 model's logits [B, classes] of pixels uint8 [B, H, W, 3]."""
        return logits_of(self.graph.forward, self.preprocessing, pixels)


def _store(lowered: Lowered) -> VariantModel:
    return VariantModel(
        onnx=lowered.onnx,
        tensors=lowered.tensors,
        packed_bits=lowered.packed_bits,
        layers=lowered.layers,
    )


def stated_outputs(graph: Graph, loaded: LoadedModel) -> tuple[Output, ...]:
    """Return the outputs that a manifest has to state; () for a classifier."""
    if graph.is_classifier and loaded.task == CLASSIFY:
        return ()
    return tuple(Output(name, shape[1:]) for name, shape in graph.output_shapes.items())


def engine_bytes(lowered: Lowered) -> int:
    """Return the bytes that graph and packed weights of the engine take in a bundle."""
    sizes = [
        encode(name, array, offset=0, packed_bits=lowered.packed_bits.get(name), compress=True)[0]
        for name, array in lowered.tensors.items()
    ]
    return len(lowered.onnx) + sum(entry.size_bytes for entry in sizes)


def tensor_of(array: npt.NDArray[Any]) -> Tensor:
    """Return a torch tensor that shares the array's memory."""
    import torch

    return torch.from_numpy(array)


def outputs_over(
    forward_all: Callable[[Tensor], dict[str, Tensor]],
    preprocessing: Preprocessing,
    pixels: Pixels,
    batch_size: int = 8,
) -> dict[str, npt.NDArray[np.float32]]:
    """Return output -> float32 [N, ...], a torch function run over pixels uint8 [N, H, W, 3]."""
    import torch

    found: dict[str, list[npt.NDArray[np.float32]]] = {}
    for part in _parts(pixels, batch_size):
        with torch.no_grad():
            values = forward_all(tensor_of(preprocessing.normalize(part)))
        for name, value in values.items():
            found.setdefault(name, []).append(value.numpy().astype(np.float32))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def logits_of(
    forward: Callable[[Tensor], Tensor],
    preprocessing: Preprocessing,
    pixels: Pixels,
    batch_size: int = 8,
) -> npt.NDArray[np.float32]:
    """Return float32 [N, classes], a torch function of images run over pixels [N, H, W, 3]."""
    import torch

    with torch.no_grad():
        parts = [
            forward(tensor_of(preprocessing.normalize(part))).numpy()
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


def bits_of(recipe: Recipe, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the widths asked for and the means over what was done.

    ``weight_mean`` and ``act_mean`` are of all products, one in float counting as the 16 or 32 bits
    it has; ``weight_mean_quantized`` is of the quantized weights alone, which is what a budget of
    `--avg-bits` is about. None where nothing is quantized. Means of weights count every weight
    once, that of activations every product once.

    Args:
        recipe: What was asked for.
        layers: One row per product, as in a bundle's manifest.
    """
    weights = [row for row in layers if row["parameters"]]
    total = sum(row["parameters"] for row in weights)
    stored = sum(row["parameters"] * (row.get("weight_bits") or _float(row)) for row in weights)
    rounded = [row for row in weights if row.get("weight_bits")]
    count = sum(row["parameters"] for row in rounded)
    codes = sum(row["parameters"] * row["weight_bits"] for row in rounded)
    acts = [row.get("left_bits", _float(row)) for row in layers]
    return {
        "weights": recipe.weight_bits,
        "activations": recipe.act_bits,
        "weight_mean": stored / max(total, 1),
        "weight_mean_quantized": codes / count if count else None,
        "act_mean": sum(acts) / max(len(acts), 1),
        "float_products": sum(row["kernel"].startswith("float") for row in layers),
        "products": len(layers),
    }


def _float(row: dict[str, Any]) -> int:
    """Return the width in which a product that is not quantized runs."""
    return int(row.get("float_bits", 32))
