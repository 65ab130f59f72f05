"""Finds NVIDIA's `tensorrt` module, refuses versions that lack what is used here, keeps its log.

Every attribute of the module that this package touches exists in TensorRT 10.3, 10.13 and 11.4
(tests/runner/engines/tensorrt/test_api_of_versions.py asks the real bindings). Enum values are
always taken by name: several of their integers moved between 10 and 11.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from edgevit.errors import EnvironmentError_

OLDEST = (10, 3)
"""First version with strongly typed networks, INT8 and FP8 weights and float16 scales together."""
_KEPT_MESSAGES = 200


class MessageLog:
    """TensorRT's own errors and warnings, the newest kept.

    Args:
        on_message: Called with (severity, text) for every message; severity is one of
            "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE".
    """

    def __init__(self, on_message: Callable[[str, str], None] | None = None) -> None:
        self._on_message = on_message
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def add(self, severity: str, text: str) -> None:
        """Keep one message."""
        if severity in ("INTERNAL_ERROR", "ERROR"):
            self.errors = [*self.errors, text][-_KEPT_MESSAGES:]
        elif severity == "WARNING":
            self.warnings = [*self.warnings, text][-_KEPT_MESSAGES:]
        if self._on_message is not None:
            self._on_message(severity, text)

    def reason(self, otherwise: str) -> str:
        """Return the last errors as one text, or `otherwise` when there were none."""
        return "\n".join(self.errors[-3:])[:2000] or otherwise


def load_tensorrt() -> Any:
    """Return the module `tensorrt`.

    Raises:
        EnvironmentError_: It can't be imported (EV750), tells no version (EV759) or is
            older than 10.3 (EV751).
    """
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: its libraries are missing or don't fit
        raise _not_loaded(str(error)[:500]) from error
    version = getattr(tensorrt, "__version__", None)
    if version is None:  # Python takes any folder of that name for a package
        raise _not_loaded(f"The package found is no TensorRT: {list(tensorrt.__path__)}")
    check_version(version_from_text(version))
    return tensorrt


def _not_loaded(why: str) -> EnvironmentError_:
    return EnvironmentError_(
        "EV750",
        "TensorRT's Python module can't be loaded.",
        where="import tensorrt",
        why=why,
        try_next="On a Jetson: sudo apt install python3-libnvinfer, and use the system's Python"
        " (or a venv made with --system-site-packages). On a desktop: pip install tensorrt.",
    )


def version_from_text(text: str) -> tuple[int, int, int]:
    """Return (major, minor, patch) of texts such as "10.3.0.26".

    Raises:
        EnvironmentError_: There are no three numbers in it (EV759).
    """
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    if found is None:
        raise EnvironmentError_(
            "EV759",
            "TensorRT's version can't be read.",
            where=text[:80],
            why="It does not begin with three numbers, such as 10.3.0.",
            try_next="Install TensorRT 10.3 or newer.",
        )
    major, minor, patch = (int(number) for number in found.groups())
    return major, minor, patch


def check_version(version: tuple[int, int, int]) -> None:
    """Refuse versions older than `OLDEST`.

    Raises:
        EnvironmentError_: EV751.
    """
    if version[:2] < OLDEST:
        raise EnvironmentError_(
            "EV751",
            f"TensorRT {version_text(version)} is too old.",
            why="Float16 networks with explicit INT8 need strongly typed networks as of 10.3.",
            try_next="Jetson Orin: JetPack 6.1 or newer has 10.3. Desktop: pip install tensorrt.",
        )


def version_text(version: tuple[int, int, int]) -> str:
    """Return "10.3.0" for (10, 3, 0)."""
    return ".".join(str(number) for number in version)


def logger_for(trt: Any, log: MessageLog) -> Any:
    """Return a TensorRT logger that writes into `log`; keep it as long as anything made with it."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Hands messages over."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            """Called by TensorRT, possibly from its own threads."""
            log.add(severity.name, msg)

    return Logger()
