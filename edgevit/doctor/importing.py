"""Tries to import packages: one that is installed may still be broken, or be another thing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache

_SECONDS = 300
_MODULES = {"pillow": "PIL"}
_SCRIPT = """
import importlib, json, sys
for name in sys.argv[1:]:
    problem = ""
    try:
        module = importlib.import_module(name)
        if getattr(module, "__file__", None) is None:
            problem = "%s is a folder without a package" % list(module.__path__)
    except BaseException as error:
        said = str(error).strip().splitlines() or [""]
        problem = ("%s: %s" % (type(error).__name__, said[0]))[:500]
    sys.__stdout__.write("@" + json.dumps([name, problem]) + "\\n")
    sys.__stdout__.flush()
"""


@lru_cache
def import_problems(packages: tuple[str, ...]) -> dict[str, str]:
    """Return package -> what is wrong with importing it, "" if nothing is.

    They are imported one after the other in a process of their own, as one may crash; the rest is
    then tried in another.
    """
    problems: dict[str, str] = {}
    left = list(packages)
    while left:
        status, found = _try_modules([_MODULES.get(name, name) for name in left])
        problems.update(zip(left, found, strict=False))
        if len(found) < len(left):
            problems[left[len(found)]] = f"importing it ends Python with status {status}"
        left = left[len(found) + 1 :]
    return problems


def _try_modules(modules: Sequence[str]) -> tuple[int | None, list[str]]:
    """Return the process's status and the problems of the modules that it came to."""
    command = [sys.executable, "-c", _SCRIPT, *modules]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS)
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        status, output = None, error.stdout or b""
    lines = [line for line in output.splitlines() if line.startswith(b"@")]
    return status, [json.loads(line[1:])[1] for line in lines]
