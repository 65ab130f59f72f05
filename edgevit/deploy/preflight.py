"""Looks at the board before anything is sent: Python, engine, room, memory, target, power mode.

What would make the deployment fail is an error with the command that mends it; what makes its
figures worth less is a warning in the report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgevit.deploy.connection import Connection, no_python
from edgevit.deploy.facts import facts_through
from edgevit.deploy.messages import BoardMessage as Answer
from edgevit.errors import DeviceError, EnvironmentError_, UsageError
from edgevit.runner.board.finding import MISSING, WARNING, why_too_old
from edgevit.runner.engines import all_engines, engine_named
from edgevit.runner.engines.base import Engine
from edgevit.runner.engines.choice import AUTO
from edgevit.targets.tensorrt.profiles import PROFILES, version_key

_OLDEST_PYTHON = (3, 8)
_SLACK_BYTES = 32 << 20
_ENGINE_MEMORY_BYTES = 300 << 20  # Python, numpy and the engine's library
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board as it is known before the deployment.

    Args:
        python: Version of its Python.
        modules: Name -> {"version": ...} or {"error": ...} of what was imported there.
        root: The deployment's folder on the board.
        free_bytes: Room on that disk.
        present_bytes: What an earlier deployment left in that folder.
        facts: What runner/board/facts.py printed.
    """

    python: str
    modules: Mapping[str, Mapping[str, str]]
    root: str
    free_bytes: int
    present_bytes: int
    facts: Mapping[str, Any]

    def has(self, module: str) -> bool:
        """Return whether its Python imports a module."""
        return "version" in self.modules[module]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The engine, disk and memory that a deployment needs.

    Args:
        target: Name of the bundle's target.
        made_for: Name of the engine its manifest says.
        engine: Name of the engine that was asked for, or "auto".
        disk_bytes: Everything that is sent.
        model_bytes: The largest model once it is unpacked.
    """

    target: str
    made_for: str
    engine: str
    disk_bytes: int
    model_bytes: int


def look_at_board(connection: Connection, *, name: str, folder: str | None) -> Board:
    """Ask the board what it is.

    Args:
        connection: To the board.
        name: Of the deployment's folder.
        folder: Where on the board it shall lie; None for the user's cache.

    Raises:
        UsageError: The folder can't be passed on (EV825).
        DeviceError: Its Python does not start or is older than 3.8 (EV816), the folder is not ours
            (EV832), or it does not say what it is (EV782, EV833 to EV835).
        ConnectionLost: The connection broke.
    """
    if folder is not None and not re.fullmatch(r"[^\0-\x1f]+", folder):
        raise UsageError(
            "EV825",
            "The board can have no such folder.",
            where="--folder",
            why=f"{folder!r} is empty or holds a control character.",
            try_next="Name a folder of the board, such as ~/.cache/edgevit.",
        )
    with connection.call("probe", folder=folder, name=name) as call:
        found = call.reply(Answer)
    if tuple(int(part) for part in re.findall(r"\d+", found.python)[:2]) < _OLDEST_PYTHON:
        raise no_python(connection.python, f"It is Python {found.python}.")
    facts = facts_through(connection, "--disk", found.root)
    names = ("numpy", *(engine.module for engine in all_engines().values()))
    return Board(
        python=found.python,
        modules={name: _module(facts["python"], name) for name in names},
        root=found.root,
        free_bytes=found.free_bytes,
        present_bytes=found.present_bytes,
        facts=facts,
    )


def _module(python: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return a module's version, or what became of importing it there."""
    problem = python["problems"].get(name)
    if problem is None and python[name] is None:
        problem = f"No module named {name!r}"
    return {"version": python[name]} if problem is None else {"error": problem}


def check(board: Board, needs: Needs) -> list[str]:
    """Refuse a board that can't run the bundle; return warnings for one that can.

    Raises:
        EnvironmentError_: numpy (EV818) or the engine (EV840) is missing
            there, or there is no room (EV843).
        DeviceError: There is no card there that the bundle's engine runs on (EV784).
    """
    _check_numpy(board)
    _check_engine(board, needs)
    _check_room(board, needs)
    return [
        *_card_warnings(board, needs),
        *_target_warnings(board, needs),
        *_memory_warnings(board, needs),
    ]


def _check_numpy(board: Board) -> None:
    if not board.has("numpy"):
        raise EnvironmentError_(
            "EV818",
            "The board's Python has no numpy.",
            why=board.modules["numpy"]["error"],
            try_next="On the board: sudo apt install python3-numpy; --python names another Python.",
        )


def _check_engine(board: Board, needs: Needs) -> None:
    own = engine_named(needs.made_for)
    if needs.engine not in (AUTO, own.name):  # what stands in for it was asked for
        _require(board, engine_named(needs.engine))
    elif needs.engine == own.name or not own.stand_in or not _has_engine(board, own.stand_in):
        _require(board, own)


def _has_engine(board: Board, name: str) -> bool:
    return not _problem(board, engine_named(name))


def _require(board: Board, engine: Engine) -> None:
    problem = _problem(board, engine)
    if problem:
        pip = f"On the board: python3 -m pip install {engine.wheel or engine.module}; "
        raise EnvironmentError_(
            "EV840",
            f"The board has no {engine.title} that its Python could use.",
            why=problem,
            try_next=engine.mend
            or f"{pip}--python names another Python, such as that of a virtual environment.",
        )


def _problem(board: Board, engine: Engine) -> str:
    """Return why the board's Python has no such engine, "" if it has one."""
    if not board.has(engine.module):
        return board.modules[engine.module]["error"]
    version = board.modules[engine.module]["version"]
    return why_too_old(version, engine.oldest, engine.title)


def _card_warnings(board: Board, needs: Needs) -> list[str]:
    """Refuse a card that an engine for cards can't run on; return what is less than it could be."""
    own = engine_named(needs.made_for)
    runs = needs.engine in (AUTO, own.name) and not _problem(board, own)
    if not own.ahead or own.findings is None or not runs:
        return []
    capability = board.facts["gpu"]["compute_capability"]
    if capability is None:
        raise _no_card(own, "nvidia-smi is not there, or lists no GPU.", "")
    told = own.findings(board.facts)
    for finding in told:
        if finding.status == MISSING:
            raise _no_card(own, f"{finding.name}: {finding.found}.", f" Or {finding.mend}.")
    warnings = [f"{one.name}: {one.found}; {one.mend}" for one in told if one.status == WARNING]
    profile = PROFILES.get(needs.target)
    if profile and version_key(capability) < version_key(profile.compute_capability):
        warnings.append(
            f"the bundle is for {profile.name}, compute capability {profile.compute_capability},"
            f" and the card has {capability}: what needs the newer one is not built there"
        )
    return warnings


def _no_card(engine: Engine, why: str, otherwise: str) -> DeviceError:
    return DeviceError(
        "EV784",
        f"The board has no card that {engine.title} runs on.",
        why=why,
        try_next="nvidia-smi there lists its GPUs. --engine onnxruntime measures the accuracy on"
        f" its CPU.{otherwise}",
    )


def _check_room(board: Board, needs: Needs) -> None:
    wanted = needs.disk_bytes + _SLACK_BYTES
    free = board.free_bytes + board.present_bytes  # what is there already is replaced or kept
    if free < wanted:
        raise EnvironmentError_(
            "EV843",
            "The board's disk has no room for this.",
            where=board.root,
            why=f"{wanted / 1e6:.0f} MB are needed there and {free / 1e6:.0f} MB are free.",
            try_next="Free some space there, use fewer images (--num), or --folder on another "
            "disk of the board.",
        )


def _target_warnings(board: Board, needs: Needs) -> list[str]:
    own, name = board.facts.get("target"), needs.target
    is_jetson = name in PROFILES and PROFILES[name].is_jetson
    if own is not None and is_jetson and own != name:
        return [f"the bundle is for {name} and the board is a {own}"]
    mode, modes = _power_mode(board)
    if mode is not None and modes and not mode.upper().startswith("MAXN"):
        most = [other for other in modes if other.upper().startswith("MAXN")]
        better = f"; {most[-1]} is faster" if most else ""
        return [f"the board runs in power mode {mode}{better}"]
    return []


def _power_mode(board: Board) -> tuple[str | None, list[str]]:
    mode = board.facts.get("power_mode") or {}
    return mode.get("name"), list((mode.get("modes") or {}).values())


def _memory_warnings(board: Board, needs: Needs) -> list[str]:
    available = (board.facts.get("memory_bytes") or {}).get("available")
    wanted = 4 * needs.model_bytes + _ENGINE_MEMORY_BYTES
    if available is None or available >= wanted:
        return []
    return [
        f"the board has {available / _GIB:.1f} GiB of memory available, about "
        f"{wanted / _GIB:.1f} GiB are needed: without a desktop or with swap there is more"
    ]
