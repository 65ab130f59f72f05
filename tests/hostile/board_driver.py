"""Runs `edgevit deploy` against a hostile board, case after case in one process, and times it.

``python board_driver.py FOLDER BUNDLE IMAGES NAMES`` prints one line of JSON: for each case its
exit status, output and seconds, and the largest memory of the process.
"""

import json
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from board_replies import CASES
from click.testing import CliRunner

from edgevit.cli import main
from edgevit.deploy import connection, messages
from edgevit.runner.measure.memory import own_peak_memory_bytes
from edgevit.verbs import deploy as deploying

SHORT_SECONDS, LONG_SECONDS, HANG_SECONDS = 0.8, 20, 45


def hurry(case):
    """Wait for seconds where a user's board is given minutes; longer if it is to answer."""
    silent = re.fullmatch(case.code, "EV835") is not None
    seconds = SHORT_SECONDS if silent else LONG_SECONDS
    for verb, protocol in messages.PROTOCOLS.items():
        messages.PROTOCOLS[verb] = replace(protocol, silent_s=seconds, stalled_s=2 * seconds)
    connection._SCRIPT_SECONDS = seconds
    deploying._RETRY_SECONDS = (0.02, 0.02)


def hung(number, frame):
    raise TimeoutError("it hung")


def run(folder, bundle, images, case):
    hurry(case)
    good = json.loads((folder / "good.json").read_text())
    (folder / "case.json").write_text(json.dumps({"steps": {}, **case.make(good)}))
    arguments = [*case.command, "--device", "board"]
    if case.command == ("deploy",):
        arguments += [bundle, "--data", images, "--threads", "1", "--rounds", "5"]
    signal.alarm(HANG_SECONDS)
    start = time.monotonic()
    result = CliRunner().invoke(main, arguments)
    signal.alarm(0)
    failure = result.exception
    return {
        "status": result.exit_code,
        "output": result.output,
        "seconds": time.monotonic() - start,
        "traceback": "" if failure is None or isinstance(failure, SystemExit) else repr(failure),
    }


def drive(folder, bundle, images, names):
    signal.signal(signal.SIGALRM, hung)
    found = {name: run(Path(folder), bundle, images, CASES[name]) for name in names}
    return {"cases": found, "peak_bytes": own_peak_memory_bytes()}


if __name__ == "__main__":
    print(json.dumps(drive(*sys.argv[1:4], sys.argv[4].split("|"))))
