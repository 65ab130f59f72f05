"""Refuses names no model can have: a file, a path that leads elsewhere, control characters."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from edgevit.errors import UsageError

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[A-Za-z0-9][\w./-]*)?\Z")
_WEIGHTS = "It holds weights; the architecture they belong to has to be named."
_NAME_IT = "--model NAME --weights {path}; `edgevit models PATTERN` lists names."
_RAISE = "Quantize the torch model that it was made from: its name with --weights FILE."
_FILES = {
    **dict.fromkeys((".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors", ".npz"), _WEIGHTS),
    ".onnx": "It is an ONNX file; EdgeViT reads the model in torch, before it is exported.",
    ".pt2": "It is an exported program; EdgeViT reads the module that it was exported from.",
    ".plan": "It is an engine of TensorRT, built already.",
    ".engine": "It is an engine of TensorRT, built already.",
    ".tflite": "It is a model of TensorFlow Lite.",
    ".h5": "It is a file of Keras.",
    ".py": "It is a program; name the function in it that returns the model.",
}


def check_spelling(name: str) -> None:
    """Refuse names with control characters, files, and hub names that lead elsewhere.

    Raises:
        UsageError: The name can't be one (EV169), or it is that of a file (EV168).
    """
    if not name.isprintable():
        raise _no_name(name, "It has control characters.")
    prefix, colon, rest = name.partition(":")
    if colon and prefix in ("hf-hub", "hf_hub") and (not _HUB.match(rest) or ".." in rest):
        raise _no_name(name, "A model of the hub is called owner/name or owner/name@revision.")
    if colon and prefix == "transformers":
        check_hub_or_folder(rest)
    path = Path(name)
    suffix = path.suffix.lower()
    is_file = len(name) < 1024 and path.is_file()
    if is_file or (suffix in _FILES and ("/" in name or "\\" in name or suffix != ".bin")):
        raise _file(name, suffix)


def check_hub_or_folder(name: str) -> None:
    """Refuse what is neither a folder that is here nor a name of the hub.

    Raises:
        UsageError: It is neither (EV169).
    """
    is_folder = len(name) < 1024 and Path(name).is_dir()
    if not is_folder and (not _HUB.match(name) or ".." in name):
        raise _no_name(name, "It is no folder here, and a model of the hub is called owner/name.")


def is_path(name: str) -> bool:
    """Return whether a name is written as a path, a Windows drive's included."""
    return bool(_DRIVE.match(name)) or name.startswith(("/", "./", "../", "~", "\\\\", ".\\"))


def _file(name: str, suffix: str) -> UsageError:
    why, try_next = _FILES.get(suffix, "It is a file."), _RAISE
    if why == _WEIGHTS:
        try_next = _NAME_IT.format(path=name)
        if _is_script(name):
            why = "It is a TorchScript program, whose modules can't be quantized."
            try_next = _RAISE
    elif suffix == ".py":
        try_next = f"--model {Path(name).stem}:FUNCTION, from the folder of the file."
    elif suffix not in _FILES:
        try_next = "Give a model's name, or a folder with config.json."
    return UsageError(
        "EV168", "A file is no model's name.", where=f"--model {name}", why=why, try_next=try_next
    )


def _is_script(name: str) -> bool:
    try:
        with zipfile.ZipFile(name) as archive:
            return any("/code/" in entry for entry in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def _no_name(name: str, why: str) -> UsageError:
    shown = name.encode("unicode_escape").decode()[:200]
    return UsageError(
        "EV169",
        "This can't be the name of a model.",
        where=f"--model {shown}",
        why=why,
        try_next="`edgevit models PATTERN` lists names.",
    )
