"""The protocol of an engine: one value that says what it runs, whether it is here, how it opens.

Each module of `edgevit.runner.engines` with an `ENGINE` of this kind is one; nothing else has to
know of it. Boards get this file: it needs Python 3.8 alone, and so does every such module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Mapping, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

    from edgevit.bundle import Bundle
    from edgevit.errors import EnvironmentError_
    from edgevit.runner.board.finding import Finding
    from edgevit.runner.measure.accuracy import Batch, Normalize
    from edgevit.runner.measure.conditions import Conditions, Progress

    Batches = Callable[[], Iterable[Batch]]


class Session(Protocol):
    """An engine with a model in it.

    Args:
        engine: Its name and version, such as "onnxruntime 1.20.1".
        provider: What it runs on.
        threads: Of the processor; None where it has no use for them or they can't be counted.
    """

    engine: str
    provider: str
    threads: int | None

    def run(self, images: npt.NDArray[np.float32], /) -> npt.NDArray[np.float32]:
        """Return the main output for float32 [B, 3, H, W]: of classifiers [B, classes]."""

    def run_all(self, images: npt.NDArray[np.float32], /) -> dict[str, npt.NDArray[np.float32]]:
        """Return every output by name, float32 [B, ...], the main one first."""


@dataclass(frozen=True)
class OpenedBundle:
    """Engines that are ready to be measured.

    Args:
        sessions: "engine", and "fp32" where the bundle has a reference; each is a `Session`.
        golden: Golden images with the simulated outputs of the variant that "engine" is.
        variant: Which one that is.
        build: The decision among the variants, its rows, and what the engine made of each layer;
            None where there was no choice.
        clock: As in `Engine`, where it is another one this time.
        warnings: What the report has to say of how they were opened.
    """

    sessions: dict[str, Any]
    golden: Mapping[str, npt.NDArray[Any]]
    variant: str
    build: Mapping[str, Any] | None = None
    clock: str | None = None
    warnings: tuple[str, ...] = ()


class Open(Protocol):
    """Opens a bundle's engines for measuring."""

    def __call__(
        self,
        bundle: Bundle,
        conditions: Conditions,
        batches: Batches,
        normalize: Normalize,
        progress: Progress,
        *,
        stands_in: bool,
    ) -> OpenedBundle:
        """Return the quantized engine, and the fp32 one where the bundle has a reference.

        Args:
            bundle: An opened bundle.
            conditions: How it is measured.
            batches: Returns the labelled images anew each time, for engines that choose by them.
            normalize: Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W].
            progress: Called with (stage, done, total).
            stands_in: The bundle was made for another engine.

        Raises:
            EdgeViTError: What the engine raises.
        """


class OpenOne(Protocol):
    """Opens one engine of a bundle by itself."""

    def __call__(
        self, bundle: Bundle, kind: Any, *, threads: int | None, provider: str | None
    ) -> Session:
        """Return the session of a kind, "engine" or "fp32"."""


@dataclass(frozen=True)
class Engine:
    """An engine that runs bundles; a manifest's ``engine.name`` names the one it is made for.

    Args:
        name: As in manifests and after ``--engine``.
        title: Its name for people.
        module: The Python module that has to be importable where it runs.
        available: Returns what is wrong with it on this machine, None if it works.
        open: Opens a bundle's engines for measuring.
        session: Opens one of them in a fresh process, whose peak memory is then measured; None
            where that would say nothing.
        clock: The processor it runs on, "cpu" or "gpu": its clock has to hold during latency runs.
        usual: Whether devices of that processor need it, unless their bundles say another.
        oldest: Oldest release that will do, such as "10.3"; empty for any.
        unfit_code: Code of `available` that means: it is here and will not do.
        settings: What a bundle may ask of it: key of the manifest's ``engine`` -> the values it
            may have, or a table of keys and such values. Anything else is refused.
        asks: What a bundle asks of it unless its target says otherwise.
        stand_in: Name of the engine that may run its bundles where it is missing; empty for none.
        lost: What the logits of that one lack, after "as".
        example_target: A target whose bundles it runs, for messages.
        built_per_byte: Bytes it keeps on a device for each byte of the model, beside the bundle.
        ahead: Whether it compiles engines for devices that are not there, so that it is of use
            where none is.
        wheel: What pip installs; the module's name if left out.
        package: The Debian package that brings the module on a Jetson.
        mend: What to do on a board that lacks it; pip if left out.
        findings: Returns what a doctor says of it, given a machine's facts
            (`edgevit.runner.board.facts`); whether its module is there if left out.
    """

    name: str
    title: str
    module: str
    available: Callable[[], EnvironmentError_ | None]
    open: Open
    session: OpenOne | None = None
    clock: str = "cpu"
    usual: bool = False
    oldest: str = ""
    unfit_code: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    asks: Mapping[str, Any] = field(default_factory=dict)
    stand_in: str = ""
    lost: str = ""
    example_target: str = ""
    built_per_byte: int = 0
    ahead: bool = False
    wheel: str = ""
    package: str = ""
    mend: str = ""
    findings: Callable[[Mapping[str, Any]], list[Finding]] | None = None

    def table(self, session_config: Mapping[str, str]) -> dict[str, Any]:
        """Return what the manifest of a bundle for it says of it."""
        asked = {"session_config": dict(session_config)} if session_config else {}
        return {**self.asks, "name": self.name, **asked}
