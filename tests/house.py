"""Counts the rooms of `edgevit/`, the arrows between them, those against the flow, and the circles.

Run it from the project's root: ``python tests/house.py``. Every import counts: those inside
functions and those for type checkers too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOOR = ("errors", "recipe", "version", "progress", "scratch")
DOOR = ("api", "console", "cli", "__init__", "__main__")
ROOMS = (
    "data",
    "zoo",
    "graph",
    "quantizers",
    "calibration",
    "bundle",
    "runner",
    "targets",
    "report",
    "deploy",
    "doctor",
    "verbs",
)
FLOW = (*FLOOR, *ROOMS, *DOOR)
"""Every name in `edgevit/`, in the order in which data flows; each imports from those before it."""
APART = frozenset({("calibration", "targets"), ("targets", "calibration")})
"""Rooms that never import each other: they speak in `Placement`, a value of `quantizers`."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return dotted name -> file of every module of the package."""
    found = {}
    for path in sorted((root / "edgevit").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Return module -> modules of the package that it imports, anywhere in the file."""
    known = modules(root)
    found = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {target for node in ast.walk(tree) for target in _targets(node, known)}
        found[name] = named - {name}
    return found


def _targets(node: ast.AST, known: Iterable[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            if inner in known:
                yield inner
            elif node.module in known:
                yield node.module


def room(module: str) -> str:
    """Return the name directly below `edgevit` of a module."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def arrows(found: dict[str, set[str]]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return (room, room it imports from) -> the imports behind that arrow."""
    between: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for source, targets in found.items():
        for target in sorted(targets):
            pair = room(source), room(target)
            if pair[0] != pair[1]:
                between.setdefault(pair, []).append((source, target))
    return between


def against_the_flow(found: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Return the imports of a room from one that comes after it, or that it stays apart from."""
    return [
        pair
        for rooms, pairs in arrows(found).items()
        if FLOW.index(rooms[1]) > FLOW.index(rooms[0]) or rooms in APART
        for pair in pairs
    ]


def circles(found: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle (Tarjan, 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for target in found[module]:
            if target not in order:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], order[target])
        if low[module] == order[module]:
            cut = stack.index(module)
            groups.append(sorted(stack[cut:]))
            del stack[cut:]

    for module in found:
        if module not in order:
            visit(module)
    return [group for group in groups if len(group) > 1]


def main() -> None:
    """Print the counts, then every import against the flow and every circle."""
    found = imports()
    between, back, rings = arrows(found), against_the_flow(found), circles(found)
    rooms = {room(module) for module in found}
    print(f"{len(rooms)} rooms and top modules, {len(between)} arrows between them,")
    print(f"{len(back)} imports against the flow, {len(rings)} circles, {len(found)} modules")
    for source, target in back:
        print(f"against the flow: {source} -> {target}")
    for ring in rings:
        print(f"circle: {', '.join(ring)}")


if __name__ == "__main__":
    sys.exit(main())
