"""The artefact: one folder with the graph, packed weights, provenance and hashes; numpy only."""

from __future__ import annotations

from edgevit.bundle.opening import Bundle, open_bundle
from edgevit.bundle.tensors import TensorEntry
from edgevit.bundle.variants import VariantModel
from edgevit.bundle.writing import write_bundle

__all__ = ["Bundle", "TensorEntry", "VariantModel", "open_bundle", "write_bundle"]
