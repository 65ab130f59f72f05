"""Changes a bundle and makes every hash in it fit again, as whoever wants to do harm would."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Manifest = dict[str, Any]


def manifest_of(folder: Path) -> Manifest:
    """Return a bundle's manifest, unchecked."""
    content: Manifest = json.loads((folder / "manifest.json").read_text())
    return content


def seal(folder: Path, manifest: Manifest) -> None:
    """Write a manifest with records of its files and a seal that fit what is there."""
    files = manifest.get("files")
    for name, record in files.items() if isinstance(files, dict) else ():
        if isinstance(record, dict) and (folder / name).is_file() and "/" not in name:
            data = (folder / name).read_bytes()
            record.update(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Any) -> None:
    """Write a manifest with a seal that fits, whatever it says."""
    if isinstance(manifest, dict):
        manifest.pop("manifest_sha256", None)
        canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
        manifest["manifest_sha256"] = hashlib.sha256(canonical).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change_manifest(folder: Path, change: Callable[[Manifest], Any]) -> None:
    """Change a bundle's manifest and seal it."""
    manifest = manifest_of(folder)
    change(manifest)
    seal(folder, manifest)


def change_graph(
    folder: Path, change: Callable[[onnx.ModelProto], Any], name: str = "graph.onnx"
) -> None:
    """Change a graph and seal the bundle."""
    model = onnx.load(folder / name, load_external_data=False)
    change(model)
    (folder / name).write_bytes(model.SerializeToString())
    seal(folder, manifest_of(folder))


def put_constant(model: onnx.ModelProto, name: str, array: Any) -> str:
    """Add a small constant to a graph and return its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def put_node(
    model: onnx.ModelProto, op: str, inputs: list[str], output: str, **attributes: Any
) -> str:
    """Put a node in front of all others and return the name of its output."""
    model.graph.node.insert(0, onnx.helper.make_node(op, inputs, [output], **attributes))
    return output


def put_before_logits(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Put nodes that read "before" in front of the one that writes the logits.

    The last of them writes "after", which the logits then are.
    """
    last = model.graph.node[-1]
    last.output[0] = "before"
    model.graph.node.extend(nodes)
    model.graph.node.append(onnx.helper.make_node("Identity", ["after"], ["logits"]))


def store_compressed(folder: Path, name: str, shape: list[int], dtype: str, data: bytes) -> None:
    """Put compressed data at the end of the tensor file and say what it would decode to."""
    manifest = manifest_of(folder)
    before = (folder / "weights.bin").read_bytes()
    (folder / "weights.bin").write_bytes(before + data)
    manifest["tensors"].append(
        {
            "name": name,
            "shape": shape,
            "dtype": dtype,
            "encoding": "zlib",
            "bits": np.dtype(dtype).itemsize * 8,
            "signed": not dtype.startswith("u"),
            "offset": len(before),
            "size_bytes": len(data),
        }
    )
    seal(folder, manifest)


def zeros_compressed(blocks: int) -> bytes:
    """Return the zlib stream of so many MiB of zeros, without making them all."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    checksum = ((blocks << 20) % 65521 << 16 | 1).to_bytes(4, "big")  # Adler-32 of zeros
    return b"\x78\xda" + block * blocks + b"\x03\x00" + checksum
