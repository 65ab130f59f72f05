"""Every error a user can meet, each with a stable code, an exit status and a way out.

The command line prints the four parts of an error and exits with its class's status::

    EdgeViTError             1   anything not listed below
    ├── UsageError           2   an argument that can't be right (bits, names, paths)
    ├── EnvironmentError_    3   something this machine lacks (a package, network, disk)
    ├── UnsupportedError     4   a model, grid or operator the target can't run exactly
    ├── AccuracyGateError    5   measured accuracy drop is above --max-drop
    ├── LatencyGateError     6   measured latency is above --max-latency-ms
    ├── DeviceError          7   the engine or its device failed or is not the one asked for
    ├── UndecidedError       8   too few images to decide --max-drop either way
    ├── DataError            9   images or labels that are missing, damaged or don't fit
    └── BundleError         10   a bundle that is damaged, incomplete, unsafe or too new
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class EdgeViTError(Exception):
    """Root of all errors raised on purpose by EdgeViT.

    Args:
        code: Stable identifier such as ``"EV201"``, for searching and for scripts.
        what: One sentence: what went wrong.
        where: The argument, file, layer or tensor concerned.
        why: The cause as far as it is known.
        try_next: What the user can do now.
    """

    exit_status = 1

    def __init__(
        self, code: str, what: str, *, where: str = "", why: str = "", try_next: str = ""
    ) -> None:
        super().__init__(code, what, where, why, try_next)
        self.code, self.what, self.where = code, what, where
        self.why, self.try_next = why, try_next

    def parts(self) -> dict[str, str]:
        """Return the non-empty parts in the order in which they are shown."""
        named = {"what": self.what, "where": self.where, "why": self.why, "try": self.try_next}
        return {key: value for key, value in named.items() if value}

    def __str__(self) -> str:
        lines = [f"{key}: {value}" for key, value in self.parts().items() if key != "what"]
        return "\n  ".join([f"[{self.code}] {self.what}", *lines])


class UsageError(EdgeViTError):
    """An argument that can't be right."""

    exit_status = 2


class EnvironmentError_(EdgeViTError):  # the builtin name is taken
    """Something this machine lacks: a package, network access, disk space."""

    exit_status = 3


class UnsupportedError(EdgeViTError):
    """A model, grid or operator that the target can't run exactly."""

    exit_status = 4


class AccuracyGateError(EdgeViTError):
    """The measured accuracy drop is above the limit asked for."""

    exit_status = 5


class LatencyGateError(EdgeViTError):
    """The measured latency is above the limit asked for."""

    exit_status = 6


class DeviceError(EdgeViTError):
    """The engine failed, or its device is not the one asked for."""

    exit_status = 7


class UndecidedError(EdgeViTError):
    """Too few images to decide whether the accuracy limit holds."""

    exit_status = 8


class DataError(EdgeViTError):
    """Images or labels that are missing, damaged or don't fit the model."""

    exit_status = 9


class BundleError(EdgeViTError):
    """A bundle that is damaged, incomplete, unsafe or newer than this version."""

    exit_status = 10


def check_together(checks: Iterable[Callable[[], object]]) -> None:
    """Run every check, and report all that is wrong at once.

    Raises:
        EdgeViTError: The one error there is; or, with the first one's exit status, EV187, which
            lists all of them with their ways out.
    """
    found: list[EdgeViTError] = []
    for check in checks:
        try:
            check()
        except EdgeViTError as error:
            if str(error) not in map(str, found):
                found.append(error)
    if found:
        raise found[0] if len(found) == 1 else _together(found)


def _together(errors: list[EdgeViTError]) -> EdgeViTError:
    """Return one error of the first one's class that says what all of them say."""

    def numbered(texts: list[str]) -> str:
        return " ".join(f"({number}) {text}" for number, text in enumerate(texts, 1) if text)

    return type(errors[0])(
        "EV187",
        f"{len(errors)} things are wrong.",
        where=numbered([error.where for error in errors]),
        why=numbered([f"{error.code}: {error.what} {error.why}".strip() for error in errors]),
        try_next=numbered([error.try_next for error in errors]),
    )
