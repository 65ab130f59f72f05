"""What all verbs of the command line share: the console, shown errors, written files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevit.errors import EdgeViTError, EnvironmentError_

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Return the console on standard error, where tables and progress go."""
    from rich.console import Console

    return Console(stderr=True)


def show_error(error: EdgeViTError) -> None:
    """Print the parts of an error."""
    from rich.text import Text

    screen = console()
    screen.print(Text(f"error {error.code}: {error.what}", style="bold red"), soft_wrap=True)
    for name, text in error.parts().items():
        if name != "what":
            screen.print(Text(f"  {name}: {text}"), soft_wrap=True)


def write_json(path: str | None, content: dict[str, Any]) -> None:
    """Write JSON to a file, or to standard output for ``-``.

    Raises:
        EnvironmentError_: The file can't be written (EV206).
    """
    if path is None:
        return
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path == "-":
        click.echo(text, nl=False)
        return
    replace_file(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name and rename it, so that it is whole or not there."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EnvironmentError_(
            "EV206",
            "A file can't be written.",
            where=str(path),
            why=str(error),
            try_next="Choose a folder that exists and has room.",
        ) from error
