"""Writes a bundle of a quantized model: graphs, packed tensors, golden images, manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bundle.golden import golden_bytes
from edgevit.bundle.kernels import bytes_from_tables
from edgevit.bundle.manifest import (
    GOLDEN,
    GRAPH,
    KERNELS,
    RECIPE,
    REFERENCE_GRAPH,
    REFERENCE_WEIGHTS,
    SCHEMA_VERSION,
    VARIANT_GRAPHS,
    VARIANT_WEIGHTS,
    WEIGHTS,
)
from edgevit.bundle.new_folder import NewBundle, new_bundle
from edgevit.bundle.opening import check_skeleton, open_bundle
from edgevit.bundle.outputs import is_classifier
from edgevit.bundle.tensors import MAX_MODEL_BYTES, TensorEntry, encode, parse_entries
from edgevit.bundle.variants import TensorStore, VariantModel, golden_key
from edgevit.errors import UnsupportedError, UsageError
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
    kernel_tables: Sequence[Mapping[str, Any]] = (),
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
            variant ``logits_simulated_<variant>``. Of a model with named outputs
            ``simulated/<output>``, ``fp32/<output>`` and ``simulated_<variant>/<output>``.
        manifest: All keys but schema_version, tensors, reference_tensors and files, which are
            made here; edgevit_version and created are filled in where missing.
        recipe_toml: The recipe as TOML.
        variants: Further forms of the model by name; tensors of equal content are stored once.
        kernel_tables: Kernels of engines that were compiled of it, each in the form of
            `edgevit.bundle.kernels`.
        overwrite: Replace an existing bundle; a folder that is none is never replaced.

    Raises:
        UsageError: The folder exists (EV411) or a value can't be stored (EV413, EV415, EV431 to
            EV434).
        UnsupportedError: A model is larger than protobuf allows, 2 GiB (EV414).
        EnvironmentError_: The disk is full or not writable (EV412).
        BundleError: It would not open again, see `edgevit.bundle.open_bundle`.
    """
    target = Path(os.path.abspath(path))
    golden_npz, kernels = golden_bytes(golden), bytes_from_tables(kernel_tables)
    with new_bundle(target, overwrite) as new:
        models = _Models(new)
        complete = _manifest_head(manifest)
        complete["tensors"] = models.add_model(
            (GRAPH, WEIGHTS), graph_onnx, tensors, packed_bits, compress=True
        )
        complete["reference_tensors"] = []
        if reference is not None:
            names = (REFERENCE_GRAPH, REFERENCE_WEIGHTS)
            entries = models.add_model(names, *reference, {}, compress=False)
            complete["reference_tensors"] = entries
        if variants:
            store = TensorStore()
            store.note_main(tensors, packed_bits)
            named = not is_classifier(manifest["model"])
            complete.update(models.add_variants(store, variants, named=named))
        new.add(GOLDEN, golden_npz)
        new.add(RECIPE, recipe_toml.encode())
        if kernel_tables:
            new.add(KERNELS, kernels)
        new.finish(complete)
        open_bundle(new.folder).golden()  # what could not be opened again is not left behind


class _Models:
    """Writes models into a new bundle.

    Args:
        new: The bundle.
    """

    def __init__(self, new: NewBundle) -> None:
        self.new = new

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
        self.new.add(graph_name, skeleton)
        return table

    def add_variants(
        self, store: TensorStore, variants: Mapping[str, VariantModel], *, named: bool
    ) -> dict[str, Any]:
        """Write the graphs and further tensors of all variants; return their manifest keys.

        Args:
            named: The model has named outputs, see `golden_key`.
        """
        table: dict[str, Any] = {}
        for name, model in variants.items():
            _check_size(VARIANT_GRAPHS[name], model.onnx, model.tensors)
            table[name] = {
                "graph": VARIANT_GRAPHS[name],
                "golden": golden_key(name, named=named),
                "tensors": store.add(name, model),
                "layers": model.layers,
            }
            check_skeleton(model.onnx, model.tensors, VARIANT_GRAPHS[name])
            self.new.add(VARIANT_GRAPHS[name], model.onnx)
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

        self.new.add_stream(file_name, encoded())
        table = [entry.to_dict() for entry in entries]
        parse_entries(table, self.new.records[file_name]["size_bytes"], file_name)
        return table


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
