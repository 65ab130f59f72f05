"""Writes a bundle once more with other compiled engines: in its place, or as a new one.

All other files stay as they are, byte by byte. What has the bundle's name is a whole bundle at any
time: the old one until the new one is on the disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from edgevit.bundle.compiled import CompiledFile
from edgevit.bundle.kernels import bytes_from_tables
from edgevit.bundle.manifest import ENGINE_FILES, KERNELS
from edgevit.bundle.members import damaged_file_error, member
from edgevit.bundle.new_folder import NewBundle, new_bundle
from edgevit.bundle.opening import read_manifest
from edgevit.errors import EnvironmentError_

if TYPE_CHECKING:
    from edgevit.bundle.opening import Bundle

_CHUNK_BYTES = 1 << 20


def write_compiled(
    bundle: Bundle,
    target: Path,
    *,
    variants: Sequence[str],
    engines: Sequence[CompiledFile],
    kernel_tables: Sequence[Mapping[str, Any]],
    overwrite: bool,
) -> None:
    """Write a bundle with the engines and kernel tables of some variants replaced.

    Args:
        bundle: The bundle as it is.
        target: Where it is written; its own folder to replace it.
        variants: Those whose engines and tables are replaced; the others keep theirs.
        engines: Their engines.
        kernel_tables: Their tables of kernels.
        overwrite: Replace a bundle that is at the target.

    Raises:
        UsageError: Something is there that may not be replaced (EV411).
        EnvironmentError_: The disk is full or not writable (EV412), or another command changed
            the bundle meanwhile (EV440).
        BundleError: A file changed meanwhile (EV404, EV405).
    """

    def check_unchanged() -> None:
        if read_manifest(bundle.path)["manifest_sha256"] != bundle.manifest["manifest_sha256"]:
            raise EnvironmentError_(
                "EV440",
                "Another command changed the bundle meanwhile.",
                where=str(bundle.path),
                why="It is not the one that was opened, so that it is left as it is.",
                try_next="Run the command again, one at a time.",
            )

    check_unchanged()
    kept = [row for row in bundle.engines() if row["variant"] not in variants]
    tables = [table for table in bundle.kernel_tables() if table["variant"] not in variants]
    rows = [*kept, *(engine.to_dict() for engine in engines)]

    with new_bundle(target, overwrite, check_unchanged) as new:
        for name in _copied(bundle, kept):
            _copy(bundle, name, new)
        for engine in engines:
            new.add(engine.file, engine.data)
        new.add(KERNELS, bytes_from_tables([*tables, *kernel_tables]))
        new.finish({**bundle.manifest, "engines": rows})


def _copied(bundle: Bundle, kept: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the files that stay."""
    made = {KERNELS, *ENGINE_FILES.values()} - {row["file"] for row in kept}
    return [name for name in bundle.manifest["files"] if name not in made]


def _copy(bundle: Bundle, name: str, new: NewBundle) -> None:
    with member(bundle.path, name) as stream:
        new.add_stream(name, iter(lambda: stream.read(_CHUNK_BYTES), b""))
    if new.records[name] != bundle.manifest["files"][name]:
        raise damaged_file_error(name, "it changed after the bundle was opened")
