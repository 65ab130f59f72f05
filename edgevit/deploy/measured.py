"""The schema of what a board measured, as `edgevit.runner.board.exchange` writes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from edgevit.deploy.facts import PowerMode
from edgevit.deploy.messages import Bytes, Count, Hash, Name, Text, decode_message
from edgevit.deploy.words import all_plain
from edgevit.runner.measure.tasks.base import MAX_ROWS

_Milliseconds = Annotated[float, Meta(ge=0, le=1e9)]
_Seconds = Annotated[float, Meta(ge=0, le=1e7)]
_Percent = Annotated[float, Meta(ge=0, le=100)]
_Points = Annotated[float, Meta(ge=-100, le=100)]
_Positive = Annotated[float, Meta(ge=0, le=1e12)]
_Real = Annotated[float, Meta(ge=-1e12, le=1e12)]
_Decibels = Annotated[float, Meta(ge=-1000, le=1000)]
_Cosine = Annotated[float, Meta(ge=-1.001, le=1.001)]
_Class = Annotated[int, Meta(ge=-1, le=10**7)]
_Size = Annotated[int, Meta(ge=-1, le=1 << 31)]
_MOST_KERNELS, _MOST_OPERANDS = 4096, 256


class _Strict(Struct, frozen=True, forbid_unknown_fields=True):
    """A record that may have no other keys than its own."""


class Answers(_Strict, frozen=True):
    """The best classes and the label of each image."""

    top5: list[Annotated[list[_Class], Meta(max_length=5)]]
    labels: list[_Class]


class _OutputCheck(_Strict, frozen=True):
    sqnr_db: _Decibels | None
    cosine: _Cosine
    fp32_sqnr_db: _Decibels | None
    fp32_cosine: _Cosine | None
    quantization_sqnr_db: _Decibels | None
    within: bool


class _SelfCheck(_Strict, frozen=True):
    num_images: Count
    agreement_percent: _Percent | None
    identical_percent: _Percent
    max_error: _Positive
    rms_error: _Positive
    quantization_rms: _Positive | None
    max_error_relative: _Positive | None
    rms_error_relative: _Positive | None
    outputs: dict[Name, _OutputCheck] | None = None


class _OutputErrors(_Strict, frozen=True):
    num_images: Count
    sqnr_db: _Decibels | None
    cosine: _Cosine
    cosine_low: _Cosine
    cosine_high: _Cosine
    least_cosine: _Cosine
    max_error: _Positive


class _MetricRow(_Strict, frozen=True):
    label: Name
    fp32: _Real | None
    engine: _Real | None
    unit: Literal["%", "dB", ""]
    change: _Real | None
    low: _Real | None
    high: _Real | None


class Task(_Strict, frozen=True):
    """Errors of the outputs against fp32, and the rows of the task's own metric."""

    name: Name
    num_images: Count
    main: Text
    metrics: Annotated[list[_MetricRow], Meta(max_length=MAX_ROWS)]
    outputs: dict[Name, _OutputErrors]


class ConditionsMessage(_Strict, frozen=True):
    """Under which latency was measured; empty where it was not."""

    threads: Count | None = None
    batch: Count | None = None
    rounds: Count | None = None
    warmup: Count | None = None


class EngineUsed(_Strict, frozen=True):
    """The engine that ran."""

    name: Name
    provider: Name
    stands_in: bool
    variant: Name


class _Span(_Strict, frozen=True):
    before: _Real | None
    highest: _Real
    after: _Real | None


class _Clock(_Strict, frozen=True):
    before: _Positive | None
    lowest: _Positive
    highest: _Positive
    after: _Positive | None


class _Power(_Strict, frozen=True):
    rails: list[Name]
    before: _Real | None
    during: _Real | None


class _Energy(_Strict, frozen=True):
    energy_mj: _Real | None
    load_mw: _Real | None
    idle_mw: _Real | None
    rails: list[Name]
    seconds: _Seconds
    images: Count
    readings: Count
    reason: Text


class _Telemetry(_Strict, frozen=True):
    source: Name | None
    interval_ms: Count
    num_readings: Count
    valid: bool | None
    reasons: list[Text]
    watched_clock: Name
    clock_drop_percent: _Percent | None
    clocks_mhz: dict[Name, _Clock]
    temperatures_c: dict[Name, _Span]
    power_mw: _Power | None
    power_mode: PowerMode | None
    energy: dict[Name, _Energy]
    retimed_because: list[Text] = []


class _Parity(_Strict, frozen=True):
    num_images: Count
    agreement_percent: _Percent | None
    cosine: _Cosine | None
    max_error: _Positive | None


class _Interval(_Strict, frozen=True):
    value: _Points
    low: _Points
    high: _Points


class _Gate(_Strict, frozen=True):
    verdict: Name
    top1_percent: _Percent | None
    reason: Text
    drop_points: _Interval | None
    num_images: Count
    images_needed: Count | None


class _Ratio(_Strict, frozen=True):
    value: _Positive
    low: _Positive | None
    high: _Positive | None


class _Summary(_Strict, frozen=True):
    kernels: Count
    moves: Count
    moves_ms: _Milliseconds | None
    attention: Count
    attention_ms: _Milliseconds | None
    asked_low: Count
    got_low: Count
    missed_ms: _Milliseconds | None
    products_ms: _Milliseconds | None
    total_ms: _Milliseconds | None


class Row(_Strict, frozen=True):
    """One variant that was tried."""

    variant: Name
    failure: Text
    parity: _Parity | None
    gate: _Gate
    energy_mj: _Real | None
    kernel_ms: _Milliseconds | None
    engine: _Summary | None
    build_seconds: _Seconds | None
    usable: bool
    why_not: Text
    p50_ms: _Milliseconds | None
    p99_ms: _Milliseconds | None
    latency_valid: bool | None
    rounds: Count
    speedup_over_fp16: _Ratio | None


class _Product(_Strict, frozen=True):
    name: Name
    module: Name
    asked_bits: Name
    carrier: Name
    asked: Name
    chosen: Name
    kernel: Text
    time_ms: _Milliseconds | None
    engine_layer: Text
    reason: Text


class _Operand(_Strict, frozen=True):
    name: Text
    precision: Name
    shape: Annotated[list[_Size], Meta(max_length=16)]


_Operands = Annotated[list[_Operand], Meta(max_length=_MOST_OPERANDS)]


class _Kernel(_Strict, frozen=True):
    name: Text
    kind: Name
    inputs: _Operands
    constants: _Operands
    outputs: _Operands
    tactic: Text
    onnx_nodes: Annotated[list[Text], Meta(max_length=_MOST_KERNELS)]


class Kernels(_Strict, frozen=True):
    """All kernels of the engine that was kept, as `KernelTable.to_dict` writes them."""

    variant: Name
    engine: Name
    capabilities: Annotated[list[Name], Meta(max_length=8)]
    max_batch: Count
    layers: Annotated[list[_Kernel], Meta(max_length=_MOST_KERNELS)]
    list_sha256: Literal[""]


class Build(_Strict, frozen=True):
    """The variant that was kept, and why."""

    kept: Name
    reason: Text
    fp16_reasons: list[Text]
    rows: list[Row]
    telemetry: _Telemetry | None
    layers: list[_Product]
    kernels: Kernels | None = None


class Machine(_Strict, frozen=True):
    """The machine on which it was measured."""

    machine: Name
    python: Name
    numpy: Name


class Of(_Strict, frozen=True):
    """Hashes of the measured bundle's manifest and of the images as they were read."""

    bundle_sha256: Hash
    images_sha256: Hash


class Measured(Struct, frozen=True, forbid_unknown_fields=True, tag_field="schema_version", tag=1):
    """The measurements that `edgevit.runner.board` writes."""

    engine: Answers
    fp32: Answers | None
    self_check: _SelfCheck
    latency_ms: dict[Name, list[_Milliseconds]]
    latency_conditions: ConditionsMessage
    peak_memory_bytes: dict[Name, Bytes]
    skipped_images: list[str]
    warnings: list[Text]
    engine_used: EngineUsed
    telemetry: _Telemetry | None
    build: Build | None
    machine: Machine
    of: Of
    task: Task | None = None


def measured_from_json(data: bytes) -> Measured:
    """Return what a board measured.

    Raises:
        DeviceError: It is something else (EV833).
    """
    return decode_message(data, Measured, "measurements")


def content_of(measured: Measured) -> dict[str, Any]:
    """Return it as a dictionary such as a board's measurements are read from, its texts shown."""
    content = msgspec.to_builtins(measured)
    names = content.pop("skipped_images")  # the user's own, compared as they are
    shown = {**all_plain(content), "skipped_images": names, "schema_version": 1}
    return shown if measured.latency_ms else {**shown, "latency_conditions": {}}
