"""What a board says of itself: the facts that runner/board_facts.py prints there."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from edgevit.deploy.connection import Connection
from edgevit.errors import DeviceError


def facts_through(connection: Connection, *arguments: str) -> dict[str, Any]:
    """Return the facts of a board; nothing is written there.

    Args:
        connection: To the board.
        arguments: Of the script, such as ``--disk``.

    Raises:
        DeviceError: Its Python does not run the script (EV816), or its answer is no facts (EV782).
    """
    script = (resources.files("edgevit.runner") / "board_facts.py").read_text(encoding="utf-8")
    return facts_from_output(connection.run_script(script, *arguments), connection.device)


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
