"""Runs on the board: measures a bundle on shipped images and writes what it measured.

``python3 -m edgevit.runner.board BUNDLE IMAGES OUTPUT`` needs Python 3.8, numpy and the engine.
Progress goes to standard output, one line of JSON each: ``{"stage": ..., "done": ..., "total":
...}``; an error as ``{"error": {...}}`` with the exit status of its class (`edgevit.errors`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgevit.errors import EdgeViTError, EnvironmentError_


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, and say how it goes."""
    options = _options(arguments)
    try:
        _run(options)
    except EdgeViTError as error:
        described = {**error.parts(), "class": type(error).__name__, "code": error.code}
        _say(error=described)
        sys.exit(error.exit_status)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m edgevit.runner.board", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path, help="folder written by `edgevit deploy`")
    parser.add_argument("output", type=Path, help="file for the measurements (JSON)")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--provider")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--max-drop", type=float, default=1.0)
    parser.add_argument("--trust-code", action="store_true")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    _require_numpy()
    from edgevit.runner.board.exchange import dict_from_measurements
    from edgevit.runner.board.shipment import open_shipment
    from edgevit.runner.engines import open_for_engine
    from edgevit.runner.measure.conditions import Conditions
    from edgevit.runner.measure.measurements import BATCH, measure

    bundle, images = open_for_engine(options.bundle), open_shipment(options.images)
    conditions = Conditions(
        engine=options.engine,
        threads=options.threads,
        provider=options.provider,
        batch=options.batch,
        rounds=options.rounds,
        max_drop=options.max_drop,
        trust_code=options.trust_code,
    )
    measured = measure(bundle, lambda: images.batches(BATCH), len(images), conditions, _progress)
    measured = replace(measured, skipped_images=images.skipped)
    of = {"bundle_sha256": bundle.manifest["manifest_sha256"], "images_sha256": images.sha256()}
    content = {**dict_from_measurements(measured), "machine": _machine(), "of": of}
    _write(options.output, json.dumps(content))


def _write(output: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = output.with_name(output.name + ".part")
    try:
        temporary.write_text(text)
        os.replace(str(temporary), str(output))
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise EnvironmentError_(
            "EV844",
            "The measurements can't be written.",
            where=str(output),
            why=error.strerror or str(error),
            try_next="Free some space there; the folder has to exist and be writable.",
        ) from error


def _machine() -> dict[str, Any]:
    import numpy as np

    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _require_numpy() -> None:
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise EnvironmentError_(
            "EV818",
            "The board's Python has no numpy.",
            where=sys.executable,
            why=str(error),
            try_next="sudo apt install python3-numpy",
        ) from error


def _progress(stage: str, done: int, total: int) -> None:
    _say(stage=stage, done=done, total=total)


def _say(**content: Any) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    main()
