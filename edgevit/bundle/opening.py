"""Opens a bundle: nothing in it is used before its name, size, hash and table entry were checked.

The ONNX model is rebuilt in memory from the skeleton and the tensor file; no temporary file, no
external data and no onnx package are involved (see protobuf.py for the merge rule).
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, List, Literal, Tuple

from edgevit.bundle.golden import MAX_GOLDEN_BYTES, golden_from_bytes
from edgevit.bundle.manifest import (
    GOLDEN,
    GRAPH,
    MAIN_VARIANT,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    RECIPE,
    REFERENCE_FILES,
    REFERENCE_GRAPH,
    REFERENCE_WEIGHTS,
    VARIANT_WEIGHTS,
    WEIGHTS,
    bad_manifest,
    parse_manifest,
)
from edgevit.bundle.protobuf import initializer_names, initializer_prefix
from edgevit.bundle.tensors import MAX_MODEL_BYTES, TensorEntry, decode, parse_entries
from edgevit.bundle.variants import check_variants, variant_of
from edgevit.errors import BundleError

if TYPE_CHECKING:
    import numpy.typing as npt

SizeKind = Literal["bundle", "engine", "reference", "total"]
_CHUNK_BYTES = 1 << 20
_MAX_TEXT_BYTES = 16 << 20


_Reading = Tuple[str, List[Tuple[TensorEntry, List[str]]]]
"""A tensor file, its entries in order, and the initializers each of them becomes."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle; files are read, and verified again, when they are asked for.

    Args:
        path: The folder.
        manifest: The whole manifest.
        tensors: Entries of ``weights.bin``.
        reference_tensors: Entries of ``reference.bin``; empty when there is no reference.
        variant_tensors: Entries of ``variants.bin``; empty when there is one form only.
    """

    path: Path
    manifest: dict[str, Any]
    tensors: tuple[TensorEntry, ...]
    reference_tensors: tuple[TensorEntry, ...]
    variant_tensors: tuple[TensorEntry, ...] = ()

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The model's own preprocessing, as `edgevit.data.Preprocessing.to_dict` wrote it."""
        return dict(self.manifest["preprocessing"])

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(3, H, W) of the model's input."""
        channels, height, width = self.manifest["model"]["input_size"]
        return channels, height, width

    @property
    def session_config(self) -> dict[str, str]:
        """Session options the quantized engine needs to stay exact on its target."""
        return dict(self.manifest.get("engine", {}).get("session_config", {}))

    @property
    def provider(self) -> str:
        """Execution provider the bundle was made for."""
        return str(self.manifest.get("engine", {}).get("provider", "CPUExecutionProvider"))

    @property
    def engine_name(self) -> str:
        """What runs it on its target: "onnxruntime" or "tensorrt"."""
        return str(self.manifest.get("engine", {}).get("name", "onnxruntime"))

    @property
    def optimizes(self) -> bool:
        """Whether ONNX Runtime may rewrite the graph; False where that would change numbers."""
        return bool(self.manifest.get("engine", {}).get("optimize", True))

    @property
    def variants(self) -> tuple[str, ...]:
        """The forms in which the model is there; the first is the main one."""
        return (MAIN_VARIANT, *self.manifest.get("variants", {}))

    def layers(self, variant: str | None = None) -> list[dict[str, Any]]:
        """Return one row per product of a variant, the main one if left out.

        Raises:
            UsageError: There is no such variant (EV416).
        """
        if variant in (None, MAIN_VARIANT):
            return list(self.manifest["layers"])
        return list(variant_of(self.manifest, str(variant))["layers"])

    @property
    def has_reference(self) -> bool:
        """Whether the fp32 model is in the bundle."""
        return REFERENCE_GRAPH in self.manifest["files"]

    def engine_onnx(self, variant: str | None = None) -> bytes:
        """Return the quantized model as a serialized ONNX ModelProto.

        Args:
            variant: One of `variants`; the main one if left out.

        Raises:
            BundleError: A file changed since opening, or its data is damaged (EV405, EV408).
            UsageError: There is no such variant (EV416).
        """
        if variant in (None, MAIN_VARIANT):
            return self._model(GRAPH, _same_names((WEIGHTS, self.tensors)))
        found = variant_of(self.manifest, str(variant))
        read_as: dict[str, list[str]] = {}
        for initializer, stored in found["tensors"].items():
            read_as.setdefault(stored, []).append(initializer)
        sources = ((WEIGHTS, self.tensors), (VARIANT_WEIGHTS, self.variant_tensors))
        files = [
            (name, [(entry, read_as.get(entry.name, [])) for entry in entries])
            for name, entries in sources
        ]
        return self._model(found["graph"], files)

    def reference_onnx(self) -> bytes | None:
        """Return the fp32 model as a serialized ONNX ModelProto, or None if there is none.

        Raises:
            BundleError: As `engine_onnx`.
        """
        if not self.has_reference:
            return None
        files = _same_names((REFERENCE_WEIGHTS, self.reference_tensors))
        return self._model(REFERENCE_GRAPH, files)

    def required_reference_onnx(self) -> bytes:
        """Return the fp32 model as a serialized ONNX ModelProto.

        Raises:
            BundleError: There is none (EV404), or as `engine_onnx`.
        """
        onnx = self.reference_onnx()
        if onnx is None:
            raise BundleError(
                "EV404",
                "The bundle has no fp32 reference.",
                where=str(self.path),
                why="It was written without one.",
                try_next="Quantize again with the reference to compare against fp32.",
            )
        return onnx

    def golden(self, variant: str | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return the golden arrays, ``logits_simulated`` being those of a variant.

        ``images`` uint8 [n, H, W, 3] and ``logits_simulated`` float32 [n, classes] are always
        there, ``logits_fp32`` float32 [n, classes] and ``names`` str [n] where they were written.

        Raises:
            BundleError: The archive is damaged (EV405, EV410) or of another model (EV402).
            UsageError: There is no such variant (EV416).
        """
        arrays = golden_from_bytes(self._read(GOLDEN, MAX_GOLDEN_BYTES), GOLDEN)
        self._check_golden(arrays)
        if variant in (None, MAIN_VARIANT):
            return arrays
        key = variant_of(self.manifest, str(variant))["golden"]
        if key not in arrays:
            raise bad_manifest(f"{GOLDEN} lacks {key}")
        return {**arrays, "logits_simulated": arrays[key]}

    def _check_golden(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Refuse images and logits of another model than the manifest's."""
        (channels, *side), classes = self.input_size, self.manifest["model"]["num_classes"]
        fits = arrays["images"].shape[1:] == (*side, channels)
        if not fits or arrays["logits_simulated"].shape[1] != classes:
            raise bad_manifest(f"{GOLDEN} is not of {classes} classes at {side} pixels")

    def recipe_toml(self) -> str:
        """Return the recipe the bundle was made with, as TOML."""
        try:
            return self._read(RECIPE, _MAX_TEXT_BYTES).decode()
        except UnicodeDecodeError as error:
            raise bad_manifest(f"{RECIPE} is not text") from error

    def size_bytes(self, kind: SizeKind = "bundle") -> int:
        """Return a size on disk.

        Args:
            kind: "bundle" all files but the reference, "engine" graph and weights of the main
                variant only,
                "reference" the fp32 model (0 without one), "total" the whole folder.
        """
        sizes = {name: int(item["size_bytes"]) for name, item in self.manifest["files"].items()}
        sizes[MANIFEST] = (self.path / MANIFEST).stat().st_size
        wanted = {
            "engine": {GRAPH, WEIGHTS},
            "reference": REFERENCE_FILES,
            "bundle": set(sizes) - REFERENCE_FILES,
            "total": set(sizes),
        }[kind]
        return sum(size for name, size in sizes.items() if name in wanted)

    def _model(self, graph: str, files: list[_Reading]) -> bytes:
        """Return a skeleton with tensors put back: of each file the entries and their names."""
        model = io.BytesIO()  # grows in place; getvalue() hands its buffer over without a copy
        model.write(self._read(graph, MAX_MODEL_BYTES))
        for weights, entries in files:
            self._put_back(model, weights, entries)
        return model.getvalue()

    def _put_back(
        self, model: BinaryIO, weights: str, entries: list[tuple[TensorEntry, list[str]]]
    ) -> None:
        digest = hashlib.sha256()
        with _member(self.path, weights) as stream:
            for entry, names in entries:
                data = stream.read(entry.size_bytes)
                digest.update(data)
                if len(data) != entry.size_bytes:
                    raise _damaged(weights, "it became shorter while it was read")
                raw = decode(entry, data) if names else b""
                for name in names:
                    prefix = initializer_prefix(name, entry.dtype, entry.shape, entry.decoded_bytes)
                    model.write(prefix)
                    model.write(raw)
        if digest.hexdigest() != self.manifest["files"][weights]["sha256"]:
            raise _damaged(weights, "it changed after the bundle was opened")

    def _read(self, name: str, limit_bytes: int) -> bytes:
        record = self.manifest["files"][name]
        if record["size_bytes"] > limit_bytes:
            raise _damaged(name, f"it is larger than {limit_bytes} bytes")
        with _member(self.path, name) as stream:
            data = stream.read(record["size_bytes"] + 1)
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise _damaged(name, "it changed after the bundle was opened")
        return data


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle after verifying all of it.

    Args:
        path: The bundle's folder.

    Raises:
        BundleError: It is no bundle (EV401), its manifest is damaged (EV402) or too new (EV403), a
            file is missing (EV404) or differs in size or SHA-256 (EV405), a name leads outside the
            folder (EV406), a tensor table is invalid (EV407) or a graph refers to other files
            or is malformed (EV409).
    """
    folder = Path(path)
    if not folder.is_dir():
        is_there = folder.exists()
        why = "It is a file, and a bundle is a folder." if is_there else "There is no such folder."
        raise _not_a_bundle(folder, why)
    if not (folder / MANIFEST).exists():
        raise _not_a_bundle(folder, f"It has no {MANIFEST}.")
    with _member(folder, MANIFEST) as stream:
        text = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise bad_manifest(f"it is larger than {MAX_MANIFEST_BYTES} bytes")
    manifest = parse_manifest(text)
    for name, record in manifest["files"].items():
        _verify(folder, name, record)
    tensors = _entries(manifest, "tensors", WEIGHTS)
    reference = _entries(manifest, "reference_tensors", REFERENCE_WEIGHTS)
    variant = _entries(manifest, "variant_tensors", VARIANT_WEIGHTS)
    check_variants(manifest, tensors, variant)
    bundle = Bundle(
        path=folder,
        manifest=manifest,
        tensors=tensors,
        reference_tensors=reference,
        variant_tensors=variant,
    )
    check_skeleton(bundle._read(GRAPH, MAX_MODEL_BYTES), (e.name for e in tensors), GRAPH)
    for table in manifest.get("variants", {}).values():
        skeleton = bundle._read(table["graph"], MAX_MODEL_BYTES)
        check_skeleton(skeleton, table["tensors"], table["graph"])
    if bundle.has_reference:
        skeleton = bundle._read(REFERENCE_GRAPH, MAX_MODEL_BYTES)
        check_skeleton(skeleton, (e.name for e in reference), REFERENCE_GRAPH)
    return bundle


def _same_names(source: tuple[str, tuple[TensorEntry, ...]]) -> list[_Reading]:
    name, entries = source
    return [(name, [(entry, [entry.name]) for entry in entries])]


def check_skeleton(skeleton: bytes, names: Iterable[str], where: str) -> None:
    """Refuse an ONNX skeleton that is malformed, has external data or repeats a tensor.

    Args:
        names: The initializers that are kept outside the skeleton.

    Raises:
        BundleError: EV409, or EV407 when one of the names is already an initializer.
    """
    twice = initializer_names(skeleton, where) & set(names)
    if twice:
        raise BundleError(
            "EV407", "A tensor is stored twice.", where=where, why=f"{min(twice)[:80]!r}"
        )


def _entries(manifest: dict[str, Any], key: str, file_name: str) -> tuple[TensorEntry, ...]:
    file_bytes = manifest["files"].get(file_name, {"size_bytes": 0})["size_bytes"]
    return parse_entries(manifest.get(key, []), file_bytes, key)


def _verify(folder: Path, name: str, record: dict[str, Any]) -> None:
    digest = hashlib.sha256()
    with _member(folder, name) as stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        if size_bytes != record["size_bytes"]:
            raise _damaged(name, f"it has {size_bytes} bytes instead of {record['size_bytes']}")
        for chunk in iter(lambda: stream.read(_CHUNK_BYTES), b""):
            digest.update(chunk)
    if digest.hexdigest() != record["sha256"]:
        raise _damaged(name, "its SHA-256 is not the one in the manifest")


@contextmanager
def _member(folder: Path, name: str) -> Iterator[BinaryIO]:
    """Open a file of the folder for reading; only regular files that really lie in it."""
    try:
        root = folder.resolve(strict=True)
        target = (root / name).resolve(strict=True)
        if target.parent != root or not stat.S_ISREG(target.stat().st_mode):
            raise BundleError(
                "EV406",
                "A file of the bundle is not a plain file in its folder.",
                where=name,
                why="It is a link that leads outside, a folder or a device.",
                try_next="Copy the bundle with its links resolved (cp -rL), or get it again.",
            )
        with open(target, "rb") as stream:
            yield stream
    except FileNotFoundError as error:
        raise BundleError(
            "EV404",
            "The bundle is incomplete.",
            where=name,
            why="The file is missing.",
            try_next="Copy the whole folder again or write the bundle again.",
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links before Python 3.13
        raise BundleError(
            "EV404", "A file of the bundle can't be read.", where=name, why=str(error)
        ) from error


def _not_a_bundle(folder: Path, why: str) -> BundleError:
    return BundleError(
        "EV401",
        "This is not an EdgeViT bundle.",
        where=str(folder),
        why=why,
        try_next="Give the folder that `edgevit quantize --output` wrote.",
    )


def _damaged(name: str, why: str) -> BundleError:
    return BundleError(
        "EV405",
        "A file of the bundle is damaged.",
        where=name,
        why=why,
        try_next="Copy the bundle again or write it again.",
    )
