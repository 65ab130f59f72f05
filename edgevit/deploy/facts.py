"""Asks a board for its facts, which runner/board/facts.py prints there."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from edgevit.deploy.connection import Connection
from edgevit.deploy.messages import Bytes, Name, Text
from edgevit.deploy.words import all_plain, plain
from edgevit.errors import DeviceError
from edgevit.runner.engines import all_engines

_Version = Annotated[str, Meta(pattern=r"^[0-9]{1,5}(\.[0-9]{1,9}){0,5}\Z")]
_Number = Annotated[str, Meta(pattern=r"^[0-9]{1,4}\Z")]


class _System(Struct, frozen=True):
    name: Name | None
    kernel: Name | None
    machine: Name
    desktop: bool


class _Python(Struct, frozen=True):
    """The interpreter; the modules are more fields, see `_python_kind`."""

    version: Annotated[str, Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}[0-9A-Za-z.+]{0,40}\Z")]
    executable: Name | None
    problems: dict[Name, Text]


_MODULES = ("numpy", "cuda", "pycuda", "torch")
"""Modules that a board says the versions of, besides those of the engines."""


class _TensorRT(Struct, frozen=True):
    version: Name | None


class _Clock(Struct, frozen=True):
    min: Bytes | None
    max: Bytes | None
    cur: Bytes | None


class _Graphics(Struct, frozen=True):
    name: Name | None
    compute_capability: Annotated[str, Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}\Z")] | None
    driver: Name | None
    memory_bytes: Bytes | None
    clock_hz: _Clock | None
    clocks_locked: bool | None


class _Memory(Struct, frozen=True):
    total: Bytes | None
    available: Bytes | None
    swap_free: Bytes | None


class _Disk(Struct, frozen=True):
    path: Name
    total: Bytes
    free: Bytes


class PowerMode(Struct, frozen=True):
    """nvpmodel's mode, and all modes by number."""

    id: _Number | None
    name: Name | None
    modes: dict[_Number, Name]


class FactsMessage(Struct, frozen=True, tag_field="schema_version", tag=1):
    """A board's facts, as `edgevit.runner.board.facts.board_facts` returns them."""

    kind: Name
    model: Name | None
    module: Name | None
    soc: Name | None
    target: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,40}\Z")] | None
    l4t: _Version | None
    jetpack: Name | None
    system: _System
    python: dict[str, Any]
    tensorrt: _TensorRT
    cuda: Name | None
    gpu: _Graphics
    memory_bytes: _Memory
    disk_bytes: _Disk
    power_mode: PowerMode | None
    rails: list[Name]


def _engine_modules() -> list[str]:
    return [engine.module for engine in all_engines().values()]


def _python_kind() -> Any:
    """Return the schema of what a board says of its Python: a version or null for each module."""
    modules = dict.fromkeys((*_MODULES, *_engine_modules()), Name | None)
    return msgspec.defstruct("Python", list(modules.items()), bases=(_Python,), frozen=True)


def facts_through(connection: Connection, *arguments: str) -> dict[str, Any]:
    """Return the facts of a board; nothing is written there.

    Args:
        connection: To the board.
        arguments: Of the script, such as ``--disk``.

    Raises:
        DeviceError: Its Python does not run the script (EV816), or its answer is no facts (EV782).
    """
    modules = [f"--module={name}" for name in _engine_modules()]
    script = (resources.files("edgevit.runner.board") / "facts.py").read_text(encoding="utf-8")
    return facts_from_output(connection.run_script(script, *arguments, *modules), connection.device)


def facts_from_output(output: str, device: str) -> dict[str, Any]:
    """Return the facts in what the script printed; a login script may have printed before it.

    Raises:
        DeviceError: There are none (EV782).
    """
    wrong = ""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                facts = msgspec.to_builtins(msgspec.json.decode(line, type=FactsMessage))
                python = msgspec.convert(facts["python"], type=_python_kind())
                return dict(all_plain({**facts, "python": msgspec.to_builtins(python)}))
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                wrong = wrong or plain(f" {error}", 500)
    raise DeviceError(
        "EV782",
        "The board did not give its facts.",
        where=device,
        why=wrong or f"It answered: {plain(output, 300) or 'nothing'}",
        try_next=f"Try: ssh {device} python3 -c 'print(1)'",
    )
