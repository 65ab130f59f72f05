"""The closed lists of settings, providers and engines that a bundle may ask for.

They hold what EdgeViT's own targets write. ONNX Runtime has settings that write files, load
libraries or take the place of its allocator; a bundle is data and has no say in those.
"""

from __future__ import annotations

import re
from typing import Any

from edgevit.bundle.manifest_schema import bad_manifest
from edgevit.errors import BundleError

EXACT_SUMS = {"session.x64quantprecision": "1"}
"""What makes sums of codes exact on x86-64 processors without VNNI instructions."""
SESSION_CONFIG = {key: (value,) for key, value in EXACT_SUMS.items()}
"""Session configuration entries -> values a bundle may give them."""
PROVIDERS = ("CPUExecutionProvider",)
ENGINES = ("onnxruntime", "tensorrt")
_TARGET = re.compile(r"[a-z][a-z0-9-]{0,39}\Z")
_KEYS = {"session_config", "provider", "name", "optimize"}


def check_engine(engine: Any) -> None:
    """Refuse a manifest's ``engine`` that asks for anything else.

    Raises:
        BundleError: It has another form (EV402), or a setting that no bundle has (EV417).
    """
    if not isinstance(engine, dict):
        raise bad_manifest("engine is not a table")
    config = engine.get("session_config", {})
    if not isinstance(config, dict):
        raise bad_manifest("engine.session_config is not a table")
    if not isinstance(engine.get("optimize", True), bool):
        raise bad_manifest("engine.optimize is neither true nor false")
    for key, value in config.items():
        _check(value, SESSION_CONFIG.get(key, ()), f"engine.session_config.{ascii(key)[1:81]}")
    _check(engine.get("provider", PROVIDERS[0]), PROVIDERS, "engine.provider")
    _check(engine.get("name", ENGINES[0]), ENGINES, "engine.name")
    for key in set(engine) - _KEYS:
        _check(engine[key], (), f"engine.{ascii(key)[1:81]}")


def check_target(target: Any) -> None:
    """Refuse a target whose name is not of the form that targets' names have.

    Which targets there are is known where bundles are made; here it is a word, no more.

    Raises:
        BundleError: EV417.
    """
    named = target.get("name") if isinstance(target, dict) and len(target) == 1 else target
    if not isinstance(named, str) or not _TARGET.match(named):
        raise _refused("target", named, "no name of a target")


def _check(value: Any, known: tuple[str, ...], where: str) -> None:
    if isinstance(value, str) and value in known:
        return
    raise _refused(where, value, f"not one of {', '.join(known) or 'its settings'}")


def _refused(where: str, value: Any, why: str) -> BundleError:
    return BundleError(
        "EV417",
        "The bundle has engine settings that EdgeViT never writes.",
        where=f"manifest.json, {where}",
        why=f"{ascii(value)[:80]} is {why}.",
        try_next="Don't use this bundle; get it again from a source you trust.",
    )
