"""Prints readings as lines of JSON: ``python3 -m edgevit.runner.telemetry --seconds 2``.

The first line names the source and the interval. Without ``--seconds`` it goes on until its
standard input is closed, so that it ends when whoever started it is gone.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
import time
from contextlib import ExitStack
from typing import TextIO

from edgevit.runner.telemetry.sources import INTERVAL_MS, source_here


def main(arguments: list[str] | None = None) -> None:
    """Read and print until the time is over or standard input is closed."""
    parser = argparse.ArgumentParser(prog="python3 -m edgevit.runner.telemetry")
    parser.add_argument("--root", default="/", help="a recorded tree instead of this device")
    parser.add_argument("--interval-ms", type=int, default=INTERVAL_MS)
    parser.add_argument("--seconds", type=float, help="how long; until standard input is closed")
    parser.add_argument("--output", help="file to write; standard output if left out")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        output: TextIO = sys.stdout
        if options.output:
            output = stack.enter_context(open(options.output, "w", encoding="utf-8"))
        record(output, options.root, options.interval_ms, options.seconds)


def record(output: TextIO, root: str, interval_ms: int, seconds: float | None) -> None:
    """Write a header and then a reading every `interval_ms`."""
    source = source_here(root, interval_ms)
    start = due = time.monotonic()
    print(json.dumps({"source": source.name, "interval_ms": interval_ms}), file=output, flush=True)
    try:
        while seconds is None or time.monotonic() - start < seconds:
            print(source.read().to_json(), file=output, flush=True)
            due = max(due + interval_ms / 1000, time.monotonic())  # no bursts after a delay
            if _wait_until(due, watched=seconds is None):
                break
    finally:
        source.close()


def _wait_until(due: float, watched: bool) -> bool:
    """Wait until `due`; return whether standard input was closed before, if it is watched."""
    wait_s = max(0.0, due - time.monotonic())
    if not watched:
        time.sleep(wait_s)
        return False
    return bool(select.select([sys.stdin], [], [], wait_s)[0])


if __name__ == "__main__":
    main()
