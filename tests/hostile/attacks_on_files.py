"""Attacks through the manifest, the tensor files and the golden images."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sealing
from sealing import change_graph, change_manifest, manifest_of, store_compressed, zeros_compressed

Attack = Callable[[Path], None]


def _engine(**values: Any) -> Attack:
    return lambda folder: change_manifest(folder, lambda m: m["engine"].update(values))


def _setting(key: str, value: Any) -> Attack:
    return _engine(session_config={key: value})


def _statistics(folder: Path) -> None:
    """Overwrite a start-up file with lines of a node's choosing, as once was possible."""
    _setting("session.collect_node_memory_stats_to_file", str(folder.parent / ".profile"))(folder)

    def rename(model: Any) -> None:
        model.graph.node[0].name = "x\ntouch harmed\n"

    change_graph(folder, rename)


SETTINGS: dict[str, tuple[Attack, str]] = {
    "statistics into a start-up file": (_statistics, "EV417"),
    "engine context into a file": (_setting("ep.context_file_path", "/tmp/x"), "EV417"),
    "engine context": (_setting("ep.context_enable", "1"), "EV417"),
    "profile": (_setting("session.profile_file_prefix", "/tmp/x"), "EV417"),
    "external files": (
        _setting("session.model_external_initializers_file_folder_path", "/"),
        "EV417",
    ),
    "another value": (_setting("session.x64quantprecision", "2"), "EV417"),
    "a list as a value": (_setting("session.x64quantprecision", ["1"]), "EV417"),
    "settings that are a list": (_engine(session_config=["a"]), "EV402"),
    "provider that loads a library": (_engine(provider="TensorrtExecutionProvider"), "EV417"),
    "provider that is a table": (_engine(provider={}), "EV417"),
    "engine of another name": (_engine(name="../engine"), "EV417"),
    "further key": (_engine(library="/tmp/x.so"), "EV417"),
    "no yes or no": (_engine(optimize="false"), "EV402"),
    "target": (lambda f: change_manifest(f, lambda m: m.update(target="../../x")), "EV417"),
    "target table": (
        lambda f: change_manifest(f, lambda m: m.update(target={"name": "cpu", "x": 1})),
        "EV417",
    ),
}


def _bomb(folder: Path) -> None:
    """Store 2.1 MB that decode to 2 GiB."""
    size = 2047 << 20
    data = zeros_compressed(2047)
    assert len(data) < 2_200_000
    store_compressed(folder, "bomb", [size], "uint8", data)


def _bomb_of_another_size(folder: Path) -> None:
    """Store what decodes to 1 GiB and say that it is one kilobyte."""
    store_compressed(folder, "bomb", [1 << 21], "uint8", zeros_compressed(1024))


def _named_often(folder: Path) -> None:
    """Let one tensor stand for thousands of a variant's."""
    size = 4 << 20
    store_compressed(folder, "much", [size], "uint8", zeros_compressed(4))
    graph = (folder / "graph.onnx").read_bytes()
    (folder / "fp16.onnx").write_bytes(graph)
    (folder / "variants.bin").write_bytes(b"")

    def change(manifest: dict[str, Any]) -> None:
        names = {entry["name"]: entry["name"] for entry in manifest["tensors"]}
        names.update({f"copy{number}": "much" for number in range(400)})
        manifest["variants"] = {
            "fp16": {
                "graph": "fp16.onnx",
                "golden": "logits_simulated_fp16",
                "tensors": names,
                "layers": manifest["layers"],
            }
        }
        manifest["variant_tensors"] = []
        for name in ("fp16.onnx", "variants.bin"):
            manifest["files"][name] = {"sha256": "0" * 64, "size_bytes": 0}

    change_manifest(folder, change)


def _tensor(**values: Any) -> Attack:
    return lambda folder: change_manifest(folder, lambda m: m["tensors"][0].update(values))


TENSORS: dict[str, tuple[Attack, str]] = {
    "2.1 MB that decode to 2 GiB": (_bomb, "EV420"),
    "1 GiB behind two megabytes": (_bomb_of_another_size, "EV408"),
    "one tensor under 400 names": (_named_often, "EV420"),
    "line break in a name": (_tensor(name="a\nb"), "EV407"),
    "name that is no text": (_tensor(name=["a"]), "EV407"),
    "encoding that is a list": (_tensor(encoding=[]), "EV407"),
    "encoding that is a table": (_tensor(encoding={}), "EV407"),
    "type that is a table": (_tensor(dtype={}), "EV407"),
    "shape of 2^62": (_tensor(shape=[1 << 31, 1 << 31]), "EV407"),
    "shape of nothing": (_tensor(shape=[0, 192]), "EV407"),
    "100,000 tensors": (
        lambda f: change_manifest(f, lambda m: m.update(tensors=[0] * 100_000)),
        "EV407",
    ),
}


def _archive(compression: int, **arrays: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


_IMAGES = np.zeros((1, 8, 8, 3), np.uint8)
_LOGITS = np.zeros((1, 7), np.float32)
_GOLDEN = {"images": _npy(_IMAGES), "logits_simulated": _npy(_LOGITS)}


def _golden(data: bytes) -> Attack:
    def attack(folder: Path) -> None:
        (folder / "golden.npz").write_bytes(data)
        sealing.seal(folder, manifest_of(folder))

    return attack


def _growing() -> bytes:
    """Return an archive of 64 kB that would be 64 MB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:  # noqa: SIM117
        with archive.open("images.npy", "w", force_zip64=True) as member:
            for _ in range(1 << 6):
                member.write(bytes(1 << 20))
    return stream.getvalue()


def _of_many_members() -> bytes:
    """Return an archive whose list names the same member 3,000 times."""
    whole = _archive(zipfile.ZIP_STORED, images=b"")
    start = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    entries = whole[start:end] * 3000
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 3000, 3000, len(entries), start, 0)
    return whole[:start] + entries + tail


def _damaged(compression: int) -> bytes:
    data = bytearray(_archive(compression, **_GOLDEN))
    middle = data.index(b"PK\x03\x04") + 60
    data[middle : middle + 20] = b"\xff" * 20
    return bytes(data)


def _encrypted() -> bytes:
    data = bytearray(_archive(zipfile.ZIP_STORED, **_GOLDEN))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = data.index(mark)
        data[position + offset] |= 1
    return bytes(data)


def _header(text: str) -> bytes:
    head = text.encode().ljust(118) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head
    return _archive(zipfile.ZIP_STORED, images=content, logits_simulated=_npy(_LOGITS))


GOLDEN: dict[str, tuple[Attack, str]] = {
    "LZMA": (_golden(_archive(zipfile.ZIP_LZMA, **_GOLDEN)), "EV410"),
    "damaged LZMA": (_golden(_damaged(zipfile.ZIP_LZMA)), "EV410"),
    "bzip2": (_golden(_archive(zipfile.ZIP_BZIP2, **_GOLDEN)), "EV410"),
    "damaged deflate": (_golden(_damaged(zipfile.ZIP_DEFLATED)), "EV410"),
    "3,000 members": (_golden(_of_many_members()), "EV410"),
    "encrypted": (_golden(_encrypted()), "EV410"),
    "pickled": (
        _golden(_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }")),
        "EV410",
    ),
    "shape of terabytes": (
        _golden(
            _header(
                f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({1 << 20}, {1 << 20}), }}"
            )
        ),
        "EV410",
    ),
    "program as a header": (_golden(_header("__import__('os').system('touch harmed')")), "EV410"),
    "way out": (_golden(_archive(zipfile.ZIP_STORED, **{"../images": b""}, **_GOLDEN)), "EV410"),
    "images of 300": (
        _golden(
            _archive(
                zipfile.ZIP_DEFLATED,
                images=_npy(np.zeros((300, 8, 8, 3), np.uint8)),
                logits_simulated=_npy(np.zeros((300, 7), np.float32)),
            )
        ),
        "EV410",
    ),
    "archive that grows": (lambda folder: _golden(_growing())(folder), "EV410"),
    "nothing": (_golden(b""), "EV410"),
    "logits that are not numbers": (
        _golden(
            _archive(
                zipfile.ZIP_STORED,
                images=_npy(_IMAGES),
                logits_simulated=_npy(np.full((1, 7), np.nan, np.float32)),
            )
        ),
        "EV410",
    ),
}


def _text(text: str | bytes) -> Attack:
    data = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / "manifest.json").write_bytes(data) and None


def _value(*path: Any, value: Any) -> Attack:
    def change(manifest: Any) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return lambda folder: change_manifest(folder, change)


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


MANIFESTS: dict[str, tuple[Attack, str]] = {
    "nested 100 levels": (_value("recipe", "x", value=_deep(100)), "EV402"),
    "nested 200,000 levels": (_text("[" * 200_000), "EV402"),
    "tables nested 200,000 levels": (_text('{"a":' * 200_000), "EV402"),
    "8 MB of lists": (_text("[" + "[]," * (5 << 19) + "[]]"), "EV402"),
    "8 MB of tables": (_text("[" + "{}," * (5 << 19) + "{}]"), "EV402"),
    "number of 10 MB": (_text('{"schema_version": ' + "9" * (10 << 20) + "}"), "EV402"),
    "fraction of 10 MB": (_text('{"schema_version": 1.' + "9" * (10 << 20) + "}"), "EV402"),
    "text of 10 MB": (_value("model", "name", value="x" * (10 << 20)), "EV402"),
    "half a character": (_text(json.dumps({"schema_version": 1, "x": "\ud800"})), "EV402"),
    "half a character in a name": (_value("model", "name", value="\ud800"), "EV402"),
    "not a number": (_text('{"schema_version": 1, "x": NaN}'), "EV402"),
    "mean that is text": (_value("preprocessing", "mean", value=["a", "b", "c"]), "EV402"),
    "mean of huge numbers": (_value("preprocessing", "mean", value=[1e308] * 3), "EV402"),
    "std of zero": (_value("preprocessing", "std", value=[0, 0, 0]), "EV402"),
    "size to resize to": (_value("preprocessing", "resize_size", value=10**9), "EV402"),
    "interpolation": (_value("preprocessing", "interpolation", value=["bicubic"]), "EV402"),
    "further preprocessing": (_value("preprocessing", "x", value=1), "EV402"),
    "layer of a table": (_value("layers", 0, "kernel", value={}), "EV402"),
    "reason that is a list": (_value("layers", 0, "reason", value=[]), "EV402"),
    "300,000 layers": (_value("layers", value=[{"name": ""}] * 300_000), "EV402"),
    "layer with a text of 4,000 characters": (
        _value("layers", 0, "kernel", value="x" * 4000),
        "EV402",
    ),
    "100,000 warnings": (_value("warnings", value=[""] * 100_000), "EV402"),
    "layer without a name": (_value("layers", 0, value={}), "EV402"),
    "mean width": (_value("bits", "weight_mean", value="6"), "EV402"),
    "mean width of the quantized": (_value("bits", "weight_mean_quantized", value="6"), "EV402"),
    "no images": (_value("calibration", value=[]), "EV402"),
    "classes": (_value("model", "num_classes", value=1 << 40), "EV402"),
    "warnings": (_value("warnings", 0, value={}), "EV402"),
    "variants": (_value("variants", value=[1]), "EV402"),
    "variant of another file": (_value("variants", value={"fp16": {"graph": "../x"}}), "EV402"),
    "file elsewhere": (
        _value("files", "../../etc/passwd", value={"sha256": "0" * 64, "size_bytes": 1}),
        "EV406",
    ),
}
