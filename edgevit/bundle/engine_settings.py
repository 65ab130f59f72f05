"""The form of what a bundle may ask of an engine; what each grants is said in its own folder.

Engines have settings that write files, load libraries or take the place of an allocator; a bundle
is data and has no say in those. Here its requests are held to plain words, so that none is a path
or a list; `edgevit.runner.engines.engine_of` then refuses those that its engine does not declare.
"""

from __future__ import annotations

import re
from typing import Any

from edgevit.bundle.manifest_schema import bad_manifest
from edgevit.errors import BundleError

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}\Z")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}\Z")
_TARGET = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")


def check_engine(engine: Any) -> None:
    """Refuse a manifest's ``engine`` that is not a table of plain words.

    Raises:
        BundleError: It has another form (EV402), or asks for what no engine has a word for (EV417).
    """
    if not isinstance(engine, dict):
        raise bad_manifest("engine is not a table")
    if not isinstance(engine.get("session_config", {}), dict):
        raise bad_manifest("engine.session_config is not a table")
    if not isinstance(engine.get("optimize", True), bool):
        raise bad_manifest("engine.optimize is neither true nor false")
    if "name" in engine and not (isinstance(engine["name"], str) and _NAME.match(engine["name"])):
        raise foreign_setting_error("engine.name", engine["name"], "no name of an engine")
    _check_words(engine, "engine")


def _check_words(table: Any, where: str, nested: bool = True) -> None:
    for key, value in table.items():
        place = f"{where}.{key}"
        if not WORD.match(key):
            raise foreign_setting_error(place, value, "asked under a name that no setting has")
        if nested and isinstance(value, dict):
            _check_words(value, place, nested=False)
        elif not isinstance(value, bool) and not (isinstance(value, str) and WORD.match(value)):
            raise foreign_setting_error(place, value, "no value of a setting")


def check_target_name(target: Any) -> None:
    """Refuse a target whose name is not of the form that targets' names have.

    Which targets there are is known where bundles are made; here it is a word, no more.

    Raises:
        BundleError: EV417.
    """
    named = target.get("name") if isinstance(target, dict) and len(target) == 1 else target
    if not isinstance(named, str) or not _TARGET.match(named):
        raise foreign_setting_error("target", named, "no name of a target")


def foreign_setting_error(where: str, value: Any, why: str) -> BundleError:
    """Return the error for a request that no bundle makes (EV417)."""
    return BundleError(
        "EV417",
        "The bundle asks the engine for something that no bundle asks for.",
        where=f"manifest.json, {ascii(where)[1:-1][:120]}",
        why=f"{ascii(value)[:80]} is {why}.",
        try_next="Don't use this bundle; get it again from a source you trust.",
    )
