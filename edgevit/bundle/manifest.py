"""The bundle's manifest: read strictly, checked completely, sealed with its own SHA-256.

Every other file is covered by the manifest's ``files`` table; ``manifest_sha256`` covers the
manifest itself (canonical JSON without that key), so that no flipped byte goes unnoticed. Hashes
find damage; they don't prove who wrote a bundle.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from edgevit.bundle.engine_settings import check_engine, check_target_name
from edgevit.bundle.manifest_schema import MANIFEST as MANIFEST
from edgevit.bundle.manifest_schema import (
    bad_manifest,
    check_plain,
    check_values,
    plain_from_json,
)
from edgevit.bundle.outputs import check_outputs
from edgevit.errors import BundleError, UsageError

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 8 << 20
GRAPH, WEIGHTS = "graph.onnx", "weights.bin"
GOLDEN, RECIPE = "golden.npz", "recipe.toml"
REFERENCE_GRAPH, REFERENCE_WEIGHTS = "reference.onnx", "reference.bin"
REQUIRED_FILES = {GRAPH, WEIGHTS, GOLDEN, RECIPE}
REFERENCE_FILES = {REFERENCE_GRAPH, REFERENCE_WEIGHTS}
MAIN_VARIANT = "int8"
VARIANT_WEIGHTS = "variants.bin"
EXACT_VARIANT = "u8_attention"
"""Form of a `cpu` bundle for processors whose sums saturate in 16 bits."""
_VARIANTS = ("fp16", "int8_attention", "fp8", EXACT_VARIANT)
VARIANT_GRAPHS = {name: f"{name}.onnx" for name in _VARIANTS}
VARIANT_FILES = {VARIANT_WEIGHTS, *VARIANT_GRAPHS.values()}
KERNELS = "kernels.json"
"""Kernels of engines that were compiled of the graphs, see `edgevit.bundle.kernels`."""
CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
"""Compute capabilities that TensorRT for RTX 1.7.1 compiles for without a GPU."""
ENGINE_FILES = {
    (variant, capability): f"engine_{variant}_{capability.lower()}.rtx"
    for variant in (MAIN_VARIANT, *_VARIANTS)
    for capability in CAPABILITIES
}
"""(variant, first of its capabilities) -> file of a compiled engine.

Engines are made of the graphs: a bundle is whole without them, and none is sent to a board.
"""
BUNDLE_FILES = (
    {MANIFEST, KERNELS, *ENGINE_FILES.values()} | REQUIRED_FILES | REFERENCE_FILES | VARIANT_FILES
)
_SEAL = "manifest_sha256"
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def dump_manifest(manifest: dict[str, Any]) -> bytes:
    """Return the text of a manifest, with its seal.

    Raises:
        UsageError: A value has no JSON form, such as NaN or an array (EV432).
        BundleError: A key is missing or has the wrong type (EV402).
    """
    unsealed = {key: value for key, value in manifest.items() if key != _SEAL}
    try:
        plain = json.loads(json.dumps(unsealed, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            "EV432",
            "The manifest has no JSON form.",
            where=MANIFEST,
            why=str(error),
            try_next="Give texts, finite numbers, lists and dictionaries.",
        ) from error
    sealed = {**plain, _SEAL: _seal(plain)}
    text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    parse_manifest(text.encode())
    return text.encode()


def parse_manifest(text: bytes) -> dict[str, Any]:
    """Return a manifest after checking its JSON, version, seal, keys and types.

    Raises:
        BundleError: It is damaged or incomplete (EV402), written by a newer version (EV403),
            names a file it must not (EV406), or asks the engine for something foreign (EV417).
    """
    try:
        manifest = plain_from_json(text)
        check_plain(manifest)
        _check_version(manifest)
        seal = _seal({key: value for key, value in manifest.items() if key != _SEAL})
    except (ValueError, RecursionError) as error:
        raise bad_manifest("it is not valid JSON", str(error)[:200]) from error
    if manifest.get(_SEAL) != seal:
        raise bad_manifest("its content does not match its own SHA-256")
    check_values(manifest)
    check_outputs(manifest["model"])
    check_engine(manifest.get("engine", {}))
    check_target_name(manifest.get("target"))
    _check_files(manifest["files"])
    return manifest  # type: ignore[no-any-return]


def _seal(manifest: dict[str, Any]) -> str:
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _check_version(manifest: Any) -> None:
    if not isinstance(manifest, dict):
        raise bad_manifest("it is not an object")
    version = manifest.get("schema_version")
    if type(version) is not int or version < 1:
        raise bad_manifest("schema_version is not a positive whole number")
    if version > SCHEMA_VERSION:
        raise BundleError(
            "EV403",
            "This bundle was written by a newer EdgeViT.",
            where=MANIFEST,
            why=f"It has schema version {version}; this EdgeViT reads up to {SCHEMA_VERSION}.",
            try_next="Upgrade: pip install --upgrade edgevit",
        )


def _check_files(files: dict[str, Any]) -> None:
    for name, record in files.items():
        if name not in BUNDLE_FILES - {MANIFEST}:
            raise BundleError(
                "EV406",
                "The bundle names a file that no bundle has.",
                where=f"manifest.json, files, {name[:80]!r}",
                why="Only the fixed names next to the manifest are ever opened.",
                try_next="Don't use this bundle; get it again from a source you trust.",
            )
        if not isinstance(record, dict) or set(record) != {"sha256", "size_bytes"}:
            raise bad_manifest(f"files.{name} is not a record of sha256 and size_bytes")
        size, digest = record["size_bytes"], record["sha256"]
        if type(size) is not int or not 0 <= size < 1 << 33:
            raise bad_manifest(f"files.{name}.size_bytes is not a size")
        if not isinstance(digest, str) or not _SHA256.match(digest):
            raise bad_manifest(f"files.{name}.sha256 is not a SHA-256")
    missing = REQUIRED_FILES - set(files)
    if missing or len(REFERENCE_FILES & set(files)) == 1:
        raise bad_manifest("files is incomplete", ", ".join(sorted(missing)) or "reference")
    if VARIANT_FILES & set(files) and VARIANT_WEIGHTS not in files:
        raise bad_manifest("files is incomplete", VARIANT_WEIGHTS)
