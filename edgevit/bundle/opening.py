"""Opens a bundle: nothing in it is used before its name, size, hash and table entry were checked.

The ONNX model is rebuilt in memory from the skeleton and the tensor file; no temporary file, no
external data and no onnx package are involved (see protobuf.py for the merge rule).
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, List, Literal, Tuple

from edgevit.bundle.compiled import MAX_ENGINE_BYTES, check_engines, is_left_out
from edgevit.bundle.cost import Cost, cost_of
from edgevit.bundle.golden import (
    MAX_GOLDEN_BYTES,
    as_main,
    fp32_of,
    golden_from_bytes,
    golden_limit_bytes,
    is_of_classes,
    simulated_of,
)
from edgevit.bundle.graph import MAX_GRAPH_BYTES, OnnxGraph, read_graph
from edgevit.bundle.kernels import MAX_KERNELS_BYTES, bad_kernels, tables_from_bytes
from edgevit.bundle.limits import IMAGES_AT_ONCE, check_cost, limits_from
from edgevit.bundle.manifest import (
    ENGINE_FILES,
    GOLDEN,
    GRAPH,
    KERNELS,
    MAIN_VARIANT,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    RECIPE,
    REFERENCE_FILES,
    REFERENCE_GRAPH,
    REFERENCE_WEIGHTS,
    VARIANT_WEIGHTS,
    WEIGHTS,
    parse_manifest,
)
from edgevit.bundle.manifest_schema import bad_manifest
from edgevit.bundle.members import damaged_file_error, member, verify
from edgevit.bundle.outputs import Output, is_classifier, outputs_of, task_of
from edgevit.bundle.protobuf import initializer_prefix
from edgevit.bundle.shape_rules import Value
from edgevit.bundle.tensors import TensorEntry, decode, parse_entries
from edgevit.bundle.variants import check_variants, variant_of
from edgevit.data.paths import look_at
from edgevit.errors import BundleError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

SizeKind = Literal["bundle", "engine", "reference", "compiled", "total"]
_MAX_TEXT_BYTES = 1 << 20
_ARCHIVE_BYTES = 1 << 16  # what a zip file adds to its members


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
        costs: What running each graph costs, by file name.
    """

    path: Path
    manifest: dict[str, Any]
    tensors: tuple[TensorEntry, ...]
    reference_tensors: tuple[TensorEntry, ...]
    variant_tensors: tuple[TensorEntry, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)

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
    def outputs(self) -> tuple[Output, ...]:
        """The model's outputs, the main one first: of a classifier its logits."""
        return outputs_of(self.manifest["model"])

    @property
    def task(self) -> str:
        """The model's task, one of `edgevit.data.tasks.TASKS`."""
        return task_of(self.manifest["model"])

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
        """Name of the engine that runs it on its target; empty in bundles older than that entry."""
        return str(self.manifest.get("engine", {}).get("name", ""))

    @property
    def optimizes(self) -> bool:
        """Return whether ONNX Runtime may rewrite the graph: not where it would change numbers."""
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
        """Return whether the fp32 model is in the bundle."""
        return REFERENCE_GRAPH in self.manifest["files"]

    def engine_onnx(self, variant: str | None = None) -> bytes:
        """Return the quantized model as a serialized ONNX ModelProto.

        Args:
            variant: One of `variants`; the main one if left out.

        Raises:
            BundleError: A file changed since opening, or its data is damaged (EV405, EV408, EV428,
                EV429), or it costs more than is allowed (EV421, EV422).
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
            BundleError: There is none (EV425), or as `engine_onnx`.
        """
        onnx = self.reference_onnx()
        if onnx is None:
            raise BundleError(
                "EV425",
                "The bundle has no fp32 reference.",
                where=str(self.path),
                why="It was written without one.",
                try_next="Quantize again with the reference to compare against fp32.",
            )
        return onnx

    def golden(self, variant: str | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return the golden arrays, ``logits_simulated`` being those of a variant.

        Of a model with named outputs ``simulated/<output>`` stands in its place, and
        ``fp32/<output>`` in that of ``logits_fp32``; `edgevit.bundle.golden.simulated_of` and
        `fp32_of` read both forms.

        ``images`` uint8 [n, H, W, 3] and ``logits_simulated`` float32 [n, classes] are always
        there, ``logits_fp32`` float32 [n, classes] and ``names`` str [n] where they were written.

        Raises:
            BundleError: The archive is damaged (EV405, EV410) or of another model (EV402).
            UsageError: There is no such variant (EV416).
        """
        limit_bytes = golden_limit_bytes(self.input_size, self.outputs, len(self.variants))
        data = self._read(GOLDEN, min(limit_bytes, MAX_GOLDEN_BYTES) + _ARCHIVE_BYTES)
        arrays = golden_from_bytes(data, GOLDEN, limit_bytes)
        self._check_golden(arrays)
        if variant in (None, MAIN_VARIANT):
            return arrays
        key = variant_of(self.manifest, str(variant))["golden"]
        found = as_main(arrays, str(variant))
        if not found:
            raise bad_manifest(f"{GOLDEN} lacks {key}")
        return found

    def _check_golden(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Refuse images and outputs of another model than the manifest's."""
        channels, *side = self.input_size
        fits = arrays["images"].shape[1:] == (*side, channels)
        fits = fits and is_of_classes(arrays) == is_classifier(self.manifest["model"])
        wanted = {one.name: one.shape for one in self.outputs}
        sets = [simulated_of(arrays, variant) for variant in self.variants]
        for one in (found for found in (*sets, fp32_of(arrays)) if found):
            fits = fits and {name: value.shape[1:] for name, value in one.items()} == wanted
        if not fits and is_classifier(self.manifest["model"]):
            classes = self.manifest["model"]["num_classes"]
            raise bad_manifest(f"{GOLDEN} is not of {classes} classes at {side} pixels")
        if not fits:
            raise bad_manifest(f"{GOLDEN} is not of the model's outputs at {side} pixels")

    def engines(self) -> list[dict[str, Any]]:
        """Return the rows of the compiled engines that are here; see `CompiledFile`.

        A bundle may have been copied without them.
        """
        rows = self.manifest.get("engines", [])
        return [dict(row) for row in rows if not is_left_out(self.path, row["file"])]

    def compiled_engine(self, variant: str, capability: str) -> bytes:
        """Return the engine of a variant for a card, as it was compiled; it is not run here.

        Args:
            variant: One of `variants`.
            capability: Of the card, such as "SM89".

        Raises:
            UsageError: There is none (EV436).
            BundleError: Its file changed since opening (EV404, EV405).
        """
        for row in self.engines():
            if row["variant"] == variant and capability in row["capabilities"]:
                return self._read(row["file"], MAX_ENGINE_BYTES)
        raise UsageError(
            "EV436",
            "The bundle has no engine for this card.",
            where=f"{variant[:80]}, {capability[:80]}",
            why="None was compiled, or the bundle was copied without its engines.",
            try_next=f"edgevit build BUNDLE --for {capability[:80].lower()}",
        )

    def kernel_tables(self) -> list[dict[str, Any]]:
        """Return the kernels of engines that were compiled, one table for each engine.

        Each is what `edgevit.runner.engines.tensorrt.kernel_table.kernel_table` takes; the list is
        empty where nothing was compiled.

        Raises:
            BundleError: They are damaged (EV405, EV435).
        """
        if KERNELS not in self.manifest["files"]:
            return []
        tables = tables_from_bytes(self._read(KERNELS, MAX_KERNELS_BYTES))
        strange = [table["variant"] for table in tables if table["variant"] not in self.variants]
        if strange:
            raise bad_kernels(f"the bundle has no variant {strange[0]}")
        return tables

    def recipe_toml(self) -> str:
        """Return the recipe the bundle was made with, as TOML."""
        try:
            return self._read(RECIPE, _MAX_TEXT_BYTES).decode()
        except UnicodeDecodeError as error:
            raise bad_manifest(f"{RECIPE} is not text") from error

    def size_bytes(self, kind: SizeKind = "bundle") -> int:
        """Return a size on disk.

        Args:
            kind: "bundle" all files but the reference and compiled engines, which is what a board
                needs, "engine" graph and weights of the main variant only,
                "reference" the fp32 model (0 without one), "compiled" the engines that were
                compiled ahead of time (0 without any), "total" the whole folder.
        """
        files = self.manifest["files"].items()
        sizes = {
            name: int(item["size_bytes"])
            for name, item in files
            if not is_left_out(self.path, name)
        }
        sizes[MANIFEST] = (self.path / MANIFEST).stat().st_size
        compiled = set(ENGINE_FILES.values())
        wanted = {
            "engine": {GRAPH, WEIGHTS},
            "reference": REFERENCE_FILES,
            "bundle": set(sizes) - REFERENCE_FILES - compiled,
            "compiled": compiled,
            "total": set(sizes),
        }[kind]
        return sum(size for name, size in sizes.items() if name in wanted)

    def check_limits(self, images: int) -> None:
        """Refuse to run so many images at once if that costs more than is allowed.

        What is allowed is said by the environment (`edgevit.bundle.limits`).

        Raises:
            BundleError: It needs more memory (EV421) or work (EV422).
            UsageError: The environment says no limit (EV423).
        """
        check_cost(self.costs, REFERENCE_GRAPH, limits_from(), images)

    def _model(self, graph: str, files: list[_Reading]) -> bytes:
        """Return a skeleton with tensors put back: of each file the entries and their names."""
        check_cost({graph: self.costs[graph]}, "", limits_from(), IMAGES_AT_ONCE)
        model = io.BytesIO()  # grows in place; getvalue() hands its buffer over without a copy
        model.write(self._read(graph, MAX_GRAPH_BYTES))
        for weights, entries in files:
            self._put_back(model, weights, entries)
        return model.getvalue()

    def _put_back(
        self, model: BinaryIO, weights: str, entries: list[tuple[TensorEntry, list[str]]]
    ) -> None:
        digest = hashlib.sha256()
        with member(self.path, weights) as stream:
            for entry, names in entries:
                data = stream.read(entry.size_bytes)
                digest.update(data)
                if len(data) != entry.size_bytes:
                    raise damaged_file_error(weights, "it became shorter while it was read")
                raw = decode(entry, data) if names else b""
                for name in names:
                    prefix = initializer_prefix(name, entry.dtype, entry.shape, entry.decoded_bytes)
                    model.write(prefix)
                    model.write(raw)
        if digest.hexdigest() != self.manifest["files"][weights]["sha256"]:
            raise damaged_file_error(weights, "it changed after the bundle was opened")

    def _read(self, name: str, limit_bytes: int) -> bytes:
        record = self.manifest["files"][name]
        if record["size_bytes"] > limit_bytes:
            raise damaged_file_error(name, f"it is larger than {limit_bytes} bytes")
        with member(self.path, name) as stream:
            data = stream.read(record["size_bytes"] + 1)
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise damaged_file_error(name, "it changed after the bundle was opened")
        return data


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle after verifying all of it.

    Compiled engines may be missing: they are made of the rest.

    Args:
        path: The bundle's folder.

    Raises:
        BundleError: It is no bundle (EV401), its manifest is damaged (EV402) or too new (EV403), a
            file is missing (EV404) or differs in size or SHA-256 (EV405), a name is no bundle's
            (EV406) or leads outside the folder (EV426), a file can't be read (EV424), a tensor
            table is invalid (EV407) or stores one twice (EV427), a graph refers to other files
            (EV430) or is malformed (EV409), holds what EdgeViT never writes (EV418) or shapes that
            do not fit (EV419), the engine is asked for something foreign (EV417), or tensors are
            far larger than their files (EV420).
    """
    folder = Path(path)
    found = look_at(folder)
    if found.kind != "folder":
        whys = {
            "file": "It is a file, and a bundle is a folder.",
            "nothing": "There is no such folder.",
        }
        raise _not_a_bundle(folder, whys.get(found.kind, found.why))
    manifest_there = look_at(folder / MANIFEST)
    if manifest_there.kind in ("nothing", "closed"):
        why = f"It has no {MANIFEST}."
        if manifest_there.kind == "closed":
            why = f"{MANIFEST} can't be read: {manifest_there.why}"
        raise _not_a_bundle(folder, why)
    manifest = read_manifest(folder)
    for name, record in manifest["files"].items():
        if not is_left_out(folder, name):
            verify(folder, name, record)
    tensors = _entries(manifest, "tensors", WEIGHTS)
    reference = _entries(manifest, "reference_tensors", REFERENCE_WEIGHTS)
    variant = _entries(manifest, "variant_tensors", VARIANT_WEIGHTS)
    check_variants(manifest, tensors, variant)
    check_engines(manifest)
    bundle = Bundle(
        path=folder,
        manifest=manifest,
        tensors=tensors,
        reference_tensors=reference,
        variant_tensors=variant,
    )
    costs = {name: _cost(bundle, name, stored) for name, stored in _graphs(bundle)}
    return replace(bundle, costs=costs)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest in a folder, checked.

    Raises:
        BundleError: As `parse_manifest` and `member`.
    """
    with member(folder, MANIFEST) as stream:
        text = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise bad_manifest(f"it is larger than {MAX_MANIFEST_BYTES} bytes")
    return parse_manifest(text)


def _graphs(bundle: Bundle) -> Iterator[tuple[str, dict[str, TensorEntry]]]:
    """Yield the file name of each graph and the tensors that are put into it, by name."""
    yield GRAPH, {entry.name: entry for entry in bundle.tensors}
    stored = {entry.name: entry for entry in (*bundle.tensors, *bundle.variant_tensors)}
    for table in bundle.manifest.get("variants", {}).values():
        yield table["graph"], {name: stored[kept] for name, kept in table["tensors"].items()}
    if bundle.has_reference:
        yield REFERENCE_GRAPH, {entry.name: entry for entry in bundle.reference_tensors}


def _cost(bundle: Bundle, name: str, tensors: Mapping[str, TensorEntry]) -> Cost:
    """Return what a graph costs, after checking that it is one EdgeViT could have written."""
    graph = check_skeleton(bundle._read(name, MAX_GRAPH_BYTES), tensors, name)
    stored = {entry.name: entry for entry in tensors.values()}
    return cost_of(
        graph,
        {name: Value(one.shape, one.dtype, is_constant=True) for name, one in tensors.items()},
        model_bytes=sum(entry.float_bytes for entry in stored.values()),
        input_size=bundle.input_size,
        outputs=bundle.outputs,
        where=name,
    )


def _same_names(source: tuple[str, tuple[TensorEntry, ...]]) -> list[_Reading]:
    name, entries = source
    return [(name, [(entry, [entry.name]) for entry in entries])]


def check_skeleton(skeleton: bytes, names: Iterable[str], where: str) -> OnnxGraph:
    """Return the graph of an ONNX skeleton; refuse one that is foreign or repeats a tensor.

    Args:
        names: The initializers that are kept outside the skeleton.

    Raises:
        BundleError: As `read_graph`, or EV427 when one of the names is already an initializer.
    """
    graph = read_graph(skeleton, where)
    twice = set(graph.constants) & set(names)
    if twice:
        raise BundleError(
            "EV427",
            "A tensor is stored twice.",
            where=where,
            why=f"{min(twice)[:80]!r} is in the graph and in the tensor file.",
            try_next="Copy the bundle again or write it again.",
        )
    return graph


def _entries(manifest: dict[str, Any], key: str, file_name: str) -> tuple[TensorEntry, ...]:
    file_bytes = manifest["files"].get(file_name, {"size_bytes": 0})["size_bytes"]
    return parse_entries(manifest.get(key, []), file_bytes, key)


def _not_a_bundle(folder: Path, why: str) -> BundleError:
    return BundleError(
        "EV401",
        "This is not an EdgeViT bundle.",
        where=str(folder),
        why=why,
        try_next="Give the folder that `edgevit quantize --output` wrote.",
    )
