"""The verb `build`: compiles the graphs of a bundle for cards that need not be there.

For the cards of TensorRT for RTX the engines are kept, and their kernels. Other devices of NVIDIA
build their own engine: of what is compiled for their nearest relative only the kernels are kept, as
evidence.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bundle.compiled import CompiledFile
from edgevit.bundle.manifest import EXACT_VARIANT
from edgevit.bundle.new_folder import check_target
from edgevit.bundle.opening import open_bundle
from edgevit.bundle.rewriting import write_compiled
from edgevit.bundle.variants import variant_of
from edgevit.errors import EdgeViTError, EnvironmentError_, UnsupportedError, UsageError
from edgevit.progress import Progress, no_progress
from edgevit.runner.engines import engine_of, open_for_engine, target_name
from edgevit.runner.engines.tensorrt.building import BuildSettings
from edgevit.runner.engines.tensorrt.caching import EngineCache
from edgevit.runner.engines.tensorrt.kernel_table import KernelTable
from edgevit.runner.engines.tensorrt.table_summary import table_summary
from edgevit.runner.engines.tensorrt_rtx import ENGINE
from edgevit.runner.engines.tensorrt_rtx.ahead import (
    Compilation,
    capabilities_from_texts,
    compilation_from_onnx,
)
from edgevit.runner.engines.tensorrt_rtx.bindings import load_rtx
from edgevit.runner.engines.tensorrt_rtx.compiling import SETTINGS, CompiledEngine
from edgevit.targets.tensorrt.profiles import PROFILES, DeviceProfile

if TYPE_CHECKING:
    from edgevit.bundle import Bundle

_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A bundle and what is compiled of it.

    Args:
        bundle: The bundle.
        variants: Its forms to compile.
        capabilities: The cards.
        settings: Batch sizes.
        keeps_engines: The bundle's own device runs them.
    """

    bundle: Bundle
    variants: tuple[str, ...]
    capabilities: tuple[str, ...]
    settings: BuildSettings
    keeps_engines: bool

    def table(self, variant: str, engine: CompiledEngine) -> KernelTable:
        """Return the kernels of an engine."""
        return engine.table(variant, self.settings.max_batch)

    def kept(self, variant: str, engine: CompiledEngine) -> CompiledFile:
        """Return an engine as it is kept in the bundle."""
        settings = self.settings
        return CompiledFile(
            variant=variant,
            capabilities=engine.capabilities,
            engine=ENGINE.name,
            version=engine.version,
            batches=(settings.min_batch, settings.best_batch, settings.max_batch),
            list_sha256=engine.list_sha256,
            seconds=engine.seconds,
            data=engine.data,
        )


def build(
    bundle: str | Path,
    *,
    capabilities: Sequence[str] = (),
    variants: Sequence[str] = (),
    max_batch: int | None = None,
    best_batch: int | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Compile a bundle's graphs ahead of time, add engines and kernels to it, return a report.

    Args:
        bundle: Its folder. What was compiled of the same variants before is replaced.
        capabilities: The cards, such as "sm89", "SM89" or "8.9"; that of the bundle's target if
            left out.
        variants: The forms to compile; all if left out.
        max_batch: Largest batch of the engines; 16 if left out.
        best_batch: Batch that their kernels are chosen for; 8 if left out, or the largest.
        output: Folder of a new bundle; the bundle itself is changed if left out.
        overwrite: Replace a bundle that is at `output`.
        progress: Called with (stage, done, total).

    Returns:
        ``bundle``, ``target``, ``engine``, ``capabilities``, ``batches``, ``size_bytes``,
        ``keeps_engines`` (False where only kernels are kept, as evidence), and ``variants``: of
        each its ``name``, ``refused`` {capability: why} and ``engines``, of each ``file`` and
        ``size_bytes`` (None where none is kept), ``seconds``, ``warnings`` and ``kernels`` as
        `edgevit.runner.engines.tensorrt.table_summary.table_summary`.

    Raises:
        UsageError: The bundle is for no device of NVIDIA (EV438), nothing is compiled for its
            device (EV439), the compiler does not know a card (EV771), no such variant (EV416),
            batch sizes that can't be (EV754), or the output is there (EV411).
        EnvironmentError_: TensorRT for RTX is missing (EV770), or the disk is full (EV412).
        UnsupportedError: None of the cards can compute in the types of any variant (EV437).
        DeviceError: The compiler refuses a graph (EV752, EV753).
        BundleError: The bundle is damaged, or changed meanwhile.
    """
    opened = open_for_engine(bundle)
    job = _job(opened, capabilities, variants, _settings(max_batch, best_batch))
    load_rtx()
    in_place = output is None
    target = Path(os.path.realpath(opened.path) if output is None else os.path.abspath(output))
    check_target(target, overwrite or in_place)
    made = {name: _compile(job, name, progress) for name in job.variants}
    _refuse_nothing(made)
    progress("write bundle", 0, 1)
    written = _write(job, made, target, overwrite or in_place)
    if job.keeps_engines:
        _remember(made)
    progress("write bundle", 1, 1)
    return _report(job, made, written)


def _settings(max_batch: int | None, best_batch: int | None) -> BuildSettings:
    """Return the usual settings with other batch sizes; one alone draws the other along."""
    largest = max(SETTINGS.max_batch, best_batch or 0) if max_batch is None else max_batch
    best = min(SETTINGS.best_batch, largest) if best_batch is None else best_batch
    settings = replace(SETTINGS, best_batch=best, max_batch=largest)
    settings.check()
    return settings


def _job(
    bundle: Bundle, capabilities: Sequence[str], variants: Sequence[str], settings: BuildSettings
) -> _Job:
    profile = _profile(bundle)
    compiled_for = capabilities_from_texts(capabilities) if capabilities else _nearest(profile)
    names = tuple(dict.fromkeys(variants))
    for name in set(names) - {bundle.variants[0]}:
        variant_of(bundle.manifest, name)
    return _Job(
        bundle=bundle,
        variants=names or tuple(one for one in bundle.variants if one != EXACT_VARIANT),
        capabilities=compiled_for,
        settings=settings,
        keeps_engines=engine_of(bundle.manifest).name == ENGINE.name,
    )


def _profile(bundle: Bundle) -> DeviceProfile:
    """Return the device a bundle is for.

    Raises:
        UsageError: It is none of NVIDIA's (EV438).
    """
    name = target_name(bundle.manifest)
    if name in PROFILES:
        return PROFILES[name]
    raise UsageError(
        "EV438",
        f"A bundle for {name} has nothing to compile.",
        where=str(bundle.path),
        why="Only graphs for GPUs of NVIDIA are compiled; "
        f"{engine_of(bundle.manifest).title} takes this one as it is.",
        try_next="Quantize for a card: edgevit quantize --target rtx-ada ..., and build that.",
    )


def _nearest(profile: DeviceProfile) -> tuple[str, ...]:
    if profile.compiles_as:
        return (profile.compiles_as,)
    raise UsageError(
        "EV439",
        f"TensorRT for RTX compiles for nothing like {profile.name}.",
        where="--for",
        why=f"It has no code for compute capability {profile.compute_capability}; the device "
        "builds its own engine when it runs the bundle.",
        try_next="--for sm120 shows what the compiler makes of the graphs for another card.",
    )


def _compile(job: _Job, variant: str, progress: Progress) -> Compilation:
    stage = f"compile {variant}"
    progress(stage, 0, 1)
    with _blamed(variant):
        made = compilation_from_onnx(
            job.bundle.engine_onnx(variant), job.capabilities, job.settings
        )
    progress(stage, 1, 1)
    return made


@contextmanager
def _blamed(variant: str) -> Iterator[None]:
    """Let errors inside the block name the variant."""
    try:
        yield
    except EdgeViTError as error:
        error.where = f"{variant}, {error.where}"
        raise


def _refuse_nothing(made: Mapping[str, Compilation]) -> None:
    """Refuse to write a bundle in which nothing would be compiled.

    Raises:
        UnsupportedError: No card can have any variant (EV437).
    """
    if any(one.engines for one in made.values()):
        return
    errors = [error for one in made.values() for error in one.refused.values()]
    errors[0].where = "; ".join(
        f"{name}, {card}" for name, one in made.items() for card in one.refused
    )
    raise errors[0]


def _write(job: _Job, made: Mapping[str, Compilation], target: Path, overwrite: bool) -> Bundle:
    pairs = [(name, engine) for name, one in made.items() for engine in one.engines]
    write_compiled(
        job.bundle,
        target,
        variants=[name for name in job.variants if made[name].engines],  # others keep theirs
        engines=[job.kept(name, engine) for name, engine in pairs if job.keeps_engines],
        kernel_tables=[job.table(name, engine).to_dict() for name, engine in pairs],
        overwrite=overwrite,
    )
    return open_bundle(target)


def _remember(made: Mapping[str, Compilation]) -> None:
    """Note that the engines are this machine's own: validate runs no other without being told."""
    cache = EngineCache()
    with suppress(EnvironmentError_):  # then validate compiles them again
        for engine in (engine for one in made.values() for engine in one.engines):
            cache.remember_compiled(hashlib.sha256(engine.data).hexdigest())


def _report(job: _Job, made: Mapping[str, Compilation], written: Bundle) -> dict[str, Any]:
    settings = job.settings
    return {
        "schema_version": _SCHEMA_VERSION,
        "bundle": str(written.path),
        "target": target_name(written.manifest),
        "engine": f"{ENGINE.name} {load_rtx().__version__}",
        "capabilities": list(job.capabilities),
        "batches": [settings.min_batch, settings.best_batch, settings.max_batch],
        "keeps_engines": job.keeps_engines,
        "variants": [
            {
                "name": name,
                "refused": {card: _why(error) for card, error in one.refused.items()},
                "engines": [_row(job, name, engine) for engine in one.engines],
            }
            for name, one in made.items()
        ],
        "size_bytes": {kind: written.size_bytes(kind) for kind in ("bundle", "compiled", "total")},
    }


def _row(job: _Job, variant: str, engine: CompiledEngine) -> dict[str, Any]:
    kept = job.kept(variant, engine).file if job.keeps_engines else None
    return {
        "file": kept,
        "size_bytes": len(engine.data) if kept else None,
        "seconds": round(engine.seconds, 3),
        "warnings": list(engine.warnings),
        "kernels": table_summary(job.bundle.layers(variant), job.table(variant, engine)),
    }


def _why(error: UnsupportedError) -> str:
    return f"{error.what} {error.try_next}"
