"""`edgevit check`: an ONNX file or a bundle against the rules of a TensorRT device.

A bundle can say more than a file: which precision each of its graphs is meant to have, and what
its logits should be; those are compared on the spot, in ONNX Runtime without optimisations.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.errors import DeviceError, UnsupportedError, UsageError
from edgevit.targets.profiles import DeviceProfile, profile_named, version_key

if TYPE_CHECKING:
    from edgevit.bundle import Bundle
    from edgevit.targets.conformance import Conformance, Facts, Parity

_VERSION = re.compile(r"\d{1,3}\.\d{1,3}\Z")
_BATCH = 8
_SCHEMA_VERSION = 1


def check(
    model: str | os.PathLike[str],
    *,
    target: str | None = None,
    tensorrt: str | None = None,
    precision: str | None = None,
) -> dict[str, Any]:
    """Return what the rules found in a model, as a JSON-able report.

    Args:
        model: An ONNX file (external data beside it), or a bundle's folder.
        target: Name of a TensorRT device; a bundle's own target if left out.
        tensorrt: "10.3" or a range "10.3-11.4" to serve; the device's own if left out.
        precision: What a file's engine is meant to have ("fp32", "fp16", "int8", "fp8"); a
            bundle knows.

    Returns:
        ``model``, ``target``, ``conforms``, and per graph its name, counts, findings and rules.

    Raises:
        UsageError: No such device (EV340) or release (EV342), no such file (EV343), it is no ONNX
            model (EV344), its values can't be read (EV345), or a target is missing (EV346).
        BundleError: The bundle is damaged.
    """
    path = Path(model)
    bundle = _bundle(path) if path.is_dir() else None
    profile = profile_named(_target(target, bundle))
    served = _served(tensorrt, profile)
    if bundle is not None:
        graphs = list(_checked_variants(bundle, profile, served))
    else:
        graphs = [(path.name, _checked_file(path, profile, served, precision or ""))]
    return {
        "schema_version": _SCHEMA_VERSION,
        "model": str(path),
        "target": profile.name,
        "tensorrt": list(served),
        "conforms": all(found.conforms for _, found in graphs),
        "graphs": [{"name": name, **found.to_dict()} for name, found in graphs],
    }


def refuse_errors(report: dict[str, Any]) -> None:
    """Raise if a graph of a report does not conform.

    Raises:
        UnsupportedError: It has findings of level E (EV341).
    """
    if report["conforms"]:
        return
    errors = sum(graph["counts"]["E"] for graph in report["graphs"])
    broken = {f["rule"] for g in report["graphs"] for f in g["findings"] if f["level"] == "E"}
    raise UnsupportedError(
        "EV341",
        f"The model does not conform to {report['target']}.",
        where=report["model"],
        why=f"{errors} errors, of rules {', '.join(map(str, sorted(broken)))}.",
        try_next="Follow the remedies above; --json FILE lists every finding.",
    )


def _bundle(path: Path) -> Bundle:
    from edgevit.bundle import open_bundle

    return open_bundle(path)


def _target(target: str | None, bundle: Bundle | None) -> str:
    if target is not None:
        return target
    if bundle is None:
        raise UsageError(
            "EV346",
            "A device is needed.",
            where="--target",
            why="An ONNX file does not say what it is for.",
            try_next="--target tensorrt",
        )
    found = bundle.manifest["target"]
    return str(found.get("name", "")) if isinstance(found, dict) else str(found)


def _served(tensorrt: str | None, profile: DeviceProfile) -> tuple[str, str]:
    """Return the oldest and newest TensorRT to serve."""
    if tensorrt is None:
        return profile.tensorrt
    parts = tensorrt.split("-")
    oldest, newest = parts[0], parts[-1]
    fits = len(parts) < 3 and all(map(_VERSION.match, parts))
    if not fits or version_key(oldest) > version_key(newest):
        raise UsageError(
            "EV342",
            f"{tensorrt!r} is no TensorRT release.",
            where="--tensorrt",
            why="It is a release such as 10.3, or a range such as 10.3-11.4.",
            try_next="--tensorrt 10.3",
        )
    return oldest, newest


def _checked_file(
    path: Path, profile: DeviceProfile, served: tuple[str, str], precision: str
) -> Conformance:
    from edgevit.targets.conformance import Facts, check_onnx

    if not path.is_file():
        raise UsageError(
            "EV343",
            "There is no such model.",
            where=str(path),
            why="It is neither a file nor a folder.",
            try_next="Give an ONNX file or a bundle's folder.",
        )
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return check_onnx(path, profile, tensorrt=served, facts=Facts(asked=precision))
    except (DecodeError, OSError) as error:
        raise UsageError(
            "EV344",
            "This is not an ONNX model.",
            where=str(path),
            why=str(error).strip()[:300],
            try_next="Give a file that torch.onnx.export or another exporter wrote.",
        ) from error


def _checked_variants(
    bundle: Bundle, profile: DeviceProfile, served: tuple[str, str]
) -> Iterator[tuple[str, Conformance]]:
    """Yield (name, findings) of every graph of a bundle."""
    from edgevit.targets.conformance import check_onnx

    names = tuple(getattr(bundle, "variants", ())) or ("int8",)
    for index, name in enumerate(names):
        onnx = bundle.engine_onnx(name) if index else bundle.engine_onnx()
        key = f"logits_simulated_{name}" if index else "logits_simulated"
        facts = _facts(bundle, onnx, key, name.split("_")[0])
        yield name, check_onnx(onnx, profile, tensorrt=served, facts=facts)


def _facts(bundle: Bundle, onnx: bytes, key: str, asked: str) -> Facts:
    from edgevit.targets.conformance import Facts

    simulated = bundle.golden().get(key)
    if simulated is None:
        return Facts(asked=asked, no_parity="the bundle has no logits of this graph")
    try:
        return Facts(asked=asked, parity=_parity(bundle, onnx, simulated))
    except DeviceError as error:
        return Facts(asked=asked, no_parity=f"ONNX Runtime can't run it: {error.why[:200]}")


def _parity(bundle: Bundle, onnx: bytes, simulated: Any) -> Parity:
    """Compare logits float32 [n, classes] on the golden images, optimisations off."""
    from edgevit.data import Preprocessing
    from edgevit.runner.session import EngineSession
    from edgevit.targets.conformance import Parity

    images = bundle.golden()["images"]  # [n, H, W, 3]
    normalize = Preprocessing.from_dict(bundle.preprocessing).normalize
    session = EngineSession(onnx, optimize=False)
    starts = range(0, len(images), _BATCH)
    parts = [session.run(normalize(images[start : start + _BATCH])) for start in starts]
    found, wanted = np.concatenate(parts).astype(np.float64), simulated.astype(np.float64)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)  # [n]
    cosine = (found * wanted).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return Parity(
        num_images=len(images),
        agreement_percent=100 * float((found.argmax(1) == wanted.argmax(1)).mean()),
        cosine=float(cosine.min()),
        max_error=float(np.abs(found - wanted).max()),
    )
