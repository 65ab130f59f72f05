"""Compares what a board says it measured with what was sent to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgevit.bundle import Bundle
from edgevit.bundle.outputs import is_classifier
from edgevit.data.tasks import CLASSIFY
from edgevit.deploy.measured import Answers, Measured
from edgevit.deploy.words import plain
from edgevit.errors import DeviceError
from edgevit.runner.board.shipment import Shipment, files_digest
from edgevit.runner.engines import engine_of, target_name
from edgevit.runner.measure.accuracy import TOP_K
from edgevit.runner.measure.conditions import Conditions
from edgevit.runner.measure.limits import MOST_ROUNDS

_ROOM_BYTES, _IMAGE_BYTES, _ROUND_BYTES = 16 << 20, 200, 64


@dataclass(frozen=True, kw_only=True)
class Sent:
    """The bundle and images that a board was sent, and the conditions it was asked for.

    Args:
        bundle: The bundle.
        shipment: The images.
        images_sha256: Name -> SHA-256 of the shipment's files.
        conditions: How it was to be measured.
    """

    bundle: Bundle
    shipment: Shipment
    images_sha256: Mapping[str, str]
    conditions: Conditions

    @property
    def most_bytes(self) -> int:
        """Largest file of measurements that can be of it."""
        rounds = min(self.conditions.rounds, MOST_ROUNDS)
        return _ROOM_BYTES + _IMAGE_BYTES * len(self.shipment) + _ROUND_BYTES * rounds


def check_measured(measured: Measured, sent: Sent) -> None:
    """Refuse measurements of anything else than what was sent.

    Raises:
        DeviceError: They are (EV836).
    """
    for problem in _problems(measured, sent):
        raise DeviceError(
            "EV836",
            "The board's measurements don't fit the bundle and images that were sent.",
            why=plain(problem),
            try_next="Deploy again. If it stays so, something on the board answers in the place "
            "of EdgeViT.",
        )


def _problems(measured: Measured, sent: Sent) -> Iterator[str]:
    """Yield what differs, the plainest first."""
    if len(measured.engine.labels) != len(sent.shipment):
        counts = f"{len(sent.shipment)} images were sent, {len(measured.engine.labels)} answered"
        yield f"{counts}."
    if measured.of.bundle_sha256 != sent.bundle.manifest["manifest_sha256"]:
        yield f"The bundle measured is {measured.of.bundle_sha256[:16]}, another one."
    if measured.of.images_sha256 != files_digest(sent.images_sha256):
        yield "The images read there have another SHA-256."
    if measured.skipped_images != list(sent.shipment.skipped):
        yield "The images left out are not those that were left out here."
    engines = {"engine": measured.engine}
    if (measured.fp32 is not None) != sent.bundle.has_reference:
        yield "It has fp32 answers exactly where the bundle has no fp32 model."
    if measured.fp32 is not None:
        engines["fp32"] = measured.fp32
    classes = 0
    if sent.bundle.task == CLASSIFY:
        classes = max(int(sent.bundle.manifest["model"]["num_classes"]), 2)  # one logit has two
    for name, answers in engines.items():
        yield from _answers(name, answers, sent.shipment, classes)
    yield from _task(measured, sent)
    yield from _engine(measured, sent)
    yield from _latency(measured, sent, set(engines))


def _task(measured: Measured, sent: Sent) -> Iterator[str]:
    """Yield what of the task's block is not of the bundle's task, outputs and images."""
    names = {one.name for one in sent.bundle.outputs}
    checked = measured.self_check.outputs
    wanted = None if is_classifier(sent.bundle.manifest["model"]) else names
    if (None if checked is None else set(checked)) != wanted:
        yield "The golden outputs checked are not the model's."
    if measured.task is None:
        yield "It says nothing of the outputs."
        return
    if measured.task.name != sent.bundle.task or measured.task.num_images != len(sent.shipment):
        yield f"The task is {measured.task.name!r} on {measured.task.num_images} images."
    if set(measured.task.outputs) != (names if sent.bundle.has_reference else set()):
        yield "The outputs compared with fp32 are not the model's."


def _answers(name: str, answers: Answers, shipment: Shipment, classes: int) -> Iterator[str]:
    labels = shipment.labels if classes else [-1] * len(shipment)
    if not np.array_equal(answers.labels, labels):
        yield f"The labels of {name} are not those that were sent."
    best = min(TOP_K, classes)
    if len(answers.top5) != len(shipment) or any(len(row) != best for row in answers.top5):
        yield f"{name} does not have the {best} best classes of each image."
    for row in answers.top5:
        if row and (len(set(row)) != len(row) or min(row) < 0 or max(row) >= classes):
            yield f"The classes {row} of {name} are none of the model's {classes}."


def _engine(measured: Measured, sent: Sent) -> Iterator[str]:
    used, own = measured.engine_used, engine_of(sent.bundle.manifest)
    if used.variant not in sent.bundle.variants:
        yield f"The bundle has no variant {used.variant!r}."
    if used.stands_in and not own.stand_in:
        target = target_name(sent.bundle.manifest)
        yield f"Nothing can stand in for the engine of a bundle for {target}."
    if used.stands_in and sent.conditions.engine == own.name:
        yield "Another engine than the one asked for has answered."
    golden = len(sent.bundle.golden()["images"])
    if measured.self_check.num_images != golden:
        yield f"{measured.self_check.num_images} golden images were run; there are {golden}."
    if measured.build is not None:
        rows = {row.variant for row in measured.build.rows}
        if measured.build.kept != used.variant or not rows <= set(sent.bundle.variants):
            yield "The variants tried are not those of the bundle."
        kernels = measured.build.kernels
        if kernels is not None and kernels.variant != used.variant:
            yield f"The kernels are those of {kernels.variant!r}, which was not kept."


def _latency(measured: Measured, sent: Sent, engines: set[str]) -> Iterator[str]:
    timed, asked, found = measured.latency_ms, sent.conditions, measured.latency_conditions
    if set(timed) != (set() if measured.engine_used.stands_in else engines):
        yield f"Latencies came for {_list_text(timed)}, engines are {_list_text(engines)}."
    if len({len(samples) for samples in timed.values()}) > 1:
        yield "The engines were not timed in turns: their numbers of rounds differ."
    if any(len(samples) < 2 or min(samples) <= 0 for samples in timed.values()):
        yield "It has latencies that can't be."
    if timed and (found.batch, found.rounds) != (asked.batch, asked.rounds):
        yield f"Batch and rounds are {found.batch} and {found.rounds}, asked were others."
    if not set(measured.peak_memory_bytes) <= engines:
        yield f"Memory came for {_list_text(measured.peak_memory_bytes)}."


def _list_text(names: Mapping[str, object] | set[str] | Sequence[str]) -> str:
    return ", ".join(sorted(names)[:5]) or "none"
