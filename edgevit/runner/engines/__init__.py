"""The engines: every module in this folder that has an `ENGINE` is one (`base.Engine`).

They are found by looking, so that a new one is one new file or folder here; none of them loads
the library it is about before it is asked to. What a bundle asks of its engine is checked here,
by what that engine declares, before any session exists.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Mapping, NoReturn

from edgevit.errors import UsageError
from edgevit.runner.declared import declared

if TYPE_CHECKING:
    from edgevit.bundle import Bundle
    from edgevit.runner.engines.base import Engine


def all_engines() -> dict[str, Engine]:
    """Return name -> engine, in alphabetical order of their files.

    Raises:
        ValueError: Two engines have one name.
    """
    return declared(__name__, __path__, "ENGINE")


def engine_named(name: str) -> Engine:
    """Return the engine of this name.

    Raises:
        UsageError: There is none (EV823).
    """
    engines = all_engines()
    if name not in engines:
        raise UsageError(
            "EV823",
            f"There is no engine {name!r}.",
            where="--engine",
            try_next=f"One of {', '.join(('auto', *engines))}.",
        )
    return engines[name]


def open_for_engine(path: str | os.PathLike[str]) -> Bundle:
    """Return an opened bundle that asks of its engine only what that declares.

    Raises:
        BundleError: As `edgevit.bundle.open_bundle` and `engine_of`.
    """
    from edgevit.bundle import open_bundle

    bundle = open_bundle(path)
    engine_of(bundle.manifest)
    return bundle


def engine_of(manifest: Mapping[str, Any]) -> Engine:
    """Return the engine a bundle is made for; refuse what it does not declare.

    Whoever opens a session of a bundle comes through here.

    Args:
        manifest: Of an opened bundle.

    Raises:
        BundleError: There is no such engine, or the bundle asks it for a setting or a value that
            neither it nor what stands in for it has (EV417).
    """
    asked = dict(manifest.get("engine", {}))
    name = asked.pop("name", None) or _unnamed(target_name(manifest))
    engines = all_engines()
    if name not in engines:
        _refuse("engine.name", name, engines)
    engine = engines[name]
    standing_in = engines[engine.stand_in].settings if engine.stand_in else {}
    _check(asked, {**standing_in, **engine.settings}, "engine")
    return engine


def target_name(manifest: Mapping[str, Any]) -> str:
    """Return the name of the target in a bundle's manifest."""
    target = manifest["target"]
    return target if isinstance(target, str) else str(target.get("name", ""))


def _unnamed(target: str) -> str:
    """Return the engine of a bundle that was written before manifests named theirs."""
    return "tensorrt" if target.startswith(("tensorrt", "jetson-")) else "onnxruntime"


def _check(asked: Mapping[str, Any], declared: Mapping[str, Any], where: str) -> None:
    for key, value in asked.items():
        known, place = declared.get(key, ()), f"{where}.{key}"
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            _check(value, known, place)
        elif isinstance(known, Mapping) or value not in known:
            _refuse(place, value, known)


def _refuse(where: str, value: Any, known: Any) -> NoReturn:
    from edgevit.bundle.engine_settings import (
        foreign_setting_error,  # needs numpy, which may be missing
    )

    names = ", ".join(map(str, known)) or "its settings"
    raise foreign_setting_error(where, value, f"not one of {names}")
