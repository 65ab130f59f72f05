"""The first line of a docstring says the noun or the verb, so that it can be read by itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RIDDLES = {"What", "Which", "How", "Whether", "Where", "Why", "Who"}
SAID = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def riddles(text):
    """Return the first lines that ask instead of saying."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, SAID)]
    first = [(ast.get_docstring(node) or "").partition("\n")[0] for node in nodes]
    return [line for line in first if line.split(" ")[0] in RIDDLES]


def test_no_first_line_is_a_riddle():
    files = sorted((ROOT / "edgevit").rglob("*.py"))
    found = {str(file.relative_to(ROOT)): riddles(file.read_text("utf-8")) for file in files}
    assert {file: lines for file, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "text",
    [
        '"""What it does."""',
        'class A:\n    """How good it is.\n\n    More.\n    """',
        'class A:\n    def f(self):\n        """Whether it is."""',
        'async def f():\n    """Where\n    it is."""',
    ],
)
def test_a_riddle_is_found(text):
    assert len(riddles(text)) == 1


def test_what_is_said_is_no_riddle():
    assert (
        riddles('"""Whatever is said."""\n\n\nclass A:\n    """Return what was asked."""\n') == []
    )
