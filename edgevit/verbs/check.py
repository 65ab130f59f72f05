"""`edgevit check`: an ONNX file or a bundle against the rules of a TensorRT device.

A bundle can say more than a file: which precision each of its graphs is meant to have, and what
its logits should be; those are compared on the spot, in ONNX Runtime without optimisations. A graph
inside a bundle's folder is read with the weights that the bundle keeps elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.data.paths import look_at
from edgevit.errors import UnsupportedError, UsageError
from edgevit.targets.tensorrt.profiles import (
    NEWEST_TENSORRT,
    OLDEST_TENSORRT,
    DeviceProfile,
    is_release,
    is_version,
    profile_named,
    releases_text,
    version_key,
)
from edgevit.verbs.bundle_graphs import check_graphs, graph_of_a_bundle

if TYPE_CHECKING:
    from edgevit.bundle import Bundle
    from edgevit.targets.tensorrt.conformance import Conformance

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
        model: An ONNX file (external data beside it), a bundle's folder, or one of its graphs.
        target: Name of a TensorRT device; a bundle's own target if left out.
        tensorrt: "10.3" or a range "10.3-11.4" to serve; the device's own if left out.
        precision: What a file's engine is meant to have ("fp32", "fp16", "int8", "fp8"); a
            bundle says it itself.

    Returns:
        ``model``, ``target``, ``conforms``, and per graph its name, counts, findings and rules.

    Raises:
        UsageError: No such device (EV340) or release (EV342), no such file (EV343, EV347), it is no
            ONNX model (EV344), its values can't be read (EV345), a target is missing (EV346), or a
            precision is given for a bundle (EV348).
        BundleError: The bundle is damaged.
    """
    path = Path(model)
    is_folder = look_at(path).kind == "folder"
    only = None if is_folder else graph_of_a_bundle(path)
    bundle = _bundle(path if only is None else path.parent) if is_folder or only else None
    if bundle is not None:
        _refuse_precision(precision)
    else:
        _refuse_no_file(path)
    profile = profile_named(_target(target, bundle))
    served = _served_range(tensorrt, profile)
    if bundle is not None:
        graphs = list(check_graphs(bundle, profile, served, only))
    else:
        graphs = [(path.name, _check_file(path, profile, served, precision or ""))]
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
        why=f"{errors} {'error' if errors == 1 else 'errors'}, of "
        f"{'rule' if len(broken) == 1 else 'rules'} {', '.join(map(str, sorted(broken)))}.",
        try_next="Follow the remedies above; --json FILE lists every finding.",
    )


def _bundle(path: Path) -> Bundle:
    from edgevit.runner.engines import open_for_engine

    return open_for_engine(path)


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


def _served_range(tensorrt: str | None, profile: DeviceProfile) -> tuple[str, str]:
    """Return the oldest and newest TensorRT to serve."""
    if tensorrt is None:
        return profile.tensorrt
    parts = tensorrt.split("-")
    oldest, newest = parts[0], parts[-1]
    fits = len(parts) < 3 and all(map(is_release, parts))
    if not fits or version_key(oldest) > version_key(newest):
        raise UsageError(
            "EV342",
            f"{tensorrt!r} is no TensorRT release that the rules know.",
            where="--tensorrt",
            why=f"Known are {releases_text()}, one of them or a range such as "
            f"{OLDEST_TENSORRT}-{NEWEST_TENSORRT}.",
            try_next=f"--tensorrt {_nearest(oldest)}",
        )
    return oldest, newest


def _nearest(version: str) -> str:
    """Return a release that exists and is close to what was typed."""
    fits = is_version(version) and version_key(version) > version_key(NEWEST_TENSORRT)
    return NEWEST_TENSORRT if fits else OLDEST_TENSORRT


def _refuse_precision(precision: str | None) -> None:
    """Refuse a precision for a bundle.

    Raises:
        UsageError: One is given (EV348).
    """
    if precision is not None:
        raise UsageError(
            "EV348",
            "A bundle's graphs have the precisions that its manifest says.",
            where=f"--precision {precision}",
            why="The option is for ONNX files, which do not say what they are meant to have.",
            try_next="Leave out --precision.",
        )


def _check_file(
    path: Path, profile: DeviceProfile, served: tuple[str, str], precision: str
) -> Conformance:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    from edgevit.targets.tensorrt.conformance import BuildFacts, check_onnx

    try:
        return check_onnx(path, profile, tensorrt=served, facts=BuildFacts(asked=precision))
    except (DecodeError, OSError) as error:
        raise UsageError(
            "EV344",
            "This is not an ONNX model.",
            where=str(path),
            why=str(error).strip()[:300],
            try_next="Give a file that torch.onnx.export or another exporter wrote.",
        ) from error


def _refuse_no_file(path: Path) -> None:
    """Refuse what can't be read as a file.

    Raises:
        UsageError: It is not there (EV343), or a device, pipe or socket (EV347).
    """
    found = look_at(path)
    if found.kind == "file":
        return
    if found.kind == "nothing":
        raise _no_model("EV343", "There is no such model.", path, found.why)
    raise _no_model("EV347", "This is no file that a model could be in.", path, found.why)


def _no_model(code: str, what: str, path: Path, why: str) -> UsageError:
    return UsageError(
        code,
        what,
        where=str(path),
        why=why,
        try_next="Give an ONNX file or a bundle's folder.",
    )
