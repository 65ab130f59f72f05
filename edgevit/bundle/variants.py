"""Further variants of a bundle's model: graphs of their own over tensors that are stored once.

A device with several fast precisions gets the model in each of them and measures. Variants share
most of their tensors with the main graph or with each other; a variant's table says under which
name each of its initializers is stored, in the main tensor file or in that of the variants.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Mapping

from edgevit.bundle.graph import is_plain
from edgevit.bundle.limits import check_expansion
from edgevit.bundle.manifest import MAIN_VARIANT, VARIANT_GRAPHS
from edgevit.bundle.manifest_schema import bad_manifest, check_layers
from edgevit.bundle.outputs import is_classifier
from edgevit.bundle.tensors import MAX_MODEL_BYTES
from edgevit.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.bundle.tensors import TensorEntry

Arrays = Mapping[str, "npt.NDArray[Any]"]


@dataclass(frozen=True)
class VariantModel:
    """One variant to be written.

    Args:
        onnx: Serialized ModelProto without the tensors.
        tensors: Its large initializers by name.
        packed_bits: Width of the codes of 8-bit integer tensors.
        layers: One row per product, as in the manifest's own ``layers``.
    """

    onnx: bytes
    tensors: Arrays
    packed_bits: Mapping[str, int]
    layers: list[dict[str, Any]]


@dataclass
class TensorStore:
    """Gathers the tensors of all variants, each content once.

    Args:
        tensors: What the variants' file has to hold, by the name it is stored under.
        packed_bits: Width of the codes of 8-bit integer tensors, by that name.
    """

    tensors: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    packed_bits: dict[str, int] = field(default_factory=dict)
    _known: dict[bytes, str] = field(default_factory=dict)

    def note_main(self, tensors: Arrays, packed_bits: Mapping[str, int]) -> None:
        """Note what the main file holds already."""
        for name, array in tensors.items():
            self._known.setdefault(_digest(array, packed_bits.get(name)), name)

    def add(self, variant: str, model: VariantModel) -> dict[str, str]:
        """Add a variant's tensors; return initializer -> the name it is stored under."""
        table = {}
        for name, array in model.tensors.items():
            bits = model.packed_bits.get(name)
            stored = self._known.setdefault(_digest(array, bits), f"{variant}/{name}")
            if stored == f"{variant}/{name}":
                self.tensors[stored] = array
                if bits is not None:
                    self.packed_bits[stored] = bits
            table[name] = stored
        return table


def _digest(array: npt.NDArray[Any], bits: int | None) -> bytes:
    digest = hashlib.sha256(f"{array.dtype}{array.shape}{bits}".encode())
    digest.update(array.tobytes())
    return digest.digest()


def check_variants(
    manifest: Mapping[str, Any],
    tensors: tuple[TensorEntry, ...],
    variant_tensors: tuple[TensorEntry, ...],
) -> None:
    """Refuse a manifest whose variants are malformed or name tensors that are not there.

    Raises:
        BundleError: EV402.
    """
    stored = [entry.name for entry in (*tensors, *variant_tensors)]
    if len(set(stored)) != len(stored):
        raise bad_manifest("variant_tensors repeats a name of tensors")
    for name, variant in _table(manifest).items():
        where = f"variants.{name[:80]}"
        if name not in VARIANT_GRAPHS or not isinstance(variant, dict):
            raise bad_manifest(f"{where} is unknown or not a table")
        if variant.get("graph") != VARIANT_GRAPHS[name]:
            raise bad_manifest(f"{where}.graph is not {VARIANT_GRAPHS[name]}")
        if VARIANT_GRAPHS[name] not in manifest["files"]:
            raise bad_manifest(f"files lacks {VARIANT_GRAPHS[name]}")
        check_layers(variant.get("layers"), f"{where}.layers")
        key = golden_key(name, named=not is_classifier(manifest["model"]))
        if variant.get("golden") != key:
            raise bad_manifest(f"{where}.golden is not {key}")
        _check_tensors(variant.get("tensors"), (*tensors, *variant_tensors), f"{where}.tensors")


def _check_tensors(names: Any, stored: tuple[TensorEntry, ...], where: str) -> None:
    """Refuse a table of initializers that are not stored, or that would fill the memory."""
    sizes = {entry.name: entry.decoded_bytes for entry in stored}
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and name in sizes for name in names.values()
    ):
        raise bad_manifest(f"{where} names a tensor that is not stored")
    if not all(map(is_plain, names)):
        raise bad_manifest(f"{where} has a name that no tensor has")
    decoded = sum(sizes[name] for name in names.values())  # each may be named often
    if decoded > MAX_MODEL_BYTES:
        raise bad_manifest(f"{where} makes a model of more than {MAX_MODEL_BYTES} bytes")
    check_expansion(decoded, sum(entry.size_bytes for entry in stored), f"manifest.json, {where}")


def _table(manifest: Mapping[str, Any]) -> dict[str, Any]:
    table = manifest.get("variants", {})
    if not isinstance(table, dict):
        raise bad_manifest("variants is not a table")
    return table


def golden_key(variant: str, *, named: bool = False) -> str:
    """Return the name of the golden logits of a variant; "int8" is the bundle's main graph.

    Args:
        named: Of a model with named outputs: what stands in front of "/" and an output's name.
    """
    stem = "simulated" if named else "logits_simulated"
    return stem if variant == MAIN_VARIANT else f"{stem}_{variant}"


def variant_of(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a variant's part of the manifest.

    Raises:
        UsageError: The bundle has no such variant (EV416).
    """
    found = manifest.get("variants", {}).get(name)
    if found is None:
        known = ", ".join((MAIN_VARIANT, *manifest.get("variants", {})))
        raise UsageError(
            "EV416",
            f"The bundle has no variant {name[:80]!r}.",
            where="variant",
            why=f"It has {known}.",
            try_next="Quantize for a target that has it; `edgevit inspect` lists them.",
        )
    return dict(found)
