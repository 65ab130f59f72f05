"""The bundle's manifest: read strictly, checked completely, sealed with its own SHA-256.

Every other file is covered by the manifest's ``files`` table; ``manifest_sha256`` covers the
manifest itself (canonical JSON without that key), so that no flipped byte goes unnoticed. Hashes
find damage; they don't prove who wrote a bundle.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NoReturn

from edgevit.errors import BundleError, UsageError
from edgevit.targets.profiles import EXACT_VARIANT

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 16 << 20
MANIFEST, GRAPH, WEIGHTS = "manifest.json", "graph.onnx", "weights.bin"
GOLDEN, RECIPE = "golden.npz", "recipe.toml"
REFERENCE_GRAPH, REFERENCE_WEIGHTS = "reference.onnx", "reference.bin"
REQUIRED_FILES = {GRAPH, WEIGHTS, GOLDEN, RECIPE}
REFERENCE_FILES = {REFERENCE_GRAPH, REFERENCE_WEIGHTS}
MAIN_VARIANT = "int8"
VARIANT_WEIGHTS = "variants.bin"
_VARIANTS = ("fp16", "int8_attention", "fp8", EXACT_VARIANT)
VARIANT_GRAPHS = {name: f"{name}.onnx" for name in _VARIANTS}
VARIANT_FILES = {VARIANT_WEIGHTS, *VARIANT_GRAPHS.values()}
BUNDLE_FILES = {MANIFEST} | REQUIRED_FILES | REFERENCE_FILES | VARIANT_FILES
_SEAL = "manifest_sha256"
_TYPES: dict[str, type | tuple[type, ...]] = {
    "edgevit_version": str,
    "created": str,
    "model": dict,
    "recipe": dict,
    "preprocessing": dict,
    "target": (str, dict),
    "calibration": dict,
    "versions": dict,
    "layers": list,
    "tensors": list,
    "reference_tensors": list,
    "files": dict,
    "bits": dict,
    "warnings": list,
}
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def dump_manifest(manifest: dict[str, Any]) -> bytes:
    """Return the text of a manifest, with its seal.

    Raises:
        UsageError: A value has no JSON form, such as NaN or an array (EV413).
        BundleError: A key is missing or has the wrong type (EV402).
    """
    unsealed = {key: value for key, value in manifest.items() if key != _SEAL}
    try:
        plain = json.loads(json.dumps(unsealed, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            "EV413", "The manifest has no JSON form.", where=MANIFEST, why=str(error)
        ) from error
    sealed = {**plain, _SEAL: _seal(plain)}
    text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    parse_manifest(text.encode())
    return text.encode()


def parse_manifest(text: bytes) -> dict[str, Any]:
    """Return a manifest after checking its JSON, version, seal, keys and types.

    Raises:
        BundleError: It is damaged or incomplete (EV402), written by a newer version (EV403), or
            names a file it must not (EV406).
    """
    try:
        manifest = json.loads(
            text.decode(), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
        _check_version(manifest)
        seal = _seal({key: value for key, value in manifest.items() if key != _SEAL})
    except (ValueError, RecursionError) as error:
        raise bad_manifest("it is not valid JSON", str(error)[:200]) from error
    if manifest.get(_SEAL) != seal:
        raise bad_manifest("its content does not match its own SHA-256")
    for key, kind in _TYPES.items():
        if not isinstance(manifest.get(key), kind):
            raise bad_manifest(f"{key!r} is missing or has the wrong type")
    _check_rows("layers", manifest["layers"], dict)
    _check_rows("warnings", manifest["warnings"], str)
    _check_model(manifest["model"])
    _check_bits(manifest["bits"])
    _check_engine(manifest.get("engine", {}))
    _check_files(manifest["files"])
    return manifest  # type: ignore[no-any-return]


def bad_manifest(why: str, detail: str = "") -> BundleError:
    """Return the error for a manifest that can't be used."""
    return BundleError(
        "EV402",
        "The bundle's manifest is damaged.",
        where=MANIFEST,
        why=f"{why}: {detail}" if detail else why,
        try_next="Copy the bundle again or write it again; don't edit manifest.json.",
    )


def _seal(manifest: dict[str, Any]) -> str:
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


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


def _check_rows(key: str, rows: list[Any], kind: type) -> None:
    if not all(isinstance(row, kind) for row in rows):
        raise bad_manifest(f"{key} has a row that is no {'text' if kind is str else 'table'}")


def _check_model(model: dict[str, Any]) -> None:
    size, classes = model.get("input_size"), model.get("num_classes")
    sizes_fit = isinstance(size, list) and len(size) == 3 and size[0] == 3
    if not sizes_fit or not all(type(n) is int and 0 < n <= 1 << 14 for n in size or ()):
        raise bad_manifest("model.input_size is not [3, height, width]")
    if type(classes) is not int or not 0 < classes <= 1 << 24:
        raise bad_manifest("model.num_classes is not a positive whole number")
    if not isinstance(model.get("name"), str):
        raise bad_manifest("model.name is not a string")
    for key in ("parameters", "flops"):
        count = model.get(key, 0)
        if count is not None and (type(count) is not int or not 0 <= count < 1 << 63):
            raise bad_manifest(f"model.{key} is not a whole number")
    names = model.get("classes")
    if names is not None and (not isinstance(names, list) or len(names) != classes):
        raise bad_manifest(f"model.classes is not a list of {classes} names")
    _check_rows("model.classes", names or [], str)


def _check_bits(bits: dict[str, Any]) -> None:
    for key in ("weight_mean", "act_mean"):
        mean = bits.get(key)
        if type(mean) not in (int, float) or not 1 <= mean <= 32:  # type: ignore[operator]
            raise bad_manifest(f"bits.{key} is not a width between 1 and 32")


def _check_engine(engine: Any) -> None:
    config = engine.get("session_config", {}) if isinstance(engine, dict) else None
    if not isinstance(config, dict) or not all(isinstance(v, str) for v in config.values()):
        raise bad_manifest("engine.session_config is not a table of strings")
    if not isinstance(engine.get("provider", ""), str):
        raise bad_manifest("engine.provider is not a string")
    if not isinstance(engine.get("name", ""), str):
        raise bad_manifest("engine.name is not a string")
    if not isinstance(engine.get("optimize", True), bool):
        raise bad_manifest("engine.optimize is neither true nor false")


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
