"""Keeps built engines and kernel timings on disk, under keys that name everything they depend on.

An engine runs only on the device, TensorRT and L4T it was built with; the key holds all of them
and the graph's hash, so that a wrong engine is never found. The folder is private to the user,
because loading an engine runs the code in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgevit.errors import EnvironmentError_
from edgevit.runner.engines.tensorrt.building import BuildSettings
from edgevit.scratch import scratch_folder

FOLDER_VARIABLE = "EDGEVIT_ENGINE_CACHE"
_TEGRA_RELEASE = Path("/etc/nv_tegra_release")
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Identity:
    """The machine an engine belongs to.

    Args:
        device: The GPU's name, such as "Orin".
        compute_capability: Such as "8.7".
        tensorrt: Such as "10.3.0".
        l4t: Jetson Linux release such as "36.4.3"; empty elsewhere.
        machine: Processor, such as "aarch64".
    """

    device: str
    compute_capability: str
    tensorrt: str
    l4t: str
    machine: str

    def to_dict(self) -> dict[str, str]:
        """Return a JSON-able dictionary."""
        return asdict(self)


def identity(
    device: str, compute_capability: str, tensorrt: str, *, release_file: Path = _TEGRA_RELEASE
) -> Identity:
    """Return the identity of this machine with this device and engine."""
    text = release_file.read_text() if release_file.is_file() else ""
    return Identity(
        device, compute_capability, tensorrt, l4t_from_release(text), platform.machine()
    )


def l4t_from_release(text: str) -> str:
    """Return "36.4.3" for the text of /etc/nv_tegra_release, "" if there is no release in it."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found.group(1)}.{found.group(2)}" if found else ""


def engine_key(onnx: bytes, settings: BuildSettings, where: Identity) -> str:
    """Return the key of an engine, 64 hexadecimal digits."""
    return digest_of(
        {
            "onnx_sha256": hashlib.sha256(onnx).hexdigest(),
            "settings": settings.to_dict(),
            "identity": where.to_dict(),
        }
    )


def timing_key(where: Identity) -> str:
    """Return the key of the kernel timings of a machine; all its builds share them."""
    return digest_of({"identity": where.to_dict()})


def digest_of(content: dict[str, Any]) -> str:
    """Return the key of what something depends on, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class EngineCache:
    """A folder of engines with a record beside each, and of kernel timings.

    Args:
        folder: Made when something is stored; without it `default_folder`.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder)

    def engine(self, key: str) -> bytes | None:
        """Return an engine, or None if there is none or its file is damaged."""
        plan, record = self.folder / f"{key}.plan", self.folder / f"{key}.json"
        try:
            data, stored = plan.read_bytes(), json.loads(record.read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(stored, dict):
            return None
        return data if stored.get("plan_sha256") == hashlib.sha256(data).hexdigest() else None

    def record(self, key: str) -> dict[str, Any]:
        """Return what was recorded with an engine, empty without one."""
        try:
            stored = json.loads((self.folder / f"{key}.json").read_text())
        except (OSError, ValueError):
            return {}
        return stored if isinstance(stored, dict) else {}

    def store_engine(self, key: str, plan: bytes, record: dict[str, Any]) -> None:
        """Store an engine and its record.

        Raises:
            EnvironmentError_: The folder can't be written (EV755).
        """
        sealed = {**record, "plan_sha256": hashlib.sha256(plan).hexdigest()}
        self._write(f"{key}.plan", plan)
        self._write(f"{key}.json", (json.dumps(sealed, indent=1) + "\n").encode())

    def forget_engine(self, key: str) -> None:
        """Remove an engine that does not load."""
        for suffix in ("json", "plan"):
            with suppress(FileNotFoundError):
                (self.folder / f"{key}.{suffix}").unlink()

    def _timings_path(self, key: str) -> Path:
        """Return where the timings of a machine are kept."""
        return self.folder / f"timing-{key[:16]}.cache"

    def timings(self, key: str) -> bytes:
        """Return kernel timings, empty if there are none."""
        path = self._timings_path(key)
        return path.read_bytes() if path.is_file() else b""

    def store_timings(self, key: str, timings: bytes) -> None:
        """Store kernel timings; nothing is stored for none.

        Raises:
            EnvironmentError_: The folder can't be written (EV755).
        """
        if timings:
            self._write(self._timings_path(key).name, timings)

    def remember_compiled(self, sha256: str) -> None:
        """Note that this machine compiled an engine, wherever it is kept.

        An engine is a program in effect; another's is run only if the user says so.

        Raises:
            EnvironmentError_: The folder can't be written (EV755).
        """
        self._write(f"compiled-{sha256}", b"")

    def has_compiled(self, sha256: str) -> bool:
        """Return whether this machine compiled the engine of this SHA-256."""
        return (self.folder / f"compiled-{sha256}").is_file()

    def kernels(self, key: str) -> bytes | None:
        """Return the kernels that were made for this card; None if there are none.

        Damaged ones are empty: no kernels are.
        """
        path = self.folder / f"kernels-{key}.cache"
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return data if digest == hashlib.sha256(data).digest() else b""

    def store_kernels(self, key: str, data: bytes) -> None:
        """Store the kernels that were made for this card.

        Raises:
            EnvironmentError_: The folder can't be written (EV755).
        """
        self._write(f"kernels-{key}.cache", hashlib.sha256(data).digest() + data)

    def forget_kernels(self, key: str) -> None:
        """Remove kernels that do not fit; where nothing can be written they stay."""
        with suppress(OSError):
            (self.folder / f"kernels-{key}.cache").unlink()

    def _write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""
        with self._scratch() as folder:
            (folder / name).write_bytes(data)
            os.replace(str(folder / name), str(self.folder / name))

    def part(self, name: str) -> Path:
        """Return a folder in it for what a library keeps itself, readable by its owner only.

        Raises:
            EnvironmentError_: It can't be made (EV755).
        """
        with self._stored():
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        return self.folder / name

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """Yield a new folder beside the engines that is gone afterwards, whatever happens.

        Raises:
            EnvironmentError_: Something can't be written there (EV755).
        """
        with self._stored(), scratch_folder(".part-", self.folder) as folder:
            yield folder

    @contextmanager
    def _stored(self) -> Iterator[None]:
        """Make the folder and let writing in it fail in plain words (EV755)."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise EnvironmentError_(
                "EV755",
                "An engine can't be stored.",
                where=str(self.folder),
                why=str(error),
                try_next=f"Free some space, or set {FOLDER_VARIABLE} to a folder with room.",
            ) from error


def default_folder() -> Path:
    """Return the folder of the variable EDGEVIT_ENGINE_CACHE, or one in the user's cache."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "edgevit" / "engines"
