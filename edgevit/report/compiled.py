"""Says in a few lines what NVIDIA's compiler made of a bundle, and what a device's engine has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from edgevit.bundle.manifest import MAIN_VARIANT
from edgevit.runner.engines import all_engines, target_name

_NAMED_PRODUCTS = 3
_NAMES = {"int8": "INT8", "fp8": "FP8", "fp4": "FP4"}


def compiler_text(engine: str, capabilities: Iterable[str]) -> str:
    """Return "compiled for SM86 by TensorRT for RTX 1.7.1.116".

    Args:
        engine: Name and version, such as "tensorrt_rtx 1.7.1.116".
        capabilities: Such as ("SM86",).
    """
    name, _, version = engine.partition(" ")
    known = all_engines().get(name)
    title = name if known is None else known.title
    return f"compiled for {', '.join(capabilities)} by {title} {version}".rstrip()


def compiled_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Return the lines for a bundle of which kernels are known; none for others.

    Args:
        manifest: With ``compiled`` {engine, capabilities, kernels by variant}.
    """
    said = manifest.get("compiled")
    if not said:
        return []
    where = compiler_text(said["engine"], said["capabilities"])
    if said["engine"].partition(" ")[0] != manifest.get("engine", {}).get("name"):
        where += f", not built on {target_name(manifest)}"
    forms = {MAIN_VARIANT: manifest["layers"]}
    forms |= {name: one["layers"] for name, one in manifest.get("variants", {}).items()}
    counts = [text for name, rows in forms.items() if (text := _form_text(name, rows))]
    kernels = ", ".join(f"{count} ({name})" for name, count in said["kernels"].items())
    return [
        where,
        *([f"quantized products as asked: {', '.join(counts)}"] if counts else []),
        f"kernels: {kernels}",
    ]


def _form_text(name: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return "72 of 72 in INT8 (int8)"; empty for a form in which nothing is quantized."""
    asked = [row for row in rows if row.get("carrier")]
    if not asked:
        return ""
    good = Counter(str(row.get("compiled")) for row in asked if not row.get("fallback"))
    kinds = "".join(f" in {_NAMES.get(kind, kind)}" for kind in good)
    return f"{sum(good.values())} of {len(asked)}{kinds} ({name})"


def compared_lines(compared: Mapping[str, Any] | None) -> list[str]:
    """Return the lines on a device's kernels beside those that were compiled without it.

    Args:
        compared: As `with_compared_kernels` writes it; None where there is nothing to compare.
    """
    if not compared:
        return []
    compiled, here = compared["compiled"], compared["here"]
    differ, same, unknown = compared["differ"], compared["same"], compared["unknown"]
    before = "an unknown number" if compiled["kernels"] is None else str(compiled["kernels"])
    lines = [
        f"kernels of {compared['variant']}: {here['kernels']} by {here['engine']} here, {before}"
        f" {compiler_text(compiled['engine'], compiled['capabilities'])}",
        f"products: {same} in the precision compiled, {len(differ)} in another"
        + (f", {unknown} not told" if unknown else ""),
    ]
    named = [
        f"{row['module'] or row['name']} ({row['here']} here, {row['compiled']} compiled)"
        for row in differ[:_NAMED_PRODUCTS]
    ]
    more = [f"and {len(differ) - len(named)} more"] if len(differ) > len(named) else []
    return [*lines, *([f"another precision: {', '.join([*named, *more])}"] if named else [])]
