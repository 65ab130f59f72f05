"""Golden images: a few inputs and the logits the simulation gave for them, stored as ``.npz``.

Whoever opens the bundle can check within seconds that the engine still computes what was
simulated. Reading never unpickles and never allocates more than the archive may hold.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from edgevit.bundle.manifest import MAIN_VARIANT
from edgevit.bundle.outputs import NAME_PATTERN
from edgevit.bundle.variants import golden_key
from edgevit.data.tasks import LOGITS, MAX_RANK
from edgevit.errors import BundleError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.bundle.outputs import Output

MAX_GOLDEN_BYTES = 256 << 20
MAX_IMAGES = 64
_MAX_DIRECTORY_BYTES, _NAME_BYTES = 1 << 16, 4096
_END_OF_ARCHIVE = struct.Struct("<4s4H2LH")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy.savez writes
_NAMES = ("images", "logits_simulated", "logits_fp32", "names")
_VARIANT_LOGITS = re.compile(r"logits_simulated_[a-z0-9_]{1,40}\Z")
_NAMED_OUTPUT = re.compile(rf"(simulated(_[a-z0-9_]{{1,40}})?|fp32)/{NAME_PATTERN}\Z")
LEAST_IMAGES, OUTPUT_BUDGET_BYTES = 2, 32 << 20
_PICTURE_BYTES = 32 << 20  # left for pictures and names where outputs are large
_HEADER = re.compile(
    r"\{'descr': '(?P<dtype>[<>|][uifU][1-9]\d{0,3})', 'fortran_order': False, "
    r"'shape': \((?P<shape>[\d, ]*)\), \}\s*\Z"
)
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OSError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)


def golden_bytes(golden: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the ``.npz`` for images uint8 [n, H, W, 3] and their logits float32 [n, classes].

    Raises:
        UsageError: An array is missing, unknown, of the wrong dtype or of another length (EV431).
    """
    problem = _problem(golden)
    if problem:
        raise UsageError("EV431", "The golden images can't be stored.", where="golden", why=problem)
    stream = io.BytesIO()
    arrays: dict[str, Any] = {
        name: np.ascontiguousarray(array) for name, array in golden.items() if _is_known(name)
    }
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def golden_from_bytes(
    data: bytes, where: str, limit_bytes: int = MAX_GOLDEN_BYTES
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a golden archive.

    Args:
        data: The archive.
        where: Its name, for errors.
        limit_bytes: What its arrays may take once decompressed.

    Raises:
        BundleError: The archive is damaged, too big, or holds anything else (EV410).
    """
    try:
        _check_directory(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(members, min(limit_bytes, MAX_GOLDEN_BYTES))
            arrays = {info.filename[:-4]: _read_array(archive, info) for info in members}
    except _UNREADABLE as error:
        _refuse(where, f"{type(error).__name__}: {error}"[:200], error)
    problem = _problem(arrays)
    if problem:
        _refuse(where, problem, None)
    return arrays


def num_golden(outputs: Sequence[Output], most: int, forms: int) -> int:
    """Return how many golden images to keep: fewer of large outputs, 0 where not one fits.

    Args:
        outputs: Of the model.
        most: As many of small outputs.
        forms: How many sets of outputs each image has: one of fp32 and one of each variant.
    """
    image_bytes = max(sum(one.image_bytes for one in outputs), 1)
    wanted = max(LEAST_IMAGES, min(most, OUTPUT_BUDGET_BYTES // image_bytes))
    return min(wanted, (MAX_GOLDEN_BYTES - _PICTURE_BYTES) // (forms * image_bytes))


def simulated_of(
    golden: Mapping[str, npt.NDArray[Any]], variant: str = MAIN_VARIANT
) -> dict[str, npt.NDArray[Any]]:
    """Return output -> what the simulation of a variant gave, float32 [n, ...]; {} without any."""
    key = golden_key(variant)
    if key in golden:
        return {LOGITS: golden[key]}
    return _under(golden, golden_key(variant, named=True))


def is_of_classes(golden: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Return whether the arrays are logits of a classifier, not named outputs."""
    return golden_key(MAIN_VARIANT) in golden


def fp32_of(golden: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return output -> what fp32 gave, float32 [n, ...]; {} where none was written."""
    if "logits_fp32" in golden:
        return {LOGITS: golden["logits_fp32"]}
    return _under(golden, "fp32")


def as_main(golden: Mapping[str, npt.NDArray[Any]], variant: str) -> dict[str, npt.NDArray[Any]]:
    """Return the golden arrays as if the variant were the main one; {} where it has none."""
    found = simulated_of(golden, variant)
    if golden_key(variant) in golden:
        return {**golden, golden_key(MAIN_VARIANT): found[LOGITS]}
    key = golden_key(MAIN_VARIANT, named=True)
    return {**golden, **{f"{key}/{name}": value for name, value in found.items()}} if found else {}


def _under(golden: Mapping[str, npt.NDArray[Any]], stem: str) -> dict[str, npt.NDArray[Any]]:
    start = f"{stem}/"
    return {name[len(start) :]: one for name, one in golden.items() if name.startswith(start)}


def golden_limit_bytes(
    input_size: tuple[int, int, int], outputs: Sequence[Output], variants: int
) -> int:
    """Return what the golden arrays of a model may take at most.

    Args:
        input_size: (3, H, W) of its images.
        outputs: Of the model.
        variants: Forms of the model that have outputs of their own.
    """
    _, height, width = input_size
    output_bytes = (variants + 1) * sum(one.image_bytes for one in outputs)
    return MAX_IMAGES * (height * width * 3 + output_bytes + _NAME_BYTES)


def _is_known(name: str) -> bool:
    return name in _NAMES or bool(_VARIANT_LOGITS.match(name) or _NAMED_OUTPUT.match(name))


def _is_member(file_name: str) -> bool:
    return file_name.endswith(".npy") and _is_known(file_name[:-4])


def _check_directory(data: bytes) -> None:
    """Refuse an archive of more than a few members before they are listed; each takes memory."""
    end = len(data) - _END_OF_ARCHIVE.size
    if end < 0:
        raise ValueError("the archive ends early")
    magic, _, _, _, _, directory_bytes, _, _ = _END_OF_ARCHIVE.unpack_from(data, end)
    is_zip64 = data[max(0, end - 20) : end].startswith(b"PK\x06\x07")
    if magic != b"PK\x05\x06" or is_zip64 or directory_bytes > _MAX_DIRECTORY_BYTES:
        raise ValueError("the archive's list of files is not one of a few arrays")


def _check_members(members: list[zipfile.ZipInfo], limit_bytes: int) -> None:
    names = [info.filename for info in members]
    if len(set(names)) != len(names) or not all(map(_is_member, names)):
        raise ValueError("the archive holds files that do not belong")
    if any(info.compress_type not in _COMPRESSIONS for info in members):
        raise ValueError("a file is compressed in another way than by deflate")
    if sum(info.file_size for info in members) > limit_bytes:
        raise ValueError(f"more than {limit_bytes} bytes once decompressed")


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """Return one ``.npy`` member; its header must announce exactly the bytes that follow."""
    with archive.open(info) as member:
        content = io.BytesIO(member.read(info.file_size))
    shape, dtype = _read_header(content)
    body = content.getbuffer()[content.tell() :]
    if len(body) != math.prod(shape) * dtype.itemsize:
        raise ValueError("an array's header does not match its length")
    if not len(body):
        return np.zeros(shape, dtype)
    return np.frombuffer(body, dtype).reshape(shape)


def _read_header(content: io.BytesIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an npy 1.0 array in C order; NumPy's own reader evaluates more."""
    magic, size_bytes = content.read(8), content.read(2)
    header = _HEADER.match(content.read(int.from_bytes(size_bytes, "little")).decode("latin-1"))
    if magic != b"\x93NUMPY\x01\x00" or header is None:
        raise ValueError("an array is not in npy format 1.0 or not of numbers or text")
    shape = tuple(int(size) for size in header["shape"].split(",") if size.strip())
    return shape, np.dtype(header["dtype"])


def _problem(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return what is wrong with a set of golden arrays, or an empty string."""
    missing = [] if "images" in arrays else ["images"]
    if not simulated_of(arrays):
        missing.append("logits_simulated")
    unknown = sorted(name for name in arrays if not _is_known(name))
    if missing or unknown:
        return f"missing {missing}, unknown {unknown}"
    images = arrays["images"]
    if len(images) > MAX_IMAGES:
        return f"{len(images)} images; at most {MAX_IMAGES} are kept"
    is_pictures = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3)
    if not is_pictures or not len(images):
        return f"images are {images.dtype} {list(images.shape)}, not uint8 [n, H, W, 3]"
    for name in set(arrays) - {"images"}:
        array = arrays[name]
        kind = "U" if name == "names" else "f"
        if array.dtype.kind != kind or not _has_rank(name, array) or len(array) != len(images):
            return f"{name} is {array.dtype} {list(array.shape)} for {len(images)} images"
    if {array.dtype.itemsize for array in arrays.values() if array.dtype.kind == "f"} != {4}:
        return "logits are not float32"
    if not all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"):
        return "logits are not finite"
    return ""


def _has_rank(name: str, array: npt.NDArray[Any]) -> bool:
    """Return whether an array has as many dimensions as one of its name may have."""
    if name == "names":
        return bool(array.ndim == 1)
    return 1 <= array.ndim <= MAX_RANK if "/" in name else bool(array.ndim == 2)


def _refuse(where: str, why: str, cause: BaseException | None) -> NoReturn:
    raise BundleError(
        "EV410",
        "The golden images are damaged.",
        where=where,
        why=why,
        try_next="Copy the bundle again or write it again.",
    ) from cause
