"""The console, shown errors and written files, which all verbs of the command line share."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from edgevit.errors import EdgeViTError, EnvironmentError_, UsageError
from edgevit.report.escaping import escape

if TYPE_CHECKING:
    from rich.console import Console

_Handler = Callable[[int, FrameType | None], None]
_LEAST_FREE_BYTES = 1 << 20
TERMINATED = 128 + signal.SIGTERM
"""Exit status of a program that was asked to end, 143: what a shell would report."""


@contextmanager
def end_in_order() -> Iterator[None]:
    """Let SIGTERM end the work inside as Ctrl-C does: what was begun is cleared away, exit 143.

    Further SIGTERMs do not disturb the clearing. A SIGTERM that somebody else handles or ignores,
    and threads other than the main one, are left alone. Both stay what they are where a library
    that they met while it was imported makes an ImportError of them.

    Raises:
        SystemExit, KeyboardInterrupt: After such a signal, whatever became of the exception.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[BaseException] = []

    def end(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        asked.append(SystemExit(TERMINATED))
        raise asked[-1]

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        asked.append(KeyboardInterrupt())
        raise asked[-1]

    replaced = [
        _handle(signal.SIGTERM, signal.SIG_DFL, end),
        _handle(signal.SIGINT, signal.default_int_handler, interrupt),
    ]
    try:
        try:
            yield
        except Exception as error:
            if asked:
                raise asked[-1] from error
            raise
        if asked:  # somebody caught it
            raise asked[-1]
    except SystemExit as stop:
        if stop.code == TERMINATED:
            say("Terminated.")
        raise
    finally:
        for put_back in replaced:
            put_back()


def _handle(number: signal.Signals, usual: object, handler: _Handler) -> Callable[[], object]:
    """Handle a signal that has its usual handler; return what puts that one back."""
    if signal.getsignal(number) is not usual:
        return lambda: None
    before = signal.signal(number, handler)
    return lambda: signal.signal(number, before)


def console() -> Console:
    """Return the console on standard error, where tables and progress go.

    Whatever is printed there, foreign control characters are shown as escapes.
    """
    from edgevit.report.plain import PlainConsole

    return PlainConsole(stderr=True)


def say(text: str, *, err: bool = True) -> None:
    """Print lines of our own, on standard error, with whatever is foreign in them escaped."""
    click.echo(escape(text, keep="\n"), err=err)


def say_written(output: str) -> None:
    """Say what was written, in one line that is never broken."""
    say(f"wrote {escape(output)}")


def show_error(error: EdgeViTError) -> None:
    """Print the parts of an error, each on a line of its own."""
    from edgevit.report.cells import plain_text

    screen = console()
    screen.print(plain_text(f"error {error.code}: {error.what}", "bold red"), soft_wrap=True)
    for name, text in error.parts().items():
        if name != "what":
            screen.print(plain_text(f"  {name}: {text}"), soft_wrap=True)


@contextmanager
def show_warnings() -> Iterator[None]:
    """Show warnings of Python and its libraries inside escaped: they may quote a file's names."""
    before = warnings.formatwarning

    def plain(*arguments: Any, **keywords: Any) -> str:
        return escape(before(*arguments, **keywords), keep="\n")

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = before


def show_click_error(error: click.ClickException) -> None:
    """Print what click says of a command line; it repeats words of it."""
    text = io.StringIO()
    error.show(file=text)
    say(text.getvalue().rstrip("\n"))


def write_json(path: str | None, content: dict[str, Any]) -> None:
    """Write JSON to a file, or to standard output for ``-``.

    Raises:
        EnvironmentError_: The file can't be written (EV206).
    """
    if path is None:
        return
    plain = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    text = escape(plain, keep="\n") + "\n"  # inside of JSON's strings, where alone they can be
    if path == "-":
        click.echo(text, nl=False)
        return
    replace_file(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def check_writable(*paths: str | None) -> None:
    """Refuse files that can't be written before the work starts instead of after it.

    Args:
        paths: Files to write later; None and ``-`` are fine.

    Raises:
        UsageError: A name is empty (EV223).
        EnvironmentError_: A folder is missing or closed (EV206).
    """
    for path in paths:
        if path is None or path == "-":
            continue
        check_named(path)
        with _refuse_for_the_system("EV206", path, "A file can't be written."):
            target = _resolve_output(Path(path))
            is_device = _is_device(target)
            needed = target if is_device else target.parent
            if target.is_dir() or not needed.exists() or not os.access(needed, os.W_OK):
                raise OSError(
                    "It is a folder itself, or its folder does not exist or is closed to you."
                )
            if not is_device:
                _check_room(target)


@contextmanager
def _refuse_for_the_system(code: str, path: str, what: str) -> Iterator[None]:
    """Turn what the system says of a path into an error."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise EnvironmentError_(
            code,
            what,
            where=path,
            why=getattr(error, "strerror", None) or str(error),
            try_next="Choose a place that exists, is not full, and that you may write to.",
        ) from error


def _check_room(target: Path) -> None:
    """Raise OSError where a name is too long for being written whole, or the disk is full.

    What is written has a longer name until it is finished, such as ``.NAME.0123abcd.partial``.
    """
    with suppress(FileNotFoundError):
        os.lstat(target.with_name(f".{target.name}.0123abcd.partial"))
    if shutil.disk_usage(target.parent).free < _LEAST_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_named(path: str) -> None:
    """Refuse an empty name, which would mean the current folder, and one with a zero byte.

    Raises:
        UsageError: It is no name (EV223).
    """
    if not path.strip() or "\0" in path:
        raise UsageError(
            "EV223",
            "The output has no name that can be written to.",
            where=f"{path!r}, as an option such as --output or --json got it",
            why="A name can have no zero byte."
            if path.strip()
            else "The name is empty; a variable in the command may not be set.",
            try_next="Name it, as in --output my_bundle.",
        )


def check_new_folder(path: Path) -> None:
    """Refuse a folder that can't be made, before the work starts.

    Raises:
        EnvironmentError_: Something above it is a file, or closed (EV230).
    """
    with _refuse_for_the_system("EV230", str(path), "A folder can't be made."):
        above = path.absolute().parent
        while not above.exists() and above != above.parent:
            above = above.parent
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise OSError(f"{above} is a file or closed to you.")
        _check_room(above / path.name)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name and rename it, so that it is whole or not there.

    A link keeps pointing where it did, and a device or a pipe (/dev/null) is written to: putting
    a file in its place would take it away from everybody else.
    """
    target = _resolve_output(path)
    try:
        if _is_device(target):
            write(target)
        else:
            _write_and_rename(target, write)
    except OSError as error:
        raise EnvironmentError_(
            "EV206",
            "A file can't be written.",
            where=str(path),
            why=str(error),
            try_next="Choose a folder that exists and has room.",
        ) from error


def _write_and_rename(target: Path, write: Callable[[Path], object]) -> None:
    from edgevit.bundle.leftovers import clear_leftovers, find, fresh_file

    clear_leftovers(find(target.parent, target.name))  # what a killed process left of the same file
    with fresh_file(target) as temporary:
        write(temporary)
        temporary.replace(target)


def _resolve_output(path: Path) -> Path:
    """Return the path a file is written to: where a link points, except for open files."""
    is_open_file = str(path.absolute()).startswith(("/dev/fd/", "/proc/"))
    return path.absolute() if is_open_file else Path(os.path.realpath(path))


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()
