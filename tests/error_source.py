"""Finds every place in a package that makes an error of EdgeViT, and the texts it may show.

A code is read where an error is made; what its text takes from elsewhere is followed through names,
parameters and their callers. Nothing is imported or run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from error_words import last_name, placeholder, spoken

ROOT = Path(__file__).resolve().parents[1]
CODE = re.compile(r"EV\d{3}")
NOTE = "a note"
"""The class of what is no error: it is said in a report."""
_DEEPEST = 4
_PARTS = ("code", "what", "where", "why", "try_next")


@dataclass(frozen=True)
class Raised:
    """One place that makes an error: its code, class, and the sentences it may show."""

    code: str
    kind: str
    what: tuple[str, ...]
    why: tuple[str, ...]
    try_next: tuple[str, ...]
    file: str
    line: int

    @property
    def meanings(self) -> set[tuple[str, str]]:
        """The class with each sentence, placeholders aside."""
        return {(self.kind, re.sub("«[^»]*»", "«»", text)) for text in self.what}


@dataclass
class _Scope:
    """One function (or module) in which names are looked up, and what its caller gave it."""

    module: _Module
    function: ast.FunctionDef | None
    given: dict[str, tuple[ast.expr, _Scope]] = field(default_factory=dict)


@dataclass
class _Module:
    name: str
    tree: ast.Module
    owner: dict[ast.AST, ast.FunctionDef] = field(default_factory=dict)

    @cached_property
    def imported(self) -> set[tuple[str, str]]:
        """(module, name) of everything that it imports by name."""
        nodes = [node for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom)]
        return {(node.module or "", alias.name) for node in nodes for alias in node.names}

    def knows(self, name: str, other: _Module) -> bool:
        """Return whether a name means here what it means in another module."""
        parts = other.name.removesuffix(".py").split("/")
        sources = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        return other is self or any((source, name) in self.imported for source in sources)


class Source:
    """All modules of a package, parsed once."""

    def __init__(self, root: Path = ROOT, package: str = "edgevit") -> None:
        self._modules = []
        self._calls: dict[str, list[tuple[ast.Call, _Scope]]] = {}
        self._classes = {"EdgeViTError": ""}
        self._functions: set[str] = set()
        self.statuses = {"EdgeViTError": 1}
        self.docstrings: list[tuple[str, str]] = []
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            self._add(_Module(name, ast.parse(path.read_text(encoding="utf-8"))))

    def _add(self, module: _Module) -> None:
        self._modules.append(module)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef):  # an inner one is walked later, and owns its own
                module.owner.update(dict.fromkeys(ast.walk(node), node))
                self._functions.add(node.name)
            elif isinstance(node, ast.ClassDef):
                self._note_class(node)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                self.docstrings.append((module.name, ast.get_docstring(node) or ""))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and not _is_of_click(node.func):
                scope = _Scope(module, module.owner.get(node))
                self._calls.setdefault(last_name(node.func), []).append((node, scope))

    def _note_class(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            if last_name(base) not in self._classes:
                continue
            self._classes[node.name] = last_name(base)
            for line in node.body:
                if isinstance(line, ast.Assign) and last_name(line.targets[0]) == "exit_status":
                    self.statuses[node.name] = ast.literal_eval(line.value)

    def raised(self) -> list[Raised]:
        """Return every place that makes an error, once for each caller that gives it a code."""
        found = []
        for name, calls in self._calls.items():
            for call, scope in calls:  # a class may also be worked out: type(error)("EV101", ...)
                if name in self._classes or (_has_code(call) and name not in self._functions):
                    found += list(self._read(name, call, scope))
        found += [note for module in self._modules for note in _notes(module)]
        return sorted(found, key=lambda one: (one.code, one.file, one.line))

    def _read(self, name: str, call: ast.Call, scope: _Scope) -> Iterator[Raised]:
        kind = name if name in self._classes else "EdgeViTError"
        parts = dict(zip(_PARTS, call.args, strict=False))
        parts |= {word.arg: word.value for word in call.keywords if word.arg}
        for given in self._givers(parts.get("code"), scope):
            texts = {part: tuple(self._texts(parts.get(part), given)) for part in _PARTS}
            said = texts["what"], texts["why"], texts["try_next"]
            for code in texts["code"] or ("",):
                yield Raised(code, kind, *said, scope.module.name, call.lineno)

    def _givers(self, code: ast.expr | None, scope: _Scope, depth: int = 0) -> Iterator[_Scope]:
        """Yield the scope once for each call that hands the code down to it."""
        if not isinstance(code, ast.Name) or code.id not in _parameters(scope.function):
            yield scope
            return
        calls = [(found, at) for found, at in self._callers(scope) if code.id in found]
        if not calls or depth > _DEEPEST:
            yield scope
        for arguments, caller in calls if depth <= _DEEPEST else ():
            for giver in self._givers(arguments[code.id], caller, depth + 1):
                given = {name: (value, giver) for name, value in arguments.items()}
                yield _Scope(scope.module, scope.function, given)

    def _callers(self, scope: _Scope) -> Iterator[tuple[dict[str, ast.expr], _Scope]]:
        assert scope.function is not None
        name = scope.function.name
        for call, caller in self._calls.get(name, []):
            parameters = _parameters(scope.function)
            method = parameters[:1] in (["self"], ["cls"])
            if not (method or caller.module.knows(name, scope.module)):
                continue
            parameters = parameters[method:]
            arguments = dict(zip(parameters, call.args, strict=False))
            yield arguments | {word.arg: word.value for word in call.keywords if word.arg}, caller

    def _texts(self, value: ast.expr | None, scope: _Scope, depth: int = 0) -> list[str]:
        """Return every text that an expression may be, with «name» for what is not known."""
        if value is None or depth > 3 * _DEEPEST:
            return []
        if isinstance(value, ast.Constant):
            return [str(value.value)] if value.value else []
        deeper = depth + 1
        if isinstance(value, ast.IfExp):
            return _once(self._each((value.body, value.orelse), scope, deeper))
        if isinstance(value, ast.BoolOp):
            return _once(self._each(value.values, scope, deeper))
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
            left, right = (self._each([side], scope, deeper) for side in (value.left, value.right))
            return [one + other for one in left or [""] for other in right or [""]]
        if isinstance(value, ast.JoinedStr):
            return ["".join(map(_piece, value.values))]
        if isinstance(value, ast.Name):
            return self._named(value.id, scope, deeper)
        if isinstance(value, ast.Subscript | ast.Call):
            return self._picked(value, scope, deeper)
        return [placeholder(value)]

    def _each(self, values: list[ast.expr] | tuple[ast.expr, ...], scope: _Scope, depth: int):
        return [text for value in values for text in self._texts(value, scope, depth)]

    def _picked(self, value: ast.Subscript | ast.Call, scope: _Scope, depth: int) -> list[str]:
        """Return the texts of a table that one is picked from: `TABLE[key]`, `TABLE.get(key)`."""
        table = value.value if isinstance(value, ast.Subscript) else value.func
        if isinstance(table, ast.Attribute) and table.attr == "get":
            table = table.value
        if isinstance(table, ast.Name):
            for made in _assigned(table.id, scope.module.tree.body):
                if isinstance(made, ast.Dict):
                    return _once(self._each(made.values, scope, depth))
        return [placeholder(value)]

    def _named(self, name: str, scope: _Scope, depth: int) -> list[str]:
        if name in scope.given:
            value, giver = scope.given[name]
            return self._texts(value, giver, depth)
        values = _assigned(name, list(ast.walk(scope.function)) if scope.function else [])
        if not values and name in _parameters(scope.function):
            given = [(found[name], at) for found, at in self._callers(scope) if name in found]
            texts = [text for value, at in given for text in self._texts(value, at, depth)]
            return _once(texts) or [f"«{spoken(name)}»"]
        values = values or _assigned(name, scope.module.tree.body)
        return _once(self._each(values, scope, depth)) or [f"«{spoken(name)}»"]


def _notes(module: _Module) -> Iterator[Raised]:
    """Yield the notes of a report that begin with a code: nothing is raised, the work goes on."""
    for node in ast.walk(module.tree):
        pieces = node.values if isinstance(node, ast.JoinedStr) else []
        text = "".join(map(_piece, pieces))
        if re.match(rf"{CODE.pattern}: ", text):
            code, what = text.split(": ", 1)
            yield Raised(code, NOTE, (what,), (), (), module.name, node.lineno)


def _has_code(call: ast.Call) -> bool:
    first = call.args[0] if call.args else None
    return isinstance(first, ast.Constant) and bool(CODE.fullmatch(str(first.value)))


def _parameters(function: ast.FunctionDef | None) -> list[str]:
    named = function.args if function else ast.arguments([], [], None, [], [], None, [])
    return [one.arg for one in (*named.posonlyargs, *named.args, *named.kwonlyargs)]


def _assigned(name: str, nodes: list) -> list[ast.expr]:
    """Return the values that a name is given, also where it is one of several of a line."""
    found = []
    for node in nodes:
        if isinstance(node, ast.AnnAssign) and node.value and last_name(node.target) == name:
            found.append(node.value)
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if last_name(target) == name:
                found.append(node.value)
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=False)
                found += [value for one, value in pairs if last_name(one) == name]
    return found


def _is_of_click(function: ast.expr) -> bool:
    """Return whether a class is click's, which has a UsageError too; it says no code."""
    return isinstance(function, ast.Attribute) and last_name(function.value) == "click"


def _once(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _piece(value: ast.expr) -> str:
    return str(value.value) if isinstance(value, ast.Constant) else placeholder(value)
