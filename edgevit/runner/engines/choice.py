"""Chooses the engine that runs a bundle on this machine.

A bundle for a TensorRT target is run by TensorRT. Where that is missing, ONNX Runtime may stand in
for it on the CPU, graph unchanged: its logits then differ from the simulation's about as much as
those differ from fp32's (docs/tensorrt.md), no latency of the device is measured, and the report
says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.bundle.engine_settings import ENGINES as BUNDLE_ENGINES
from edgevit.errors import EnvironmentError_, UnsupportedError, UsageError
from edgevit.runner.engines.onnxruntime.session import EngineSession, session_from_bundle

if TYPE_CHECKING:
    from typing import Literal

    from edgevit.bundle import Bundle

ENGINES = ("auto", *BUNDLE_ENGINES)
_CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class EngineChoice:
    """The engine that runs a bundle here.

    Args:
        name: "onnxruntime" or "tensorrt".
        stands_in: Whether it only stands in for the engine the bundle was made for.
        warnings: What the report has to say about the choice.
    """

    name: str
    stands_in: bool = False
    warnings: tuple[str, ...] = ()


def target_name(manifest: Any) -> str:
    """Return the name of the target in a bundle's manifest."""
    target = manifest["target"]
    return target if isinstance(target, str) else str(target.get("name", ""))


def is_for_tensorrt(target: str) -> bool:
    """Return whether bundles for a target are made for TensorRT."""
    return target.startswith(("tensorrt", "jetson-"))


def check_asked(target: str, asked: str) -> None:
    """Refuse an engine that can't run bundles of a target on any machine.

    Raises:
        UsageError: There is no such engine (EV823).
        UnsupportedError: TensorRT is asked for and the bundle is not made for it (EV826).
    """
    if asked not in ENGINES:
        raise UsageError(
            "EV823",
            f"There is no engine {asked!r}.",
            where="--engine",
            try_next=f"One of {', '.join(ENGINES)}.",
        )
    if asked == "tensorrt" and not is_for_tensorrt(target):
        raise UnsupportedError(
            "EV826",
            "The bundle is not made for TensorRT.",
            where="--engine tensorrt",
            why=f"Its target is {target}; TensorRT could not run its operators exactly.",
            try_next="Quantize with --target jetson-orin-nano or another TensorRT target.",
        )


def choose_engine(target: str, asked: str = "auto") -> EngineChoice:
    """Choose the engine for bundles of a target on this machine.

    Args:
        target: The target's name.
        asked: One of `ENGINES`.

    Raises:
        EdgeViTError: As `check_asked`.
        EnvironmentError_: TensorRT is asked for and not here (EV842).
    """
    check_asked(target, asked)
    wanted = is_for_tensorrt(target)
    if not wanted or asked == "onnxruntime":
        return _stand_in("it was asked for") if wanted else EngineChoice(name="onnxruntime")
    missing = _why_no_tensorrt()
    if missing is None:
        return EngineChoice(name="tensorrt")
    if asked == "tensorrt":
        raise EnvironmentError_(
            "EV842",
            "TensorRT can't run here.",
            where="--engine tensorrt",
            why=f"{missing.what} {missing.why}",
            try_next=missing.try_next,
        )
    too_old = missing.code == "EV751"
    return _stand_in(missing.what.rstrip(".") if too_old else "there is no TensorRT")


def onnxruntime_session(
    bundle: Bundle,
    kind: Literal["engine", "fp32"],
    choice: EngineChoice,
    *,
    threads: int | None = None,
    provider: str | None = None,
) -> EngineSession:
    """Open a bundle's quantized engine or its fp32 reference in ONNX Runtime.

    A graph for TensorRT runs there without optimizations, as its manifest says.

    Raises:
        UnsupportedError: It stands in for TensorRT and another provider is asked for (EV828).
        EdgeViTError: The engine is missing or refuses the model.
    """
    if choice.stands_in and provider not in (None, _CPU):
        raise UnsupportedError(
            "EV828",
            "ONNX Runtime stands in for TensorRT on the CPU only.",
            where=f"--provider {provider}",
            why="Other providers rewrite the graph, and no longer compute what was simulated.",
            try_next="Leave --provider out.",
        )
    return session_from_bundle(
        bundle, kind, threads=threads, provider=_CPU if choice.stands_in else provider
    )


def _stand_in(reason: str) -> EngineChoice:
    return EngineChoice(
        name="onnxruntime",
        stands_in=True,
        warnings=(
            f"ONNX Runtime on the CPU stands in for TensorRT ({reason}): "
            "no latency of the device was measured, and logits are not quite the simulation's, "
            "as roundings to float16 that the graph asks for are dropped",
        ),
    )


def _why_no_tensorrt() -> EnvironmentError_ | None:
    """Return what is wrong with TensorRT's Python module here, None if it works.

    trtexec alone is not enough: each of its runs loads the engine anew, which would be timed too.
    """
    from edgevit.runner.engines.tensorrt.bindings import load_tensorrt

    try:
        load_tensorrt()
    except EnvironmentError_ as error:
        return error
    return None
