"""Measures where the time of a bundle's engine and of fp32 goes, with ONNX Runtime's own profile.

Both run in turns in one process, each with the profile and without it, so that what the profile
itself costs is known and stated. The profile is a file, which is read and removed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Mapping, Sequence

import numpy as np

from edgevit.errors import DeviceError
from edgevit.runner.engines.onnxruntime.session import session_from_bundle, variant_here
from edgevit.runner.measure.blocks import kernel_blocks
from edgevit.runner.measure.explanation import Form, Part, form_of
from edgevit.runner.measure.latency import LatencySamples, measure_alternating
from edgevit.runner.measure.reason import Reason, costliest
from edgevit.scratch import scratch_folder

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgevit.bundle import Bundle

_ENDING = "_kernel_time"
_INTEGER, _FLOAT = "integer product", "float product"
_QUANTIZE, _OTHER = "(de)quantize", "other"
_KINDS = {
    _INTEGER: ("MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "ConvInteger",
               "QLinearConv", "DynamicQuantizeMatMul"),
    _FLOAT: ("MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm", "FusedConv"),
    _QUANTIZE: ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    "LayerNorm": ("LayerNormalization", "SkipLayerNormalization"),
    "softmax": ("Softmax", "QLinearSoftmax"),
    "GELU": ("Gelu", "BiasGelu", "FastGelu", "QuickGelu", "Erf"),
    "moving": ("Reshape", "Transpose", "Concat", "Slice", "Split", "Gather", "Pad", "Squeeze",
               "Unsqueeze", "Expand", "Cast", "Identity", "Flatten"),
}  # fmt: skip
_KIND_OF = {op: kind for kind, operators in _KINDS.items() for op in operators}
_REMEDIES = {
    _QUANTIZE: "Leave products too narrow to pay for their rounding in float: --float-layer.",
    _INTEGER: "Run larger batches, or a processor with VNNI or dot products; leave the narrowest"
    " blocks in float: --float-layer.",
    _FLOAT: "They have no integer form here: `edgevit inspect` says why.",
    "moving": "Codes are moved as values were; another layout is the target's, not the user's.",
}


@dataclass(frozen=True)
class Overhead:
    """Cost of the profile, in median milliseconds of a run.

    Args:
        plain_ms: Without the profile.
        profiled_ms: With it.
        operators_ms: All operators together, each its median.
    """

    plain_ms: float
    profiled_ms: float
    operators_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class OperatorTime:
    """One operator of a graph as it ran.

    Args:
        name: Of its node.
        op: Its type.
        time_ms: Median over the runs.
    """

    name: str
    op: str
    time_ms: float


def measured_forms(
    bundle: Bundle,
    images: npt.NDArray[np.float32],
    *,
    variant: str | None = None,
    threads: int | None = None,
    warmup: int = 5,
    rounds: int = 30,
) -> tuple[list[Form], dict[str, Overhead]]:
    """Return fp32 and the engine as measured here, and what the profile cost each.

    Args:
        bundle: An opened bundle with its fp32 reference.
        images: float32 [batch, 3, H, W], normalized.
        variant: One of the bundle's; if left out the one that is exact on this processor.
        threads: CPU threads; None leaves it to ONNX Runtime.
        warmup: Rounds that do not count.
        rounds: Rounds that count.

    Raises:
        BundleError: The bundle has no reference (EV425).
        DeviceError: The profile can't be read (EV854), or the engine fails.
    """
    name = variant or variant_here(bundle)
    kinds: tuple[Any, Any] = ("fp32", "engine")
    with scratch_folder() as folder:
        plain = {kind: _session(bundle, kind, name, threads) for kind in kinds}
        profiled = {kind: _session(bundle, kind, name, threads, folder / kind) for kind in kinds}
        both = {**plain, **{f"{kind} profiled": one for kind, one in profiled.items()}}
        samples = measure_alternating(both, images, warmup=warmup, rounds=rounds)
        paths = {kind: Path(session.end_profile()) for kind, session in profiled.items()}
        found = {
            kind: operator_times(path.read_bytes(), len(samples[f"{kind} profiled"].samples_ms))
            for kind, path in paths.items()  # slow engines end before all rounds are run
        }
    products = bundle.layers(name)
    parts = {kind: _parts(times, products) for kind, times in found.items()}
    overheads = {kind: _overhead(kind, samples, found[kind]) for kind in kinds}
    forms = [form_of("fp32", parts["fp32"])]
    forms.append(form_of(name, parts["engine"], reasons_of(parts["fp32"], parts["engine"])))
    return forms, {"fp32": overheads["fp32"], name: overheads["engine"]}


def operator_times(content: bytes, rounds: int) -> list[OperatorTime]:
    """Return the operators of a profile in execution order, each with its median time.

    Args:
        content: ONNX Runtime's JSON.
        rounds: How many of the last runs count.

    Raises:
        DeviceError: It is no such profile, or has fewer runs (EV854).
    """
    try:
        events = json.loads(content)
        runs = _runs(events)[-rounds:]
        if len(runs) < rounds or not runs[-1]:
            raise ValueError(f"{len(runs)} runs of {rounds}")
        times = [[event["dur"] / 1e3 for event in run] for run in runs]
        medians = np.median(np.array(times), axis=0)  # ragged if runs differ: a ValueError
        return [
            OperatorTime(event["name"][: -len(_ENDING)], event["args"]["op_name"], float(time))
            for event, time in zip(runs[-1], medians)
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeviceError(
            "EV854",
            "ONNX Runtime's profile can't be read.",
            why=f"{type(error).__name__}: {error}"[:300],
            try_next="Upgrade onnxruntime, or report its version.",
        ) from error


def reasons_of(fp32: Iterable[Part], engine: Iterable[Part]) -> list[Reason]:
    """Return why the engine is not faster than fp32: by kind of operator, costliest first.

    Integer products are expected to take half of what the same products take in float.
    """
    before, after = _by_kind(fp32), _by_kind(engine)
    floats, integers = before.get(_FLOAT, (0.0, 0)), after.get(_INTEGER, (0.0, 0))
    left = after.get(_FLOAT, (0.0, 0))
    found = []
    short = integers[0] - (floats[0] - left[0]) / 2
    if integers[1] and short > 0:
        text = (
            f"{integers[1]} integer products take {integers[0]:.3f} ms; in float all products"
            f" take {floats[0]:.3f} ms."
        )
        found.append(Reason(short, text, _REMEDIES[_INTEGER]))
    if left[1] and integers[1]:
        text = f"{left[1]} products are left in float and take {left[0]:.3f} ms."
        found.append(Reason(left[0], text, _REMEDIES[_FLOAT]))
    for kind, (time_ms, count) in after.items():
        then = before.get(kind, (0.0, 0))
        if kind not in (_INTEGER, _FLOAT) and time_ms > then[0]:
            text = (
                f"{kind}: {count} operators, {time_ms:.3f} ms"
                f" ({then[1]} and {then[0]:.3f} ms in fp32)."
            )
            remedy = _REMEDIES.get(kind, "Measure again with more --rounds: noise looks like this.")
            found.append(Reason(time_ms - then[0], text, remedy))
    return costliest(found)


def _session(
    bundle: Bundle, kind: Any, variant: str, threads: int | None, profile: Path | None = None
) -> Any:
    return session_from_bundle(bundle, kind, variant=variant, threads=threads, profile=profile)


def _runs(events: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the operators of each run; ONNX Runtime writes a run's own event behind them."""
    runs: list[list[Mapping[str, Any]]] = []
    current: list[Mapping[str, Any]] = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_ENDING):
            current.append(event)
        elif event.get("name") == "model_run":
            runs.append(current)
            current = []
    return runs


def _parts(times: Sequence[OperatorTime], products: Sequence[Mapping[str, Any]]) -> list[Part]:
    blocks = kernel_blocks([[one.name] for one in times], products)
    return [
        Part(block, kind, {_INTEGER: "int8", _FLOAT: "fp32"}.get(kind, ""), one.time_ms)
        for one, block in zip(times, blocks)
        for kind in (_KIND_OF.get(one.op, _OTHER),)
    ]


def _by_kind(parts: Iterable[Part]) -> dict[str, tuple[float, int]]:
    found: dict[str, tuple[float, int]] = {}
    for part in parts:
        time_ms, count = found.get(part.kind, (0.0, 0))
        found[part.kind] = (time_ms + part.time_ms, count + 1)
    return found


def _overhead(
    kind: str, samples: Mapping[str, LatencySamples], times: Sequence[OperatorTime]
) -> Overhead:
    return Overhead(
        plain_ms=samples[kind].p50_ms,
        profiled_ms=samples[f"{kind} profiled"].p50_ms,
        operators_ms=sum(one.time_ms for one in times),
    )
