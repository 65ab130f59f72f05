"""Says in a few lines what NVIDIA's compiler made of a bundle, and what a device's engine has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgevit.runner.engines import all_engines

_NAMED_PRODUCTS = 3


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


def compared_lines(compared: Mapping[str, Any] | None) -> list[str]:
    """Return the lines on a device's kernels beside those that were compiled without it.

    Args:
        compared: As `with_compared_kernels` writes it; None where there is nothing to compare.
    """
    if not compared:
        return []
    compiled, here = compared["compiled"], compared["here"]
    differ, same, unknown = compared["differ"], compared["same"], compared["unknown"]
    lines = [
        f"kernels of {compared['variant']}: {here['kernels']} by {here['engine']} here, "
        f"{compiled['kernels']} {compiler_text(compiled['engine'], compiled['capabilities'])}",
        f"products: {same} in the precision compiled, {len(differ)} in another"
        + (f", {unknown} not told" if unknown else ""),
    ]
    named = [
        f"{row['module'] or row['name']} ({row['here']} here, {row['compiled']} compiled)"
        for row in differ[:_NAMED_PRODUCTS]
    ]
    more = [f"and {len(differ) - len(named)} more"] if len(differ) > len(named) else []
    return [*lines, *([f"another precision: {', '.join([*named, *more])}"] if named else [])]
