"""Chooses the engine that runs a bundle on this machine.

A bundle is run by the engine that its manifest names. Where that is missing, another may stand in
for it if the engine says so, graph unchanged: its logits then differ from the simulation's (for
TensorRT about as much as those differ from fp32's, docs/tensorrt.md), no latency of the device is
measured, and the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping

from edgevit.errors import EnvironmentError_, UnsupportedError
from edgevit.runner.engines import all_engines, engine_named, engine_of, target_name

if TYPE_CHECKING:
    from edgevit.runner.engines.base import Engine

AUTO = "auto"


@dataclass(frozen=True)
class EngineChoice:
    """The engine that runs a bundle here.

    Args:
        name: Of the engine.
        stands_in: Whether it only stands in for the engine the bundle was made for.
        warnings: What the report has to say about the choice.
    """

    name: str
    stands_in: bool = False
    warnings: tuple[str, ...] = ()


def engine_choices() -> tuple[str, ...]:
    """Return what may be asked for: "auto" or an engine's name."""
    return (AUTO, *all_engines())


def check_asked(manifest: Mapping[str, Any], asked: str) -> None:
    """Refuse an engine that can't run a bundle on any machine.

    Args:
        manifest: Of an opened bundle.
        asked: One of `engine_choices`.

    Raises:
        BundleError: The bundle asks its engine for something foreign (EV417).
        UsageError: There is no such engine (EV823).
        UnsupportedError: It can't run what is made for another one (EV826).
    """
    own = engine_of(manifest)
    if asked == AUTO:
        return
    wanted = engine_named(asked)
    if asked not in (own.name, own.stand_in):
        raise UnsupportedError(
            "EV826",
            f"The bundle is not made for {wanted.title}.",
            where=f"--engine {asked}",
            why=f"Its target is {target_name(manifest)}; {wanted.title} could not run its "
            "operators exactly.",
            try_next=f"Quantize with --target {wanted.example_target} or another "
            f"{wanted.title} target.",
        )


def choose_engine(manifest: Mapping[str, Any], asked: str = AUTO) -> EngineChoice:
    """Choose the engine for a bundle on this machine.

    Args:
        manifest: Of an opened bundle.
        asked: One of `engine_choices`.

    Raises:
        EdgeViTError: As `check_asked`.
        EnvironmentError_: The bundle's engine is not here, and none may stand in for it (its own
            code) or it was asked for by name (EV842).
    """
    check_asked(manifest, asked)
    own = engine_of(manifest)
    if asked not in (AUTO, own.name):
        return _stand_in(own, "it was asked for")
    missing = own.available()
    if missing is None:
        return EngineChoice(name=own.name)
    if not own.stand_in:
        raise missing
    if asked == own.name:
        raise EnvironmentError_(
            "EV842",
            f"{own.title} can't run here.",
            where=f"--engine {own.name}",
            why=f"{missing.what} {missing.why}",
            try_next=missing.try_next,
        )
    unfit = missing.code == own.unfit_code
    return _stand_in(own, missing.what.rstrip(".") if unfit else f"there is no {own.title}")


def _stand_in(own: Engine, reason: str) -> EngineChoice:
    lost = f", as {own.lost}" if own.lost else ""
    return EngineChoice(
        name=own.stand_in,
        stands_in=True,
        warnings=(
            f"{engine_named(own.stand_in).title} on the CPU stands in for {own.title} ({reason}): "
            "no latency of the device was measured, and logits are not quite the simulation's"
            f"{lost}",
        ),
    )
