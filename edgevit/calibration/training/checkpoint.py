"""Keeps the trained parts of a long calibration on disk, so that it can be interrupted.

One safetensors file per part, written elsewhere first and then renamed. Each file says which run it
belongs to (a digest of weights, images, grids and settings) and seals what it holds with a SHA-256;
a file of another run is refused instead of being mixed in, a damaged one is set aside and the part
trained again.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgevit.calibration.run import Run
from edgevit.errors import EnvironmentError_, UsageError
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.scratch import scratch_folder

_CONSTANT = "constant/"  # before the name of a constant; names of products have no slash
_UNFINISHED = ".part-"


def fingerprint(run: Run, settings: str) -> str:
    """Return a digest of everything the result depends on."""
    digest = hashlib.sha256(settings.encode())
    placement = run.placement
    digest.update(repr((placement.target, placement.options, run.seed)).encode())
    for name, value in sorted(run.graph.module.named_buffers()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    digest.update(run.images.contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class TrainingCheckpoint:
    """The files of one run.

    Args:
        folder: Where they are; made when the first one is written.
        digest: `fingerprint` of the run.
    """

    folder: Path
    digest: str

    def prepare(self) -> None:
        """Make the folder and clear what a killed run left in it, before the work starts.

        Raises:
            EnvironmentError_: It can't be made or written (EV216).
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with scratch_folder(_UNFINISHED, self.folder):
                pass
        except (OSError, ValueError) as error:
            raise _not_kept(self.folder, error) from error

    def save(
        self,
        name: str,
        quantized: QuantizedGraph,
        gemms: tuple[str, ...],
        constants: tuple[str, ...] = (),
    ) -> None:
        """Keep the layers of one part, and constants of the graph that training changed.

        Raises:
            EnvironmentError_: The file can't be written (EV216).
        """
        tensors = _part(quantized, gemms, constants)
        path = self._path(name)
        sealed = {"run": self.digest, "sha256": self._seal(name, tensors)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with scratch_folder(_UNFINISHED, self.folder) as folder:
                save_file(tensors, folder / path.name, metadata=sealed)
                (folder / path.name).replace(path)
        except (OSError, SafetensorError) as error:
            raise _not_kept(path, error) from error

    def load(
        self,
        name: str,
        quantized: QuantizedGraph,
        gemms: tuple[str, ...],
        constants: tuple[str, ...] = (),
    ) -> bool:
        """Put the layers of one part back into `quantized`; return whether there were any.

        A damaged file is set aside, under a name of its own, and noted in `quantized.notes`.

        Args:
            name: The part.
            quantized: The graph that gets them.
            gemms: The products of the part; other names in the file are damage.
            constants: Constants of the graph that training may change.

        Raises:
            UsageError: The file belongs to another run (EV217).
        """
        path = self._path(name)
        try:
            found = self._read(path, name)
            _check(found, _part(quantized, gemms, constants))
        except FileNotFoundError:
            return False
        except (OSError, ValueError, SafetensorError) as error:
            quantized.notes.append(_set_aside(path, error))
            return False
        for constant in constants:
            if _CONSTANT + constant in found:
                quantized.graph.set_constant(constant, found[_CONSTANT + constant])
        for gemm in gemms:
            own = {key: found[f"{gemm}.{key}"] for key in _tensors(quantized, gemm)}
            if own:
                quantized.layers[gemm] = quantized.layers[gemm].with_tensors(own)
        return True

    def _read(self, path: Path, name: str) -> dict[str, Tensor]:
        """Return the tensors of a file whose seal is whole; ValueError where it is not."""
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is no file")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata.get("run") != self.digest:
            raise _refusal(path)
        if metadata.get("sha256") != self._seal(name, found):
            raise ValueError("its SHA-256 is not that of what it holds")
        return found

    def _seal(self, name: str, tensors: Mapping[str, Tensor]) -> str:
        """Return a digest of the run, the part and all that is kept of it."""
        digest = hashlib.sha256(repr((self.digest, name)).encode())
        for key, value in sorted(tensors.items()):
            digest.update(repr((key, str(value.dtype), tuple(value.shape))).encode())
            digest.update(value.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '_') or 'all'}.safetensors"


def _part(
    quantized: QuantizedGraph, gemms: tuple[str, ...], constants: tuple[str, ...]
) -> dict[str, Tensor]:
    """Return what is kept of a part, by the names in its file."""
    kept = {
        f"{gemm}.{key}": value.contiguous().clone()
        for gemm in gemms
        for key, value in _tensors(quantized, gemm).items()
    }
    return kept | {_CONSTANT + name: quantized.graph.constant(name).clone() for name in constants}


def _check(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the file has the part's tensors, in their shapes, and finite."""
    layers = {key for key in wanted if not key.startswith(_CONSTANT)}
    foreign, lacking = set(found) - set(wanted), layers - set(found)
    if foreign or lacking:
        raise ValueError(f"it has other tensors than the part: {min(foreign | lacking)}")
    for key, value in found.items():
        own = wanted[key]
        if (value.dtype, value.shape) != (own.dtype, own.shape):
            raise ValueError(
                f"{key} is {value.dtype} {list(value.shape)}, not {own.dtype} {list(own.shape)}"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{key} is not finite")


def _set_aside(path: Path, error: Exception) -> str:
    """Give a damaged file another name; return the note for the report."""
    aside = path.with_suffix(".damaged")
    try:
        path.replace(aside)
    except OSError as refusal:
        raise _not_kept(path, refusal) from error
    return (
        f"EV360: the kept part {path.name} was damaged ({error}): trained again; it is {aside.name}"
    )


def _not_kept(path: Path, error: Exception) -> EnvironmentError_:
    return EnvironmentError_(
        "EV216",
        "A trained part can't be kept.",
        where=str(path),
        why=str(error),
        try_next="Free space there, or choose another --checkpoint folder.",
    )


def _refusal(path: Path) -> UsageError:
    return UsageError(
        "EV217",
        "A part of a calibration can't be taken up again.",
        where=str(path),
        why="It was written with other weights, images or settings.",
        try_next="Repeat the command that began it, or give --checkpoint another folder.",
    )


def _tensors(quantized: QuantizedGraph, gemm: str) -> dict[str, Tensor]:
    """Return what training changes of one layer."""
    return quantized.layers[gemm].tensors() if gemm in quantized.layers else {}
