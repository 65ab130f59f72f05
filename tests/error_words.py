"""Gives a word to every value of an error's text that only a run knows, in « and ».

The word is the nearest name in the expression: «number of items» for `len(self.items)`.
"""

from __future__ import annotations

import ast
import re


def placeholder(value: ast.expr) -> str:
    return f"«{spoken(_said(value))}»"


def _said(value: ast.AST | None) -> str:
    """Return the word for a value that only a run knows: the nearest name in its expression."""
    if isinstance(value, ast.Constant):
        return str(value.value or "").strip()
    if isinstance(value, ast.Subscript):
        key = _said(value.slice) if isinstance(value.slice, ast.Constant) else ""
        return key if key and not key.isdigit() else _said(value.value)
    if isinstance(value, ast.IfExp):
        return _said(value.body) or _said(value.orelse)
    if isinstance(value, ast.Call):
        return _said_of_call(value)
    if isinstance(value, ast.Attribute) and value.attr == "__name__":
        return "type"
    inner = getattr(value, _INNER.get(type(value), ""), None)
    if inner is not None:
        return _said(inner[0] if isinstance(inner, list) else inner)
    return last_name(value) if value is not None and last_name(value) else "value"


_INNER = {
    ast.FormattedValue: "value",
    ast.Starred: "value",
    ast.GeneratorExp: "generators",
    ast.ListComp: "generators",
    ast.SetComp: "generators",
    ast.comprehension: "iter",
    ast.BinOp: "left",
    ast.BoolOp: "values",
    ast.UnaryOp: "operand",
}
"""Kind of expression -> the part of it that is named for the whole."""


def _said_of_call(call: ast.Call) -> str:
    name = last_name(call.func).strip("_")
    if name == "len" and call.args:
        return f"number of {_said(call.args[0])}"
    if name in _THROUGH and call.args:
        return _said(call.args[name in _SECOND])
    if name in _OF_TEXT and isinstance(call.func, ast.Attribute):
        return _said(call.func.value)
    return name


_OF_TEXT = {"strip", "rstrip", "split", "splitlines", "partition", "get", "replace", "lower"}
_OF_TEXT |= {"items", "keys", "values"}
_SECOND = {"map", "getattr"}
_THROUGH = {"join", "str", "repr", "list", "dict", "sorted", "int", "min", "max", "set", "map"}
_THROUGH |= {"plain", "dotted", "said", "printable", "getattr", "fromkeys"}


def spoken(name: str) -> str:
    return re.sub(r"[«»`]", "", name).strip("_ ").replace("_", " ").lower()[:40]


def last_name(node: ast.AST) -> str:
    """Return a name, or the last part of a dotted one."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""
