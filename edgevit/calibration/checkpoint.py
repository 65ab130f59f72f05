"""Keeps the trained parts of a long calibration on disk, so that it can be interrupted.

One safetensors file per part, written under another name first and then renamed. Each file says
which run it belongs to (a digest of weights, images, grids and settings); a file of another run is
refused instead of being mixed in.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgevit.calibration.run import Run
from edgevit.errors import EnvironmentError_, UsageError
from edgevit.quantizers.simulation import IntegerLinear, IntegerMatmul, QuantizedGraph

_CONSTANT = "constant/"  # before the name of a constant; names of products have no slash


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
class Checkpoint:
    """The files of one run.

    Args:
        folder: Where they are; made when the first one is written.
        digest: `fingerprint` of the run.
    """

    folder: Path
    digest: str

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
        tensors = {}
        for gemm in gemms:
            for key, value in _tensors(quantized, gemm).items():
                tensors[f"{gemm}.{key}"] = value.contiguous().clone()
        for constant in constants:
            tensors[_CONSTANT + constant] = quantized.graph.constant(constant).clone()
        path = self._path(name)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, partial, metadata={"run": self.digest})
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            raise EnvironmentError_(
                "EV216",
                "A trained part can't be kept.",
                where=str(path),
                why=str(error),
                try_next="Free space there, or choose another --checkpoint folder.",
            ) from error
        finally:
            _removed(partial)  # still there only if something went wrong, Ctrl-C included

    def load(self, name: str, quantized: QuantizedGraph) -> bool:
        """Put the layers of one part back into `quantized`; return whether there were any.

        Raises:
            UsageError: The file belongs to another run, or is damaged (EV217).
        """
        path = self._path(name)
        if not path.exists():
            return False
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise _refused(path, f"It can't be read: {error}") from error
        if metadata.get("run") != self.digest:
            raise _refused(path, "It was written with other weights, images or settings.")
        for key in [key for key in found if key.startswith(_CONSTANT)]:
            quantized.graph.set_constant(key[len(_CONSTANT) :], found.pop(key))
        for gemm in {key.rpartition(".")[0] for key in found}:
            own = {k.rpartition(".")[2]: v for k, v in found.items() if k.startswith(f"{gemm}.")}
            _put_back(quantized, gemm, own)
        return True

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '_') or 'all'}.safetensors"


def _removed(partial: Path) -> None:
    with suppress(OSError):  # such as a folder that is a file: what went wrong is raised already
        partial.unlink(missing_ok=True)


def _refused(path: Path, why: str) -> UsageError:
    return UsageError(
        "EV217",
        "A part of a calibration can't be taken up again.",
        where=str(path),
        why=why,
        try_next="Repeat the command that began it, or give --checkpoint another folder.",
    )


def _tensors(quantized: QuantizedGraph, gemm: str) -> dict[str, Tensor]:
    """Return what training changes of one layer."""
    layer = quantized.layers.get(gemm)
    if isinstance(layer, IntegerLinear):
        return {
            "codes": layer.weight_codes,
            "bias": layer.bias,
            "scale": layer.scale,
            "steps": layer.weight_grid.scale,
            "left": layer.grid.scale,
        }
    if isinstance(layer, IntegerMatmul):
        return {"left": layer.left.scale, "right": layer.right.scale}
    return {}


def _put_back(quantized: QuantizedGraph, gemm: str, own: dict[str, Tensor]) -> None:
    layer = quantized.layers[gemm]
    if isinstance(layer, IntegerLinear):
        quantized.layers[gemm] = replace(
            layer,
            grid=replace(layer.grid, scale=own["left"]),
            weight_grid=replace(layer.weight_grid, scale=own["steps"]),
            weight_codes=own["codes"],
            bias=own["bias"],
            scale=own["scale"],
        )
    elif isinstance(layer, IntegerMatmul):
        left = replace(layer.left, scale=own["left"])
        right = replace(layer.right, scale=own["right"])
        quantized.layers[gemm] = IntegerMatmul(left=left, right=right)
