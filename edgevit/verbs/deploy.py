"""The verb `deploy`: bundle, images and thin runner go to a board; the report comes back.

Everything lies in one folder on the board, named after the bundle, so that a deployment that lost
its connection for good is continued by the next; it is removed at the end unless it is to be kept.
"""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgevit.bundle import Bundle
from edgevit.bundle.manifest import ENGINE_FILES, MANIFEST
from edgevit.data import ImageSet, Preprocessing
from edgevit.data.labels import label_facts
from edgevit.deploy.call import ConnectionLost
from edgevit.deploy.connection import Connection, remote_word
from edgevit.deploy.images import pack_images
from edgevit.deploy.measured import content_of, measured_from_json
from edgevit.deploy.messages import Done
from edgevit.deploy.preflight import Board, Needs, check, look_at_board
from edgevit.deploy.remote_run import RemoteRun
from edgevit.deploy.thin_runner import thin_runner_files
from edgevit.deploy.transfer import Shipped, fetch, send_files
from edgevit.deploy.verifying import Sent, check_measured
from edgevit.errors import DeviceError, EdgeViTError
from edgevit.progress import Progress, no_progress
from edgevit.runner.board.exchange import measurements_from_dict
from edgevit.runner.board.shipment import Shipment
from edgevit.runner.engines import engine_of, open_for_engine, target_name
from edgevit.runner.engines.choice import check_asked
from edgevit.runner.engines.tensorrt.compared_kernels import with_compared_kernels
from edgevit.runner.measure.conditions import Conditions
from edgevit.runner.measure.limits import check_limits, check_runs
from edgevit.runner.measure.measurements import BATCH, Measurements
from edgevit.runner.measure.validation import validation_report
from edgevit.scratch import scratch_folder
from edgevit.verbs.eer import eer_asked
from edgevit.verbs.validate import DEFAULT_MAX_DROP, open_labelled_for

if TYPE_CHECKING:
    from edgevit.zoo.class_names import ClassNames

_BUNDLE, _IMAGES, _MEASURED = "bundle", "images", "measurements.json"
_RUNNER_BYTES = 2 << 20
_RETRY_SECONDS = (1, 2, 4, 8, 15)
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """The board and the settings of one deployment.

    Args:
        nonce: Tells this deployment from others of the same bundle.
        device: As in `edgevit.deploy.connection.Connection`.
        conditions: How it is measured there.
        keep: Leave everything on the board.
        python: The board's Python.
        folder: Folder of the board in which the deployment's own is made; None for the cache.
    """

    nonce: str
    device: str
    conditions: Conditions
    keep: bool = False
    python: str = "python3"
    folder: str | None = None


def deploy(
    bundle: str | Path | Bundle,
    data: str | Path | ImageSet,
    *,
    device: str,
    num: int | None = None,
    seed: int = 0,
    max_drop: float | None = None,
    engine: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    rounds: int = 50,
    keep: bool = False,
    python: str = "python3",
    folder: str | None = None,
    classes: ClassNames | None = None,
    class_order: str | None = None,
    eer_metrics: Sequence[str] = (),
    eer_weights: Sequence[float] | None = None,
    eer_reference: str | Path = "vit_b",
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Measure a bundle on a board and return the report of `edgevit validate`, plus ``device``.

    Args:
        bundle: A folder or an opened bundle.
        data: Labelled images; class folders are matched with the model's class names.
        device: ``user@host``, an alias of the SSH configuration, or ``ssh://user@host:port``.
        num: Use only this many images, drawn class-balanced with `seed`.
        seed: Of that draw.
        max_drop: Accuracy limit in points for the verdict; 1.0 if left out.
        engine: "onnxruntime", "tensorrt", or "auto" for the one the bundle was made for.
        threads: CPU threads of the engines, None to leave it to them.
        batch: Batch size of the latency runs.
        rounds: Alternating latency rounds.
        keep: Leave everything on the board.
        python: The board's Python.
        folder: Folder of the board in which the deployment's own is made; None for the cache.
        classes, class_order, eer_metrics, eer_weights, eer_reference: As in `edgevit.validate`.
        progress: Called with (stage, done, total).

    Raises:
        EdgeViTError: Any of `edgevit.errors`; EV810 to EV836 are about the board and the way there.
    """
    check_limits(max_drop=max_drop, max_latency_ms=None)
    check_runs(threads=threads, batch=batch, rounds=rounds)
    eer = eer_asked(eer_metrics, eer_weights, eer_reference)
    limit = DEFAULT_MAX_DROP if max_drop is None else max_drop
    conditions = Conditions(
        engine=engine, threads=threads, batch=batch, rounds=rounds, max_drop=limit
    )
    deployment = Deployment(
        nonce=secrets.token_hex(8),
        device=device,
        conditions=conditions,
        keep=keep,
        python=python,
        folder=folder,
    )
    opened = bundle if isinstance(bundle, Bundle) else open_for_engine(bundle)
    opened.check_limits(max(BATCH, batch))
    images = open_labelled_for(opened, data, num, seed, classes, class_order)
    check_asked(opened.manifest, engine)
    needs = _needs(opened, len(images), engine)
    name = str(opened.manifest["manifest_sha256"])[:16]
    with Connection(device, python=python) as connection:
        board = _Retry(connection)(lambda: look_at_board(connection, name=name, folder=folder))
        warnings = check(board, needs)
        progress("preflight", 1, 1)
        try:
            measured, machine = _measure_there(
                connection, board, opened, images, deployment, progress
            )
        except BaseException:
            with suppress(EdgeViTError, ConnectionLost):  # the first error is the one to show
                _tidy(connection, board.root, deployment)
            raise
        warnings += _tidy_up(connection, board.root, deployment)
    measured = replace(measured, warnings=(*measured.warnings, *warnings))
    facts = label_facts(images)
    report = validation_report(opened, measured, max_drop_points=limit, eer=eer, labels=facts)
    build = with_compared_kernels(report["build"], opened)
    return {**report, "build": build, "device": _device(deployment, board, machine)}


def _needs(bundle: Bundle, num_images: int, engine: str) -> Needs:
    height, width = bundle.input_size[1:]
    models = (bundle.tensors, bundle.reference_tensors)
    model_bytes = max(sum(entry.decoded_bytes for entry in entries) for entries in models)
    own = engine_of(bundle.manifest)
    images_bytes = num_images * height * width * 3
    return Needs(
        target=target_name(bundle.manifest),
        made_for=own.name,
        engine=engine,
        disk_bytes=bundle.size_bytes("bundle")
        + bundle.size_bytes("reference")
        + images_bytes
        + _RUNNER_BYTES
        + own.built_per_byte * model_bytes,
        model_bytes=model_bytes,
    )


def _measure_there(
    connection: Connection,
    board: Board,
    bundle: Bundle,
    images: ImageSet,
    deployment: Deployment,
    progress: Progress,
) -> tuple[Measurements, dict[str, Any]]:
    """Send, run and fetch; each of them survives a connection that breaks."""
    with scratch_folder("edgevit-images-") as folder:
        preprocessing = Preprocessing.from_dict(bundle.preprocessing)
        shipment = pack_images(
            images,
            preprocessing,
            folder,
            lambda done: progress("prepare images", done, len(images)),
        )
        files = _files(bundle, shipment)
        sent = _describe_sent(bundle, shipment, files, deployment.conditions)
        total = sum(file.size_bytes for file in files)
        retry = _Retry(connection)

        def on_bytes(there: int) -> None:
            retry.heard()
            progress("send", there, total)

        retry(lambda: send_files(connection, board.root, deployment.nonce, files, on_bytes))
    run = RemoteRun(board.root, deployment.nonce, run_arguments(deployment.conditions), progress)
    retry(lambda: run.follow(connection, retry.heard))
    data = retry(lambda: fetch(connection, board.root, _MEASURED, sent.most_bytes))
    measured = measured_from_json(data)
    check_measured(measured, sent)
    content = content_of(measured)
    return measurements_from_dict(content), dict(content["machine"])


def _describe_sent(
    bundle: Bundle, shipment: Shipment, files: Sequence[Shipped], conditions: Conditions
) -> Sent:
    hashes = {file.path.name: file.sha256 for file in files if file.path.parent == shipment.folder}
    return Sent(bundle=bundle, shipment=shipment, images_sha256=hashes, conditions=conditions)


def _files(bundle: Bundle, images: Shipment) -> list[Shipped]:
    """Return what is sent; a board builds its own engine, and gets none that was compiled here."""
    found = [Shipped.of(path, name) for name, path in thin_runner_files().items()]
    compiled = set(ENGINE_FILES.values())
    for name in (MANIFEST, *(one for one in bundle.manifest["files"] if one not in compiled)):
        found.append(Shipped.of(bundle.path / name, f"{_BUNDLE}/{name}"))
    for name in images.names:
        found.append(Shipped.of(images.folder / name, f"{_IMAGES}/{name}"))
    return found


def run_arguments(conditions: Conditions) -> list[str]:
    """Return the arguments of edgevit.runner.board for these conditions."""
    arguments = [_BUNDLE, _IMAGES, _MEASURED]
    for name, value in asdict(conditions).items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        elif value is not None and value is not False:
            arguments += [option, str(value)]
    return arguments


class _Retry:
    """Repeats a step over a new connection; patience renews when the board is heard of."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._failures = 0

    def heard(self) -> None:
        """Note that the board was heard of."""
        self._failures = 0

    def __call__(self, step: Callable[[], _T]) -> _T:
        while True:
            try:
                return step()
            except ConnectionLost as error:
                self._reconnect(str(error))

    def _reconnect(self, why: str) -> None:
        while self._failures < len(_RETRY_SECONDS):
            time.sleep(_RETRY_SECONDS[self._failures])
            self._failures += 1
            try:
                self._connection.connect()
                return
            except DeviceError as error:
                if error.code != "EV814":  # a changed host key is not a broken cable
                    raise
                why = error.why
        raise DeviceError(
            "EV815",
            "The connection to the board was lost.",
            where=self._connection.device,
            why=why,
            try_next="Run the same command again when the board can be reached; "
            "what has arrived is not sent again.",
        )


def _tidy_up(connection: Connection, root: str, deployment: Deployment) -> list[str]:
    """Leave the board clean, unless all is to be kept; return a warning where that failed."""
    try:
        _Retry(connection)(lambda: _tidy(connection, root, deployment))
    except EdgeViTError as error:
        return [f"{root} was left on the board: {error.why}"]
    return []


def _tidy(connection: Connection, root: str, deployment: Deployment) -> None:
    verb, in_cache = "stop" if deployment.keep else "clean", deployment.folder is None
    request = {"root": root, "nonce": deployment.nonce, "in_cache": in_cache}
    with connection.call(verb, **request) as call:
        call.reply(Done)


def _device(deployment: Deployment, board: Board, machine: dict[str, Any]) -> dict[str, Any]:
    modules = {name: found.get("version") for name, found in board.modules.items()}
    kept = _run_again(deployment, board) if deployment.keep else None
    return {
        "address": deployment.device,
        **machine,
        "modules": modules,
        "facts": dict(board.facts),
        "kept": board.root if deployment.keep else None,
        "run_again": kept,
    }


def _run_again(deployment: Deployment, board: Board) -> str:
    """Return the command that measures a kept deployment again, typed on the board."""
    arguments = ["-m", "edgevit.runner.board", *run_arguments(deployment.conditions)]
    words = ['XDG_CACHE_HOME="$PWD/cache"', remote_word(deployment.python), shlex.join(arguments)]
    return f"cd {shlex.quote(board.root)} && {' '.join(words)}"
