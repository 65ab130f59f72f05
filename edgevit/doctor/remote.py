"""Fetches the facts of a board over the user's own SSH."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from edgevit.errors import DeviceError


def facts_over_ssh(device: str, python: str = "python3") -> dict[str, Any]:
    """Return the facts of a board; nothing is written there.

    Args:
        device: ``user@host`` or an alias of the user's SSH configuration.
        python: The board's Python.

    Raises:
        EdgeViTError: The board can't be reached (EV810 to EV816).
        DeviceError: Its answer is no facts (EV782).
    """
    from edgevit.deploy.connection import Connection

    script = (resources.files("edgevit.runner") / "board_facts.py").read_text(encoding="utf-8")
    with Connection(device, python=python) as connection:
        return facts_from_output(connection.run_script(script), device)


def facts_from_output(output: str, device: str) -> dict[str, Any]:
    """Return the facts in what the script printed; a login script may have printed before it.

    Raises:
        DeviceError: There are none (EV782).
    """
    for line in reversed(output.splitlines()):
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        if isinstance(facts, dict) and facts.get("schema_version") == 1:
            return facts
    raise DeviceError(
        "EV782",
        "The board did not say what it is.",
        where=device,
        why=f"It answered: {output.strip()[-300:] or 'nothing'}",
        try_next=f"Try: ssh {device} python3 -c 'print(1)'",
    )
