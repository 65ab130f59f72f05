"""What a bundle may ask of an engine: the closed lists of settings, providers, engines and targets.

They hold what EdgeViT's own targets write. ONNX Runtime has settings that write files, load
libraries or take the place of its allocator; a bundle is data and has no say in those.
"""

from __future__ import annotations

from typing import Any

from edgevit.bundle.manifest_schema import bad_manifest
from edgevit.errors import BundleError
from edgevit.targets.profiles import PROFILES

EXACT_SUMS = {"session.x64quantprecision": "1"}
"""What makes sums of codes exact on x86-64 processors without VNNI instructions."""
SESSION_CONFIG = {key: (value,) for key, value in EXACT_SUMS.items()}
"""Session configuration entries -> values a bundle may give them."""
PROVIDERS = ("CPUExecutionProvider",)
ENGINES = ("onnxruntime", "tensorrt")
TARGETS = ("cpu", *PROFILES)
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
    """Refuse a target that no bundle is made for.

    Raises:
        BundleError: EV417.
    """
    named = target.get("name") if isinstance(target, dict) and len(target) == 1 else target
    _check(named, TARGETS, "target")


def _check(value: Any, known: tuple[str, ...], where: str) -> None:
    if isinstance(value, str) and value in known:
        return
    raise BundleError(
        "EV417",
        "The bundle asks the engine for something that no bundle asks for.",
        where=f"manifest.json, {where}",
        why=f"{ascii(value)[:80]} is not one of {', '.join(known) or 'its settings'}.",
        try_next="Don't use this bundle; get it again from a source you trust.",
    )
