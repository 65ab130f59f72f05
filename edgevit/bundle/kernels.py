"""The member ``kernels.json``: the kernels of engines that were compiled of a bundle's graphs.

``{"tables": [...]}``, each table as `edgevit.runner.engines.tensorrt.kernel_table.KernelTable`
writes it. It comes from outside as everything in a bundle does: read strictly, checked completely.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Mapping, Sequence

from edgevit.bundle.manifest import CAPABILITIES, MAIN_VARIANT, VARIANT_GRAPHS
from edgevit.bundle.manifest_schema import check_plain, plain_from_json
from edgevit.errors import BundleError

MAX_KERNELS_BYTES = 32 << 20
_MAX_TABLES, _MAX_KERNELS, _MAX_OPERANDS, _MAX_RANK = 128, 1 << 14, 1 << 10, 16
_MAX_BATCH, _MAX_SIDE = 1 << 20, 1 << 40
_HEX = frozenset("0123456789abcdef")
Table = Mapping[str, Any]


def bytes_from_tables(tables: Sequence[Table]) -> bytes:
    """Return the text of ``kernels.json``.

    Raises:
        BundleError: It could not be read again (EV435).
    """
    text = json.dumps({"tables": list(tables)}, separators=(",", ":"), ensure_ascii=False)
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise bad_kernels("a text is not Unicode") from error
    tables_from_bytes(data)
    return data


def tables_from_bytes(data: bytes) -> list[dict[str, Any]]:
    """Return the tables of ``kernels.json``.

    Raises:
        BundleError: It is damaged, or holds more than kernels (EV435).
    """
    if len(data) > MAX_KERNELS_BYTES:
        raise bad_kernels(f"it is larger than {MAX_KERNELS_BYTES} bytes")
    try:
        content = plain_from_json(data)
    except (ValueError, RecursionError) as error:
        raise bad_kernels(f"it is not valid JSON: {str(error)[:200]}") from error
    check_plain(content, bad_kernels)
    tables = content.get("tables") if isinstance(content, dict) and len(content) == 1 else None
    if not _is_list(_is_table, _MAX_TABLES)(tables):
        raise bad_kernels("it is not a list of tables of kernels")
    return list(tables)  # type: ignore[arg-type]


def bad_kernels(why: str) -> BundleError:
    """Return the error for tables that can't be used."""
    return BundleError(
        "EV435",
        "The bundle's tables of kernels are damaged.",
        where="kernels.json",
        why=why,
        try_next="Copy the bundle again, or quantize again.",
    )


Check = Callable[[Any], bool]


def _is_list(each: Check, most: int) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(each, value))


def _is_of(checks: Mapping[str, Check]) -> Check:
    """Return a check for a table with exactly these keys."""
    return lambda value: (
        isinstance(value, dict)
        and set(value) == set(checks)
        and all(check(value[key]) for key, check in checks.items())
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def is_sha256(value: Any) -> bool:
    """Return whether a value is 64 hexadecimal digits."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= _HEX


_operands = _is_list(
    _is_of(
        {
            "name": _is_text,
            "precision": _is_text,
            "shape": _is_list(_is_whole(-1, _MAX_SIDE), _MAX_RANK),
        }
    ),
    _MAX_OPERANDS,
)
_is_kernel = _is_of(
    {
        "name": _is_text,
        "kind": _is_text,
        "inputs": _operands,
        "constants": _operands,
        "outputs": _operands,
        "tactic": _is_text,
        "onnx_nodes": _is_list(_is_text, _MAX_OPERANDS),
    }
)
_is_table = _is_of(
    {
        "variant": lambda value: (
            isinstance(value, str) and value in (MAIN_VARIANT, *VARIANT_GRAPHS)
        ),
        "engine": _is_text,
        "capabilities": _is_list(_is_text, len(CAPABILITIES)),
        "max_batch": _is_whole(1, _MAX_BATCH),
        "layers": _is_list(_is_kernel, _MAX_KERNELS),
        "list_sha256": lambda value: value == "" or is_sha256(value),
    }
)
