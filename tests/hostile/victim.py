"""Opens bundles one after the other, as a machine that was given them would; tells what came of it.

Reads a folder per line, answers a line of JSON. It may write no byte into any file (`RLIMIT_FSIZE`
ends it if it does, whoever of its libraries tried), takes note of every attempt to write, start a
program or connect, and says how much memory the case took at its highest point.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback

ADDRESS_SPACE_BYTES = 8 << 30
_ATTEMPTS = {
    "os.exec",
    "os.fork",
    "os.link",
    "os.mkdir",
    "os.posix_spawn",
    "os.putenv",
    "os.remove",
    "os.rename",
    "os.symlink",
    "os.system",
    "os.truncate",
    "pty.spawn",
    "shutil.rmtree",
    "socket.bind",
    "socket.connect",
    "subprocess.Popen",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
attempts: list[str] = []


def watch(event: str, arguments: tuple) -> None:
    """Note what no bundle may bring about."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
    if (writes and arguments[0] != "/dev/null") or event in _ATTEMPTS:
        attempts.append(f"{event} {arguments!r}"[:200])


def everything(folder: str) -> None:
    """Do with a bundle what inspect, check, validate and the board's runner do."""
    import io

    import numpy as np
    from rich.console import Console

    from edgevit.bundle import open_bundle
    from edgevit.report.table import inspect_table, validation_table
    from edgevit.runner.engines.onnxruntime.session import session_from_bundle
    from edgevit.runner.measure import measurements
    from edgevit.runner.measure.conditions import Conditions
    from edgevit.runner.measure.validation import validation_report

    bundle = open_bundle(folder)
    sizes = {kind: bundle.size_bytes(kind) for kind in ("bundle", "engine", "reference", "total")}
    screen = Console(file=io.StringIO(), width=80)
    screen.print(inspect_table({**bundle.manifest, "size_bytes": sizes}))
    bundle.recipe_toml()
    golden = bundle.golden()
    measurements._memory = lambda *_: {}  # it would start processes, which is watched for here
    measurements._WARMUP_ROUNDS = 1
    images = golden["images"]
    pixels = images[np.arange(measurements.BATCH) % len(images)]  # [16, H, W, 3]
    batch = (pixels, np.zeros(len(pixels), np.int64), [str(n) for n in range(len(pixels))])
    conditions = Conditions(rounds=2, threads=1)
    measured = measurements.measure(
        bundle, lambda: [batch], len(pixels), conditions, lambda *_: None
    )
    report = validation_report(bundle, measured, max_drop_points=1.0)
    screen.print(validation_table(report))
    json.dumps([report, bundle.manifest], allow_nan=False)  # as --json writes it
    for variant in bundle.variants[1:]:
        session = session_from_bundle(bundle, threads=1, variant=variant)
        session.run(np.zeros((2, *bundle.input_size), np.float32))
        bundle.golden(variant)
        bundle.layers(variant)


def outcome(folder: str) -> dict:
    """Return what came of one bundle."""
    from edgevit.errors import EdgeViTError
    from edgevit.runner.measure.memory import own_peak_memory_bytes

    attempts.clear()
    found = {"code": None, "status": 0, "traceback": None, "text": ""}
    try:
        everything(folder)
    except EdgeViTError as error:
        found.update(code=error.code, status=error.exit_status, text=str(error))
    except BaseException:
        found.update(status=1, traceback=traceback.format_exc()[-2000:])
    return {**found, "peak_bytes": own_peak_memory_bytes(), "attempts": list(attempts)}


def main() -> None:
    """Answer until there are no more lines."""
    import onnxruntime  # loading the engine is not what is watched, nor what it reports of itself

    onnxruntime.disable_telemetry_events()  # a thread of it writes to a database in the home
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sys.dont_write_bytecode = True
    sys.addaudithook(watch)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(outcome(line.rstrip("\n"))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
