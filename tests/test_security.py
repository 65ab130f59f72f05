"""SECURITY.md promises nothing without a test behind it."""

import ast
import re
from pathlib import Path

from edgevit.bundle.limits import (
    DEFAULT_GMACS,
    DEFAULT_MEMORY_MB,
    MEMORY_VARIABLE,
    WORK_VARIABLE,
)

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def promised():
    """Return (file, test) of every line of a table about what holds."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)


def test_every_test_that_is_named_exists():
    for file, name in promised():
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in found, f"{file}::{name}"


def test_every_line_names_its_test():
    rows = re.findall(r"^\| what holds \| test \|\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    lines = [line for table in rows for line in table.splitlines()]
    assert lines
    for line in lines:
        assert re.search(r"`tests/[\w/]+\.py::\w+` \|$", line), line


def test_the_limits_are_those_of_the_code():
    assert re.search(rf"`{MEMORY_VARIABLE}` \| .* \| {DEFAULT_MEMORY_MB} \|", TEXT)
    assert re.search(rf"`{WORK_VARIABLE}` \| .* \| {DEFAULT_GMACS} \|", TEXT)


def test_the_number_of_attacks_is_the_number_tried():
    import sys

    sys.path.insert(0, str(ROOT / "tests" / "hostile"))
    try:
        import attacks_on_files as files
        import attacks_on_graphs as graphs
    finally:
        sys.path.pop(0)
    kinds = (files.SETTINGS, files.TENSORS, files.GOLDEN, files.MANIFESTS)
    tried = sum(map(len, (*kinds, graphs.PROGRAMS, graphs.COSTS)))
    assert f"| {tried} attacks are refused" in TEXT
