"""An option whose help and shell completion name what it takes, looked up only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem


class NamedOption(click.Option):
    """An option that takes one of some names.

    Args:
        names: ``module:function`` that returns them.
        options: As in `click.Option`.
    """

    def __init__(self, *declarations: Any, names: str, **options: Any) -> None:
        super().__init__(*declarations, **options)
        self._names = names

    def names(self) -> tuple[str, ...]:
        """Return the names it takes."""
        module, _, function = self._names.partition(":")
        found: Callable[[], tuple[str, ...]] = getattr(import_module(module), function)
        return found()

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return its line of the help, the names behind it."""
        record = super().get_help_record(ctx)
        return None if record is None else (record[0], f"{record[1]} {', '.join(self.names())}.")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin with what was typed."""
        return [CompletionItem(name) for name in self.names() if name.startswith(incomplete)]
