"""Reads a checkpoint file without running code from it.

`.safetensors` holds nothing but tensors; `.pth`, `.pt`, `.ckpt` and `.bin` are read by torch's
restricted unpickler (`weights_only=True`). Records that training scripts store beside the weights
become empty stand-ins; the code they name is never imported.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgevit.data.paths import look_at
from edgevit.errors import DataError

StateDict = dict[str, Tensor]
PICKLED = (".pth", ".pt", ".bin", ".tar", ".ckpt")
_CONVERT = {
    ".h5": "Keras", ".keras": "Keras", ".msgpack": "Flax", ".index": "TensorFlow",
    ".pb": "TensorFlow", ".onnx": "ONNX", ".gguf": "llama.cpp", ".engine": "TensorRT",
}  # fmt: skip
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)|got <(?:class|function) '?([\w.]+)")
_ARCHIVE_SLACK = 1 << 16


class Record:
    """Stands for a record that is no weight: takes whatever it is made of and forgets it."""

    def __new__(cls, *_: Any) -> Record:
        """Return an empty record."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


_NUMPY = ("core.multiarray.scalar", "core.multiarray._reconstruct")
_RECORDS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"numpy.{dot}{name}" for dot in ("", "_") for name in _NUMPY),
    *(f"numpy.{name}" for name in ("dtype", "ndarray", "bool_", "float32", "float64", "int64")),
    *(
        f"numpy.dtypes.{n}DType"
        for n in ("Float16", "Float32", "Float64", "Int32", "Int64", "Bool")
    ),
    *(f"pathlib{home}.{kind}Path" for home in ("", "._local") for kind in ("Posix", "Windows")),
    "datetime.datetime",
    "datetime.timedelta",
)
_TABLES = (
    "yacs.config.CfgNode",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "easydict.EasyDict",
)


def read_checkpoint(path: Path) -> Any:
    """Read what a checkpoint file holds: tensors by name, or containers of them.

    Raises:
        DataError: The file is missing, damaged, of an unknown kind, or holds objects (EV154).
    """
    suffix = path.suffix.lower()
    found = look_at(path)
    if found.kind != "file":
        raise unreadable(path, found.why, "Give the path of a .safetensors or .pth file.")
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix in PICKLED:
        return _read_pickled(path)
    if suffix in _CONVERT:
        raise unreadable(
            path,
            f"{suffix} is a file of {_CONVERT[suffix]}, not of torch.",
            "Convert it there to a state dict of torch and save that as .safetensors.",
        )
    raise unreadable(path, f"{suffix or 'No suffix'} is none of .safetensors, .pth, .npz.")


def _read_safetensors(path: Path) -> StateDict:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, MemoryError, KeyError) as error:
        raise unreadable(path, _text_of(error)) from error


def _read_pickled(path: Path) -> Any:
    """Read with the restricted unpickler, records being replaced by stand-ins."""
    _check_archive(path)
    known: list[Any] = [*((Record, name) for name in _RECORDS)]
    known += [(OrderedDict, name) for name in _TABLES]
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the pickle's protocol is not the user's matter
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from error
    except (
        RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError,
        AssertionError, MemoryError, OverflowError, RecursionError, ArithmeticError,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        if "TorchScript" in str(error):
            raise unreadable(
                path, "It is a TorchScript program, not weights.", _FROM_SCRIPT
            ) from error
        raise unreadable(path, f"It is damaged or no torch file ({_text_of(error)}).") from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than it holds; torch stores tensors as they are."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise unreadable(path, f"It is damaged ({_text_of(error)}).") from error
    size, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    if unpacked > size + _ARCHIVE_SLACK:
        raise unreadable(path, f"It has {size:,} bytes and would unpack to {unpacked:,}.")
    if any("/code/" in entry.filename for entry in entries):
        raise unreadable(path, "It is a TorchScript program, not weights.", _FROM_SCRIPT)


def _refusal(path: Path, said: str) -> DataError:
    """Return the error that names the type which a pickle wants to have made."""
    found = _GLOBAL.search(said.replace("``", ""))
    name = next(filter(None, found.groups()), "") if found else ""
    if not name:
        return unreadable(path, f"It is damaged or no torch file ({said.splitlines()[0][:200]}).")
    is_model = not name.startswith(("numpy.", "posix", "nt.", "os.", "sys.", "builtins."))
    why = f"It holds an object of {name}; making one would run code, so only tensors are read."
    if is_model and name[name.rfind(".") + 1 :][:1].isupper():
        why += " If that is the model's class, the whole model was saved instead of its weights."
    return unreadable(path, why, f"Where you trust the file: {_SAVE_AGAIN}")


def _text_of(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


_SAVE_AGAIN = (
    "save the state dict as .safetensors (safetensors.torch.save_file), or with "
    "torch.save(model.state_dict(), FILE)."
)
_FROM_SCRIPT = (
    "In Python: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth'), then --weights "
    "weights.pth and --model with the architecture's name."
)


def unreadable(path: Path | str, why: str, try_next: str = "") -> DataError:
    """Return the error for a checkpoint that can't be read (EV154)."""
    return DataError(
        "EV154",
        "The weights can't be read.",
        where=str(path),
        why=why,
        try_next=try_next or _SAVE_AGAIN[0].upper() + _SAVE_AGAIN[1:],
    )
