"""Writes a bundle in one step: either the whole folder appears under its name, or nothing does.

Everything goes into a hidden folder beside the target, is flushed to the disk and renamed at the
end; an error or an interrupt removes that folder again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bundle.golden import golden_bytes
from edgevit.bundle.leftovers import clear_leftovers, find, fresh_folder
from edgevit.bundle.manifest import (
    BUNDLE_FILES,
    GOLDEN,
    GRAPH,
    MANIFEST,
    RECIPE,
    REFERENCE_GRAPH,
    REFERENCE_WEIGHTS,
    SCHEMA_VERSION,
    VARIANT_GRAPHS,
    VARIANT_WEIGHTS,
    WEIGHTS,
    dump_manifest,
)
from edgevit.bundle.opening import check_skeleton
from edgevit.bundle.placing import put_in_place
from edgevit.bundle.tensors import MAX_MODEL_BYTES, TensorEntry, encode, parse_entries
from edgevit.bundle.variants import TensorStore, VariantModel, golden_key
from edgevit.errors import EnvironmentError_, UnsupportedError, UsageError
from edgevit.version import __version__

if TYPE_CHECKING:
    import numpy.typing as npt

    Tensors = Mapping[str, npt.NDArray[Any]]

_PREFIX_BYTES = 1024  # generous bound for the protobuf around one tensor


def write_bundle(
    path: str | os.PathLike[str],
    *,
    graph_onnx: bytes,
    tensors: Tensors,
    packed_bits: Mapping[str, int],
    reference: tuple[bytes, Tensors] | None,
    golden: Tensors,
    manifest: Mapping[str, Any],
    recipe_toml: str,
    variants: Mapping[str, VariantModel] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a bundle; nothing is left behind when it fails or is interrupted.

    Args:
        path: The folder to make; missing parent folders are made too.
        graph_onnx: Serialized ModelProto of the quantized model without the tensors.
        tensors: Initializers by name; dtypes as in `edgevit.bundle.protobuf.ONNX_DATA_TYPES`.
        packed_bits: Width of the codes of int8/uint8 tensors; fewer than 8 bits are packed.
        reference: The fp32 model in the same form, or None.
        golden: ``images`` uint8 [n, H, W, 3], ``logits_simulated`` float32 [n, classes] and
            optionally ``logits_fp32`` float32 [n, classes], ``names`` str [n], and for each
            variant ``logits_simulated_<variant>``.
        manifest: All keys but schema_version, tensors, reference_tensors and files, which are
            made here; edgevit_version and created are filled in where missing.
        recipe_toml: The recipe as TOML.
        variants: Further forms of the model by name; tensors of equal content are stored once.
        overwrite: Replace an existing bundle; a folder that is none is never replaced.

    Raises:
        UsageError: The folder exists (EV411) or a value can't be stored (EV413, EV415, EV431 to
            EV434).
        UnsupportedError: A model is larger than protobuf allows, 2 GiB (EV414).
        EnvironmentError_: The disk is full or not writable (EV412).
        BundleError: The manifest or a graph would not open again (EV402, EV407, EV409, EV427,
            EV430).
    """
    target = Path(os.path.abspath(path))
    golden_npz = golden_bytes(golden)
    clear_leftovers(
        find(target.parent, target.name)
    )  # what a killed process left of the same bundle
    check_target(target, overwrite)
    try:
        with _parents(target.parent), fresh_folder(target) as folder:
            files = _Files(folder)
            complete = _manifest_head(manifest)
            complete["tensors"] = files.add_model(
                (GRAPH, WEIGHTS), graph_onnx, tensors, packed_bits, compress=True
            )
            complete["reference_tensors"] = []
            if reference is not None:
                names = (REFERENCE_GRAPH, REFERENCE_WEIGHTS)
                entries = files.add_model(names, *reference, {}, compress=False)
                complete["reference_tensors"] = entries
            if variants:
                store = TensorStore()
                store.note_main(tensors, packed_bits)
                complete.update(files.add_variants(store, variants))
            files.add(GOLDEN, golden_npz)
            files.add(RECIPE, recipe_toml.encode())
            complete["files"] = dict(files.records)
            files.add(MANIFEST, dump_manifest(complete))
            _sync_folder(folder)
            check_target(target, overwrite)  # somebody else may have made it meanwhile
            put_in_place(folder, target)
            _sync_folder(target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error


class _Files:
    """Writes files into a folder and remembers their size and SHA-256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, dict[str, Any]] = {}

    def add(self, name: str, data: bytes) -> None:
        self._stream(name, iter([data]))

    def add_model(
        self,
        names: tuple[str, str],
        skeleton: bytes,
        tensors: Tensors,
        packed_bits: Mapping[str, int],
        *,
        compress: bool,
    ) -> list[dict[str, Any]]:
        """Write a skeleton and its tensors; return the entry table."""
        graph_name, weights_name = names
        _check_size(graph_name, skeleton, tensors)
        table = self.add_tensors(weights_name, tensors, packed_bits, compress=compress)
        check_skeleton(skeleton, tensors, graph_name)
        self.add(graph_name, skeleton)
        return table

    def add_variants(
        self, store: TensorStore, variants: Mapping[str, VariantModel]
    ) -> dict[str, Any]:
        """Write the graphs and further tensors of all variants; return their manifest keys."""
        table: dict[str, Any] = {}
        for name, model in variants.items():
            _check_size(VARIANT_GRAPHS[name], model.onnx, model.tensors)
            table[name] = {
                "graph": VARIANT_GRAPHS[name],
                "golden": golden_key(name),
                "tensors": store.add(name, model),
                "layers": model.layers,
            }
            check_skeleton(model.onnx, model.tensors, VARIANT_GRAPHS[name])
            self.add(VARIANT_GRAPHS[name], model.onnx)
        # Halves of weights hardly compress, and a board would wait for them.
        bits = store.packed_bits
        entries = self.add_tensors(VARIANT_WEIGHTS, store.tensors, bits, compress=False)
        return {"variants": table, "variant_tensors": entries}

    def add_tensors(
        self, file_name: str, tensors: Tensors, packed_bits: Mapping[str, int], *, compress: bool
    ) -> list[dict[str, Any]]:
        """Write a tensor file; return the entry table."""
        unknown = set(packed_bits) - set(tensors)
        if unknown:
            raise UsageError(
                "EV434",
                "No such tensor to pack.",
                where=min(unknown),
                why="packed_bits names it and the tensors don't.",
                try_next="Name tensors that are written.",
            )
        entries: list[TensorEntry] = []

        def encoded() -> Iterator[bytes]:
            offset = 0
            for name, array in tensors.items():
                bits = packed_bits.get(name)
                entry, data = encode(
                    name, array, offset=offset, packed_bits=bits, compress=compress
                )
                entries.append(entry)
                offset += entry.size_bytes
                yield data

        self._stream(file_name, encoded())
        table = [entry.to_dict() for entry in entries]
        parse_entries(table, self.records[file_name]["size_bytes"], file_name)
        return table

    def _stream(self, name: str, chunks: Iterator[bytes]) -> None:
        digest, size_bytes = hashlib.sha256(), 0
        with open(self.folder / name, "xb") as stream:
            for chunk in chunks:
                stream.write(chunk)
                digest.update(chunk)
                size_bytes += len(chunk)
            stream.flush()
            os.fsync(stream.fileno())
        self.records[name] = {"sha256": digest.hexdigest(), "size_bytes": size_bytes}


def _manifest_head(manifest: Mapping[str, Any]) -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    filled = {"edgevit_version": __version__, "created": now, **manifest}
    return {"schema_version": SCHEMA_VERSION, **filled}


def _check_size(name: str, skeleton: bytes, tensors: Tensors) -> None:
    size_bytes = len(skeleton) + sum(array.nbytes + _PREFIX_BYTES for array in tensors.values())
    if size_bytes > MAX_MODEL_BYTES:
        raise UnsupportedError(
            "EV414",
            f"The model needs {size_bytes / 2**30:.1f} GiB as ONNX.",
            where=name,
            why="One ONNX file holds at most 2 GiB.",
            try_next="Leave out the fp32 reference, or take a smaller model.",
        )


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a path where something is that may not be replaced.

    Raises:
        UsageError: Something is there and `overwrite` is False, or it is no bundle (EV411).
    """
    if not os.path.lexists(target):
        return
    try_next = "Choose another --output, or --overwrite to replace a bundle."
    why = "It is there already."
    if overwrite:
        why = _why_not_replaceable(target)
        try_next = "Choose another --output; EdgeViT replaces nothing but its own bundles."
    if why:
        raise UsageError(
            "EV411", "Can't write the bundle there.", where=str(target), why=why, try_next=try_next
        )


def _why_not_replaceable(target: Path) -> str:
    """Return why a path must not be replaced, or an empty string if it may be."""
    if target.is_symlink() or not target.is_dir():
        return "It is not a folder."
    try:
        found = {entry.name for entry in os.scandir(target)}
    except OSError as error:
        return str(error)
    foreign = sorted(found - BUNDLE_FILES)
    if foreign:
        return f"It holds files that are not part of a bundle, such as {foreign[0]!r}."
    return "" if MANIFEST in found or not found else f"It is not a bundle: it has no {MANIFEST}."


@contextmanager
def _parents(parent: Path) -> Iterator[None]:
    """Make missing parent folders; take them away again if the work inside fails."""
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a folder can't be opened to be flushed
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(target: Path, error: OSError) -> EnvironmentError_:
    return EnvironmentError_(
        "EV412",
        "The bundle can't be written.",
        where=str(error.filename or target),
        why=error.strerror or str(error),
        try_next="Free some space or choose another --output; nothing was left behind.",
    )
