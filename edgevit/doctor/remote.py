"""Fetches the facts of a board over the user's own SSH."""

from __future__ import annotations

from typing import Any

from edgevit.errors import DeviceError


def facts_over_ssh(device: str, python: str = "python3") -> dict[str, Any]:
    """Return the facts of a board; nothing is written there.

    Args:
        device: ``user@host`` or an alias of the user's SSH configuration.
        python: The board's Python.

    Raises:
        EdgeViTError: The board can't be reached (EV810 to EV816, EV839).
        DeviceError: Its answer is no facts (EV782).
    """
    from edgevit.deploy.call import ConnectionLost
    from edgevit.deploy.connection import Connection
    from edgevit.deploy.facts import facts_through

    with Connection(device, python=python) as connection:
        try:
            return facts_through(connection)
        except ConnectionLost as error:
            raise DeviceError(
                "EV815",
                "The connection to the board was lost.",
                where=device,
                why=str(error),
                try_next="Run the same command again when the board can be reached.",
            ) from error
