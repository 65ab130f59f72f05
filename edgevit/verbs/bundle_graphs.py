"""The graphs of a bundle, as `edgevit check` looks at them.

In a bundle's folder a graph stands without its weights, which are packed in another file: taken by
itself it is half a model. Here they are put together, and with them what only the bundle knows:
which precision each graph is meant to have, and what its logits should be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bundle.golden import fp32_of, simulated_of
from edgevit.bundle.manifest import (
    EXACT_VARIANT,
    GRAPH,
    MAIN_VARIANT,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    REFERENCE_GRAPH,
    VARIANT_GRAPHS,
)
from edgevit.data.paths import look_at
from edgevit.errors import DeviceError

if TYPE_CHECKING:
    from edgevit.bundle import Bundle
    from edgevit.targets.tensorrt.conformance import BuildFacts, Conformance, GraphParity
    from edgevit.targets.tensorrt.profiles import DeviceProfile

_REFERENCE = "fp32"
_FILES = {MAIN_VARIANT: GRAPH, **VARIANT_GRAPHS, _REFERENCE: REFERENCE_GRAPH}


def graph_of_a_bundle(path: Path) -> str | None:
    """Return which graph of a bundle a file is, such as "int8"; None if it is none."""
    named = [name for name, file in _FILES.items() if file == path.name]
    manifest = path.parent / MANIFEST
    if (
        not named
        or look_at(manifest).kind != "file"
        or manifest.stat().st_size > MAX_MANIFEST_BYTES
    ):
        return None
    try:
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    files = content.get("files") if isinstance(content, dict) else None
    is_bundle = isinstance(files, dict) and "edgevit_version" in content and path.name in files
    return named[0] if is_bundle else None


def check_graphs(
    bundle: Bundle, profile: DeviceProfile, served: tuple[str, str], only: str | None = None
) -> Iterator[tuple[str, Conformance]]:
    """Yield (name, findings) of every graph a bundle runs on its target, or of one.

    Args:
        bundle: An opened bundle.
        profile: The device.
        served: Oldest and newest TensorRT.
        only: A variant, or "fp32" for the reference.
    """
    from edgevit.targets.tensorrt.conformance import check_onnx

    measured = [name for name in bundle.variants if name != EXACT_VARIANT]  # no GPU runs it
    for name in measured if only is None else (only,):
        is_reference = name == _REFERENCE
        onnx = bundle.required_reference_onnx() if is_reference else bundle.engine_onnx(name)
        asked = MAIN_VARIANT if name == EXACT_VARIANT else name.split("_")[0]
        facts = _facts(bundle, onnx, _wanted(bundle, name), asked)
        yield name, check_onnx(onnx, profile, tensorrt=served, facts=facts)


def _wanted(bundle: Bundle, name: str) -> dict[str, Any]:
    """Return the golden outputs of a graph, float32 [n, ...] by name; {} where it has none."""
    golden = bundle.golden()
    return fp32_of(golden) if name == _REFERENCE else simulated_of(golden, name)


def _facts(bundle: Bundle, onnx: bytes, wanted: Any, asked: str) -> BuildFacts:
    from edgevit.targets.tensorrt.conformance import BuildFacts

    if not wanted:
        return BuildFacts(asked=asked, no_parity="the bundle has no outputs of this graph")
    try:
        return BuildFacts(asked=asked, parity=_parity(bundle, onnx, wanted))
    except DeviceError as error:
        return BuildFacts(asked=asked, no_parity=f"ONNX Runtime can't run it: {error.why[:200]}")


def _parity(bundle: Bundle, onnx: bytes, simulated: dict[str, Any]) -> GraphParity:
    """Compare the outputs, float32 [n, ...], on the golden images, optimisations off."""
    from edgevit.data import Preprocessing
    from edgevit.runner.engines.onnxruntime.session import EngineSession
    from edgevit.runner.measure.outputs import errors_of
    from edgevit.runner.measure.scores import agreement_of
    from edgevit.runner.measure.selfcheck import outputs_on
    from edgevit.targets.tensorrt.conformance import GraphParity

    images = bundle.golden()["images"]  # [n, H, W, 3]
    normalize = Preprocessing.from_dict(bundle.preprocessing).normalize
    session = EngineSession(onnx, optimize=False)
    found = outputs_on(session, images, normalize)
    errors = errors_of(simulated, found).values()
    return GraphParity(
        num_images=len(images),
        agreement_percent=agreement_of(found, simulated),
        cosine=min(one.least for one in errors),
        max_error=max(one.largest for one in errors),
    )
