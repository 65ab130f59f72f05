"""The steps that a model of the coverage run goes through, and what each of them measures."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from family_list import FamilyModel
from family_networks import Size, build
from torch import nn

from edgevit import api
from edgevit.bundle import Bundle
from edgevit.data import Preprocessing, open_images
from edgevit.data.imageset import ImageSet
from edgevit.data.photographs import photographs
from edgevit.errors import EdgeViTError
from edgevit.graph import capture
from edgevit.runner.engines.onnxruntime.session import session_from_bundle
from edgevit.runner.measure.latency import measure_alternating, median_paired_ratio
from edgevit.runner.measure.selfcheck import self_check

JETSON = "jetson-orin-nano"
CARD = "SM89"
ROUNDS = 11


@dataclass(kw_only=True)
class Trial:
    """One model on its way through the steps.

    Args:
        model: Which.
        data: Real images, None for the photographs that come with EdgeViT.
        num_images: How many of them it is calibrated and compared on.
    """

    model: FamilyModel
    data: str | None
    num_images: int

    def rows(self, steps: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield what is known after each step; one that fails does not stop the next ones.

        Without a graph, or an export to compile, there is nothing further to do.
        """
        torch.set_num_threads(1)
        start, row = time.monotonic(), {"error": ""}
        needs = {"on_cpu": "captured", "w6a6": "on_cpu", "jetson": "captured", "sm89": "jetson"}
        with tempfile.TemporaryDirectory() as folder:
            self.folder = Path(folder)
            for step in steps:
                if step in needs and row[needs[step]] != "yes":
                    row |= {step: "no"}
                    continue
                row |= self._tried(step, row["error"])
                yield row | {"seconds": round(time.monotonic() - start)}

    def _tried(self, step: str, error: str) -> dict[str, Any]:
        try:
            return {step: "yes", **getattr(self, f"_{step}")()}
        except EdgeViTError as cause:
            code, text = cause.code, f"{cause.code} {cause.what} {cause.where}: {cause.why}"
        except (Exception, RecursionError) as cause:  # a defect is a row, not the end of the run
            code, text = type(cause).__name__, f"{type(cause).__name__}: {cause}"
        return {step: code, "error": error or f"{step}: {' '.join(text.split())}"[:300]}

    def _captured(self) -> dict[str, Any]:
        self.network, size = build(self.model)
        _remember_graph()
        self.preprocessing = preprocessing_for(size)
        capture.graph_from_module(self.network, size)
        count = sum(value.numel() for value in self.network.parameters())
        return {"input_size": "x".join(map(str, size)), "megaparameters": count / 1e6}

    def _quantized(self, name: str, **choices: Any) -> Bundle:
        artefact = api.quantize(
            self.network,
            self._images(),
            preprocessing=self.preprocessing,
            num_calib=self.num_images,
            **choices,
        )
        return artefact.save(self.folder / name)

    def _images(self) -> ImageSet:
        return photographs() if self.data is None else open_images(self.data)

    def _on_cpu(self) -> dict[str, Any]:
        bundle = self._quantized("cpu", bits=8, method="minmax", target="cpu")
        sessions = {
            kind: session_from_bundle(bundle, kind, threads=1) for kind in ("fp32", "engine")
        }
        found = self_check(sessions["engine"], bundle.golden(), self.preprocessing.normalize)
        image = self.preprocessing.normalize(bundle.golden()["images"][:1])
        times = measure_alternating(sessions, image, warmup=2, rounds=ROUNDS, max_seconds=30)
        return {
            "agreement_percent": found.agreement_percent,
            "identical_percent": found.identical_percent,
            "difference_to_noise": found.rms_error_relative,
            "latency_ratio": 1 / median_paired_ratio(times["fp32"], times["engine"]),
            **_shares(bundle),
        }

    def _w6a6(self) -> dict[str, Any]:
        bundle = self._quantized("w6a6", bits=6, method="edgevit", target="cpu")
        session = session_from_bundle(bundle, "engine", threads=1)
        found = self_check(session, bundle.golden(), self.preprocessing.normalize)
        return {"w6a6_difference_to_noise": found.rms_error_relative}

    def _jetson(self) -> dict[str, Any]:
        self._quantized("jetson", bits=8, method="minmax", target=JETSON)
        report = api.check(self.folder / "jetson")
        broken = [f for graph in report["graphs"] for f in graph["findings"] if f["level"] == "E"]
        rules = " ".join(map(str, sorted({found["rule"] for found in broken})))
        return {"jetson_errors": len(broken), "jetson_rules": rules}

    def _sm89(self) -> dict[str, Any]:
        from edgevit.runner.engines.tensorrt_rtx.compiling import compiled_from_onnx

        compiled_from_onnx(api.load(self.folder / "jetson").engine_onnx(), (CARD,))
        return {}


def preprocessing_for(size: Size) -> Preprocessing:
    """Return how images are prepared for a network without weights of its own."""
    half = (0.5,) * size[0]
    return Preprocessing.from_crop_pct(
        input_size=size, crop_pct=0.9, interpolation="bicubic", mean=half, std=half
    )


def _shares(bundle: Bundle) -> dict[str, Any]:
    """Return the share of multiply-adds in integers, and why the rest is not."""
    from edgevit.bundle.shares import multiply_add_shares

    found = multiply_add_shares(bundle.layers()) or {"integer_percent": "", "float": []}
    reasons = [f"{one['percent']:.1f} % {one['reason']}" for one in found["float"]]
    return {"integer_percent": found["integer_percent"], "float_reasons": "; ".join(reasons)}


def _remember_graph() -> None:
    """Let a module be captured once for all its targets: a graph knows none of them."""
    known: dict[int, Any] = {}
    original = capture.graph_from_module

    def remembered(module: nn.Module, *arguments: Any, **options: Any) -> Any:
        if id(module) not in known:
            known[id(module)] = original(module, *arguments, **options)
        return known[id(module)].clone()

    capture.graph_from_module = remembered
