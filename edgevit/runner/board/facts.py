"""Prints what a board is and has, as JSON: model, JetPack, engines, memory, disk, power mode.

Runs alone on Python 3.8 with the standard library (``ssh board python3 - < board_facts.py``), so it
imports nothing of EdgeViT. What can't be read is null, never guessed. Given a folder as root it
reads a recorded tree instead: the same files below it, and the output of a command in
``commands/<command with spaces>``. Where a fact is found: NVIDIA's Jetson Linux Developer Guide
(nvpmodel, /etc/nv_tegra_release, device tree), dpkg(1), proc(5).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, Iterable, Sequence

SCHEMA_VERSION = 1
_COMMAND_SECONDS, _IMPORT_SECONDS = 10, 60
_COMPUTE_CAPABILITY = {"tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}
# Part numbers of modules, from NVIDIA's table of them in the Developer Guide's quick start.
_TARGETS = (
    (r"p3767-000[01]", "jetson-orin-nx"),
    (r"p3767-000[345]", "jetson-orin-nano"),
    (r"p3701-\d+", "jetson-agx-orin"),
    (r"p3834-\d+", "jetson-thor"),
)
_DESKTOP_TARGETS = {
    "8.0": "tensorrt-ampere",
    "8.6": "tensorrt-ampere",
    "8.9": "tensorrt-ada",
    "9.0": "tensorrt-hopper",
    "10.0": "tensorrt-blackwell",
    "10.3": "tensorrt-blackwell",
    "12.0": "tensorrt-blackwell",
    "12.1": "tensorrt-blackwell",
}
# JetPack of a Jetson Linux release, from NVIDIA's JetPack archive; first match wins.
_JETPACKS = (
    ("39.2", "7.2"),
    ("38.4", "7.1"),
    ("38.2", "7.0"),
    ("36.5", "6.2.2"),
    ("36.4.7", "6.2.1"),
    ("36.4.4", "6.2.1"),
    ("36.4.3", "6.2"),
    ("36.4", "6.1"),
    ("36.3", "6.0"),
    ("35", "5.1"),
    ("32", "4.6"),
)
# What is imported -> names of the distributions that bring it.
_MODULES = {
    "numpy": ("numpy",),
    "tensorrt": ("tensorrt", "tensorrt-cu12-bindings", "tensorrt-cu13-bindings"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-jetson"),
    "cuda": ("cuda-bindings", "cuda-python"),
    "pycuda": ("pycuda",),
    "torch": ("torch",),
}
# Those of them whose import is tried, as is that of every module asked for.
_IMPORTED = ("numpy", "onnxruntime", "tensorrt")
# A package can be installed and broken, or a folder of that name can be no package.
_IMPORT = """
import sys
import {0} as module
version = getattr(module, "__version__", None)
if not isinstance(version, str):
    sys.exit("{0} in %s has no __version__: another thing of that name" % list(module.__path__))
if "{0}" == "onnxruntime" and "CPUExecutionProvider" not in module.get_available_providers():
    sys.exit("it has no CPUExecutionProvider, but %s" % module.get_available_providers())
print(version)
"""


def board_facts(
    root: str | os.PathLike[str] = "/", disk: str = "~", modules: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the facts of this board, or of a recorded tree.

    Args:
        root: ``/``, or the folder of a recorded tree.
        disk: Folder whose free space counts; nearest parent that exists.
        modules: Python modules to look for besides those that are always looked for.

    Returns:
        JSON-able; sizes in bytes, clocks in Hz, null for what could not be found out.
    """
    tree = Path(root)
    jetson, packages = _jetson(tree), _packages(tree)
    graphics = _graphics(tree, jetson["soc"])
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "jetson" if (jetson["soc"] or "").startswith("tegra") else "computer",
        "model": jetson["model"],
        "module": jetson["module"],
        "soc": jetson["soc"],
        "target": _target(jetson["module"], graphics),
        "l4t": jetson["l4t"],
        "jetpack": _jetpack(jetson["l4t"], packages),
        "system": _system(tree),
        "python": _python(tree, modules),
        "tensorrt": _tensorrt(packages),
        "cuda": _cuda(tree, packages),
        "gpu": graphics,
        "memory_bytes": _memory(tree),
        "disk_bytes": _disk(tree, disk),
        "power_mode": power_mode(tree),
        "rails": _rails(tree),
    }


def _jetson(root: Path) -> dict[str, str | None]:
    release = re.search(
        r"# R(\d+) \(release\), REVISION: ([\d.]+)", _text(root, "etc/nv_tegra_release") or ""
    )
    compatible = (_text(root, "proc/device-tree/compatible") or "").split("\0")
    soc = [name.split(",")[1] for name in compatible if re.match(r"nvidia,tegra\d+$", name)]
    modules = [name.split(",")[1] for name in compatible if re.match(r"nvidia,p\d+-\d+$", name)]
    return {
        "model": (_text(root, "proc/device-tree/model") or "").strip("\0 \n") or None,
        "module": modules[0] if modules else None,
        "soc": soc[0] if soc else None,
        "l4t": f"{release.group(1)}.{release.group(2)}" if release else None,
    }


def _target(module: str | None, graphics: dict[str, Any]) -> str | None:
    for pattern, target in _TARGETS:
        if module and re.match(pattern, module):
            return target
    return None if module else _DESKTOP_TARGETS.get(graphics["compute_capability"] or "")


def _jetpack(l4t: str | None, packages: dict[str, str]) -> str | None:
    if "nvidia-jetpack" in packages:
        return packages["nvidia-jetpack"].split("+")[0]
    for release, jetpack in _JETPACKS:
        if l4t is not None and f"{l4t}.".startswith(f"{release}."):
            return jetpack
    return None


def _system(root: Path) -> dict[str, Any]:
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', _text(root, "etc/os-release") or "", re.M)
    return {
        "name": release.group(1) if release else None,
        "kernel": (_text(root, "proc/sys/kernel/osrelease") or "").strip() or None,
        "machine": platform.machine(),
        "desktop": _boots_desktop(root),
    }


def _boots_desktop(root: Path) -> bool:
    """Return whether a desktop starts at boot and takes memory from the GPU's builder."""
    etc = root / "etc/systemd/system"
    chosen = etc / "default.target"
    target = os.readlink(str(chosen)) if chosen.is_symlink() else "graphical.target"
    return target.endswith("graphical.target") and (etc / "display-manager.service").is_symlink()


def _python(root: Path, modules: Sequence[str]) -> dict[str, Any]:
    """Return the interpreter that runs this and the versions of what it could import."""
    folders = [str(path) for path in sorted(root.glob("usr/*lib/python3*/dist-packages"))]
    folders += [str(path) for path in sorted(root.glob("usr/local/lib/python3*/dist-packages"))]
    found: dict[str, str] = {}
    for distribution in metadata.distributions(path=sys.path if _is_real(root) else folders):
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        found.setdefault(name, distribution.version)  # the first on the path is imported
    others = {name: (name.replace("_", "-"),) for name in modules if name not in _MODULES}
    versions = {
        module: next((found[name] for name in names if name in found), None)
        for module, names in {**_MODULES, **others}.items()
    }
    tried = dict.fromkeys((*_IMPORTED, *modules))
    problems = _try_imports(versions, tried) if _is_real(root) else {}
    about = {"version": platform.python_version(), "executable": sys.executable}
    return {**about, **versions, "problems": problems}


def _try_imports(versions: dict[str, str | None], names: Iterable[str]) -> dict[str, str]:
    """Import modules; correct their versions, and return what is wrong with those that fail."""
    problems = {}
    for name in names:
        version, problem = _import_apart(name)
        missing = problem is not None and problem.endswith(f"No module named '{name}'")
        versions[name] = None if missing else version or versions[name]
        if problem is not None and not missing:
            problems[name] = problem
    return problems


def _import_apart(module: str) -> tuple[str | None, str | None]:
    """Import a module in a process of its own, as it may crash; return its version or what fails.

    What it would keep in the user's cache goes into a folder that is removed.
    """
    with tempfile.TemporaryDirectory() as cache:
        try:
            done = subprocess.run(
                [sys.executable, "-B", "-c", _IMPORT.format(module)],
                capture_output=True,
                env={**os.environ, "XDG_CACHE_HOME": cache},
                timeout=_IMPORT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return None, f"importing it takes more than {_IMPORT_SECONDS} seconds"
    said = (done.stderr if done.returncode else done.stdout).decode("utf-8", "replace").strip()
    if done.returncode == 0 and said:
        return said.splitlines()[-1][:500], None
    how = f"with status {done.returncode}" if done.returncode else "without a word"
    return None, (said.splitlines() or [f"its import ends {how}"])[-1][:500]


def _tensorrt(packages: dict[str, str]) -> dict[str, str | None]:
    version = next((v for n, v in packages.items() if re.match(r"libnvinfer\d+$", n)), None)
    return {"version": version.split("-")[0] if version else None}


def _cuda(root: Path, packages: dict[str, str]) -> str | None:
    try:
        described = json.loads(_text(root, "usr/local/cuda/version.json") or "{}")
        return str(described["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        names = [name for name in packages if re.match(r"cuda-cudart-\d+-\d+$", name)]
        return ".".join(names[-1].split("-")[2:]) if names else None


def _graphics(root: Path, soc: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": None, "compute_capability": None, "driver": None}
    facts.update(memory_bytes=None, clock_hz=None, clocks_locked=None)
    query = "nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total"
    listed = (_command(root, f"{query} --format=csv,noheader,nounits") or "").splitlines()
    cells = [cell.strip() for cell in listed[0].split(",")] if listed else []
    if len(cells) == 4:
        known = re.match(r"\d+\.\d+$", cells[1])  # "[N/A]" where the driver does not know
        facts.update(name=cells[0], driver=cells[2])
        facts["compute_capability"] = cells[1] if known else None
        facts["memory_bytes"] = int(cells[3]) << 20 if cells[3].isdigit() else None
    if soc in _COMPUTE_CAPABILITY:
        facts["compute_capability"] = _COMPUTE_CAPABILITY[soc]
        facts["clock_hz"] = clocks = _devfreq(root)
        if clocks and clocks["min"] and clocks["max"]:
            facts["clocks_locked"] = clocks["min"] == clocks["max"]
    return facts


def _devfreq(root: Path) -> dict[str, int | None] | None:
    """Return min, max and current clock of the GPU in Hz: ``17000000.gpu``, ``gpu-gpc-0``."""
    for folder in sorted(root.glob("sys/class/devfreq/*")):
        if re.search(r"\.gpu$|^gpu-gpc|\.ga10b$|\.gv11b$", folder.name):
            found = {key: _text(folder, f"{key}_freq") for key in ("min", "max", "cur")}
            return {key: _number(text) for key, text in found.items()}
    return None


def _memory(root: Path) -> dict[str, int | None]:
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", _text(root, "proc/meminfo") or "", re.M)
    sizes = {name: int(kilobytes) * 1024 for name, kilobytes in lines}
    names = {"total": "MemTotal", "available": "MemAvailable", "swap_free": "SwapFree"}
    return {key: sizes.get(name) for key, name in names.items()}


def _disk(root: Path, folder: str) -> dict[str, Any]:
    path = Path(folder).expanduser().absolute()
    place = path if _is_real(root) else root.absolute() / path.relative_to(path.anchor)
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(str(place))
    return {"path": str(path), "total": usage.total, "free": usage.free}


def power_mode(root: str | os.PathLike[str] = "/") -> dict[str, Any] | None:
    """Return id and name of nvpmodel's mode and all modes (id -> name); None without nvpmodel."""
    tree = Path(root)
    pattern = r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>"
    modes = dict(re.findall(pattern, _text(tree, "etc/nvpmodel.conf") or "", re.M))
    status = re.search(r"pmode:(\d+)", _text(tree, "var/lib/nvpmodel/status") or "")
    if status:
        number = str(int(status.group(1)))
        return {"id": number, "name": modes.get(number), "modes": modes}
    asked = re.search(r"NV Power Mode: (\S+)\s+(\d+)", _command(tree, "nvpmodel -q") or "")
    if asked:
        return {"id": asked.group(2), "name": asked.group(1), "modes": modes}
    return {"id": None, "name": None, "modes": modes} if modes else None


def _rails(root: Path) -> list[str]:
    """Return the labels of the power monitors' channels; NC is one that is not connected."""
    found = []
    for name in sorted(root.glob("sys/class/hwmon/hwmon*/name")):
        if (_text(name.parent, "name") or "").startswith("ina"):
            labels = [*sorted(name.parent.glob("in[1-3]_label")), name.parent / "label"]
            found += [_text(label.parent, label.name) for label in labels if label.is_file()]
    return [label.strip() for label in found if label and label.strip() != "NC"]


def _packages(root: Path) -> dict[str, str]:
    """Return name -> version of the installed Debian packages of NVIDIA's stack."""
    found = {}
    for entry in (_text(root, "var/lib/dpkg/status") or "").split("\n\n"):
        name = re.match(r"Package: ((?:nvidia-jetpack|nvidia-l4t-core|libnvinfer|cuda-cudart)\S*)$",
                        entry, re.M)  # fmt: skip
        version = re.search(r"^Version: (\S+)$", entry, re.M)
        if name and version and "\nStatus: install ok installed" in entry:
            found[name.group(1)] = version.group(1)
    return found


def _is_real(root: Path) -> bool:
    return str(root) == "/"


def _text(root: Path, path: str) -> str | None:
    try:
        return (root / path).read_bytes().decode("utf-8", "replace")
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdigit() else None


def _command(root: Path, line: str) -> str | None:
    if not _is_real(root):
        return _text(root, f"commands/{line}")
    try:
        done = subprocess.run(
            line.split(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_COMMAND_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def main(arguments: list[str] | None = None) -> None:
    """Print the facts as one line of JSON."""
    parser = argparse.ArgumentParser(description="Print what this board is and has, as JSON.")
    parser.add_argument("--root", default="/", help="a recorded tree instead of this board")
    parser.add_argument("--disk", default="~", help="folder whose free space counts")
    parser.add_argument("--module", action="append", default=[], help="look for this one too")
    options = parser.parse_args(arguments)
    if not all(name.isidentifier() for name in options.module):
        parser.error("--module takes a name that Python can import")
    print(json.dumps(board_facts(options.root, options.disk, options.module)))


if __name__ == "__main__":
    main()
