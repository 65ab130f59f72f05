"""A tiny classifier as a real bundle: 6-bit weights in int8, its fp32 reference, golden images."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # processes side by side: more threads in each would wait for those of the others
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, later

settings.register_profile("same", derandomize=True)
# `--hypothesis-profile=default` draws new examples
settings.load_profile("same")

SIDE, CLASSES = 8, 7
PIXELS = 3 * SIDE * SIDE
DISTRIBUTIONS = {str(one.name).replace("-", "_") for one in distributions()}

if not any(distribution.startswith("tensorrt_rtx") for distribution in DISTRIBUTIONS):
    # else Python would take the tests' folder of that name for the package
    sys.modules["tensorrt_rtx"] = None  # type: ignore[assignment]


@dataclass
class BundleParts:
    """Arguments of `write_bundle`, to be changed by a test before writing."""

    graph_onnx: bytes
    tensors: dict[str, np.ndarray]
    packed_bits: dict[str, int]
    reference: tuple[bytes, dict[str, np.ndarray]] | None
    golden: dict[str, np.ndarray]
    manifest: dict[str, Any]
    recipe_toml: str = 'model = "tiny"\n'
    overwrite: bool = False
    path: Path = field(default_factory=Path)

    def write(self, path: Path, **changes: Any) -> Path:
        from edgevit.bundle import write_bundle

        arguments = {**self.__dict__, **changes}
        arguments.pop("path")
        write_bundle(path, **arguments)
        return path


def normalize(pixels: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    scaled = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def tiny_parts(seed: int = 0) -> BundleParts:
    from onnx import TensorProto, helper

    random = np.random.default_rng(seed)
    codes = random.integers(-32, 32, (CLASSES, PIXELS)).astype(np.int8)
    scale = np.full(CLASSES, 0.01, np.float32)
    bias = random.normal(size=CLASSES).astype(np.float32)
    noise = random.normal(size=codes.shape).astype(np.float32) * np.float32(0.003)
    weights = codes.astype(np.float32) * scale[:, None] + noise
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])

    rows = helper.make_tensor("rows", TensorProto.INT64, [2], np.array([-1, PIXELS]), raw=True)
    zero = helper.make_tensor("zero", TensorProto.INT8, [CLASSES], bytes(CLASSES), raw=True)

    def model(*nodes: Any) -> bytes:
        flat = helper.make_node("Reshape", ["image", "rows"], ["flat"])
        turned = helper.make_node("Transpose", ["weight"], ["weight_t"], perm=[1, 0])
        gemm = helper.make_node("Gemm", ["flat", "weight_t", "bias"], ["logits"])
        nodes = (flat, *nodes, turned, gemm)
        graph = helper.make_graph(nodes, "tiny", [image], [logits], [rows, zero])
        opsets = [helper.make_opsetid("", 20)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        return bytes(made.SerializeToString())

    dequantize = helper.make_node(
        "DequantizeLinear", ["codes", "scale", "zero"], ["weight"], axis=0
    )
    images = random.integers(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)
    flat = normalize(images).reshape(5, PIXELS).astype(np.float64)
    simulated = flat @ (codes * scale[:, None].astype(np.float64)).T + bias
    return BundleParts(
        graph_onnx=model(dequantize),
        tensors={"codes": codes, "scale": scale, "bias": bias},
        packed_bits={"codes": 6},
        reference=(model(), {"weight": weights, "bias": bias}),
        golden={
            "images": images,
            "logits_simulated": simulated.astype(np.float32),
            "logits_fp32": (flat @ weights.T.astype(np.float64) + bias).astype(np.float32),
            "names": np.array([f"image-{i}.png" for i in range(5)]),
        },
        manifest=tiny_manifest(),
    )


def tiny_manifest() -> dict[str, Any]:
    return {
        "model": {"name": "tiny", "input_size": [3, SIDE, SIDE], "num_classes": CLASSES},
        "recipe": {"weight_bits": 6, "act_bits": 6},
        "preprocessing": {
            "input_size": [3, SIDE, SIDE],
            "resize_size": SIDE,
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "target": "cpu",
        "engine": {
            "provider": "CPUExecutionProvider",
            "session_config": {"session.x64quantprecision": "1"},
        },
        "calibration": {"num_images": 5, "seed": 0, "method": "search", "sha256": []},
        "versions": {"numpy": np.__version__},
        "layers": [{"name": "gemm", "module": "head", "kind": "linear", "kernel": "QGemm"}],
        "bits": {"weights": 6, "activations": 6, "weight_mean": 6.0, "act_mean": 6.0},
        "warnings": ["one layer has no grid"],
    }


@pytest.fixture
def parts() -> BundleParts:
    """Return fresh arguments for `write_bundle`."""
    return tiny_parts()


@pytest.fixture(scope="session")
def make_parts() -> Callable[[], BundleParts]:
    """Return the maker of `parts`, for tests that need several."""
    return tiny_parts


@pytest.fixture(scope="session")
def pixels_to_input() -> Callable[[np.ndarray], np.ndarray]:
    """Return the tiny model's normalization."""
    return normalize


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that tests only read."""
    return tiny_parts().write(tmp_path_factory.mktemp("bundle") / "tiny")


def perturbed(model, seed=0):
    """Random LayerNorm affines, biases and head sizes: nothing is 1 or 0 by accident."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(torch.exp(0.5 * noise))
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * noise)
            elif parameter.ndim == 2:
                parameter.copy_(noise * 1.2 / parameter.shape[1] ** 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def small_bundle():
    """Return a function that quantizes a ViT of two blocks for a target and writes its bundle."""

    def make(target: str, path: Path, **options: Any) -> Path:
        import torch
        from timm.models.vision_transformer import VisionTransformer

        import edgevit
        from edgevit.zoo import reference_images

        torch.manual_seed(0)
        model = VisionTransformer(
            img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=10
        )
        artefact = edgevit.quantize(
            perturbed(model),
            reference_images("calibration"),
            bits=8,
            target=target,
            method="minmax",
            num_calib=4,
            **options,
            preprocessing={
                "input_size": (3, 32, 32),
                "crop_pct": 1.0,
                "interpolation": "bicubic",
                "mean": (0.5,) * 3,
                "std": (0.5,) * 3,
            },
        )
        return artefact.save(path).path

    return make


@pytest.fixture(scope="session")
def vit():
    """A tiny plain ViT as a canonical graph."""
    import torch
    from timm.models.vision_transformer import VisionTransformer

    from edgevit.graph.capture import graph_from_module

    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=10
    )
    return graph_from_module(perturbed(model), (3, 32, 32))


@pytest.fixture(scope="session")
def swin():
    """A tiny Swin with shifted windows and patch merging as a canonical graph."""
    import torch
    from timm.models.swin_transformer import SwinTransformer

    from edgevit.graph.capture import graph_from_module

    torch.manual_seed(0)
    model = SwinTransformer(
        img_size=32,
        patch_size=4,
        window_size=4,
        embed_dim=24,
        depths=(2, 2),
        num_heads=(2, 4),
        num_classes=10,
    )
    return graph_from_module(perturbed(model), (3, 32, 32))


@pytest.fixture(scope="session")
def split_vit(vit):
    """The tiny ViT as the cpu target prefers it: q, k and v are linears of their own."""
    from edgevit.targets.cpu.target import CpuTarget

    return CpuTarget().prepare(vit)


@pytest.fixture(scope="session", params=["vit", "swin", "split_vit"])
def graph(request):
    """Each of the tiny models."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def images():
    """Twelve normalised images."""
    import torch

    return torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def captured_models():
    """Graphs of the models that the verbs have captured in this run; see captured_models.py."""
    from captured_models import CapturedModels

    return CapturedModels()


@pytest.fixture(autouse=True)
def equal_models_are_captured_once(request, monkeypatch):
    """As soon as a test has brought in what captures models."""
    if (module := sys.modules.get("edgevit.graph.capture")) is not None:
        kept = request.getfixturevalue("captured_models")
        monkeypatch.setattr(module, "graph_from_module", kept.of(module.graph_from_module))
