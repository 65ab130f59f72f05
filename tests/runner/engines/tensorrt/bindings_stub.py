"""NVIDIA's real Python bindings of three TensorRT versions, on a stub instead of libnvinfer.

Run as a script it prepares a folder: wheels from the package index (the bindings only, about 1 MB
each, no GPU libraries), unpacked, with the stub of `stub.cpp` compiled for each version.

    python tests/runner/engines/tensorrt/bindings_stub.py FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
WHEELS = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.13": "tensorrt-cu12-bindings==10.13.3.9",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
RTX = "rtx-1.7"
"""TensorRT for RTX: the bindings that are installed, if any."""
_LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
_RTX_LIBRARIES = ("tensorrt_rtx", "tensorrt_onnxparser_rtx")
_MODULE = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"


class Unavailable(Exception):
    """The bindings can't be prepared here; the text says why."""


def prepare(folder: Path) -> None:
    """Fill `folder` with one sub-folder per version; what is there already is kept."""
    for version, requirement in WHEELS.items():
        home = folder / version
        if not (home / "tensorrt_bindings").is_dir():
            _download(requirement, home)
        (home / "tensorrt.py").write_text(_MODULE)
    library, slots = _stub(folder)
    for version in WHEELS:
        names = [f"lib{name}.so.{version.split('.')[0]}" for name in _LIBRARIES]
        _name_libraries(folder / version, library, names, slots[version])


def prepare_rtx(folder: Path) -> None:
    """Fill a sub-folder of `folder` for TensorRT for RTX, whose own libraries are kept out."""
    libraries = folder / RTX / "tensorrt_rtx_libs"  # the package that would load them
    libraries.mkdir(parents=True, exist_ok=True)
    (libraries / "__init__.py").write_text("")
    library, slots = _stub(folder)
    names = [f"lib{name}.so.1" for name in _RTX_LIBRARIES]
    _name_libraries(folder / RTX, library, names, slots[RTX])


def environment(folder: Path, version: str) -> dict[str, str]:
    """Return the environment in which `import tensorrt` is this version on its stub."""
    home = folder / version
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(home), str(ROOT), str(HERE)]),
        "LD_LIBRARY_PATH": str(home / "stub"),
        "STUB_SLOTS": str(home / "stub" / "slots.txt"),
        "EDGEVIT_CUDART": str(folder / "libstub.so"),
        "EDGEVIT_CUDA": "ctypes",
    }


def _download(requirement: str, home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "-q", requirement, "-d", str(home)], capture_output=True, text=True
    )
    wheels = list(home.glob("*.whl"))
    if done.returncode or not wheels:
        raise Unavailable(f"{requirement} could not be downloaded: {done.stderr.strip()[-300:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(home)


def _stub(folder: Path) -> tuple[Path, dict[str, dict[str, int]]]:
    """Return the stub library and the positions of each version."""
    slots = json.loads((HERE / "slots.json").read_text())
    return _compiled(folder, sorted({name for table in slots.values() for name in table})), slots


def _compiled(folder: Path, names: list[str]) -> Path:
    """Return the stub library, compiled once for all versions."""
    source, library = HERE / "stub.cpp", folder / "libstub.so"
    newest = max(file.stat().st_mtime for file in (source, HERE / "slots.json"))
    if library.exists() and library.stat().st_mtime > newest:
        return library
    defines = [f'-D{name}=at("{name}")' for name in names]
    command = ["g++", "-std=c++17", "-O0", "-shared", "-fPIC", "-ftemplate-depth=200"]
    try:
        done = subprocess.run(
            [*command, *defines, str(source), "-o", str(library)], capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise Unavailable("there is no g++ to compile the stub with") from error
    assert done.returncode == 0, done.stderr
    return library


def _name_libraries(home: Path, library: Path, names: list[str], slots: dict[str, int]) -> None:
    """Give the stub the names of NVIDIA's libraries, and this version's positions."""
    stub = home / "stub"
    stub.mkdir(exist_ok=True)
    for name in names:
        link = stub / name
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    lines = [f"{name} {slot}\n" for name, slot in slots.items()]
    (stub / "slots.txt").write_text("".join(lines))


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
