"""Shows the doctor's findings: one line each, and below it the command that mends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgevit.report.cells import plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def doctor_list(found: Mapping[str, Any]) -> RenderableType:
    """Return the list of a report made by `edgevit.verbs.doctor.examine`.

    Commands stand on a line of their own and are never broken, so that they can be copied; one that
    mends several things is shown with the first of them.
    """
    from rich.console import Group

    width = max(len(check["name"]) for check in found["checks"])
    lines: list[Text] = []
    first: dict[str, str] = {}
    for check in found["checks"]:
        line = plain_text(f"{check['status']:<7}", _STYLES[check["status"]])
        said = f"  {check['name']:<{width}}  {check['found']}"
        lines.append(line.append_text(plain_text(said, "default not bold")))
        if check["mend"]:
            known = first.setdefault(check["mend"], check["name"])
            mend = f"$ {check['mend']}" if known == check["name"] else f"as for {known}"
            lines.append(plain_text(f"{'':<9}{'':<{width}}  {mend}"))
    counts = ", ".join(f"{count} {status}" for status, count in found["counts"].items())
    return Group(*lines, plain_text(f"{found['device'] or 'this machine'}: {counts}"))
