"""Peak resident memory of a fresh process that opens a bundle and runs one of its engines once.

The figure includes everything such a process holds at its highest point: the Python interpreter,
numpy, the engine's library, the verified and unpacked model while the engine loads it, the engine's
own copy, and the run of one image. Nothing is subtracted.

On Linux it is VmHWM of /proc/self/status. ru_maxrss would not do: the kernel carries it over from
the parent through exec, so that a large parent would show up as the child's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgevit.errors import DeviceError, EdgeViTError, EnvironmentError_
from edgevit.runner.engines import engine_of, open_for_engine

if TYPE_CHECKING:
    from edgevit.bundle import Bundle
    from edgevit.runner.engines.base import OpenOne

Engine = Literal["fp32", "engine"]
_TIMEOUT_SECONDS = 600
_STATUS = Path("/proc/self/status")


def peak_memory_bytes(
    bundle_path: Path | str,
    engine: Engine = "engine",
    *,
    threads: int | None = None,
    provider: str | None = None,
) -> int:
    """Return the peak resident memory of a fresh process that runs an engine once, in bytes.

    Args:
        bundle_path: The bundle's folder.
        engine: "engine" for the quantized model, "fp32" for the reference.
        threads: CPU threads of the session; None leaves it to the engine.
        provider: Another execution provider than the one the bundle was made for.

    Raises:
        DeviceError: The process failed; its last line of output is given as the reason (EV709).
    """
    command = [sys.executable, "-m", __name__, str(bundle_path), "--engine", engine]
    if threads is not None:
        command += ["--threads", str(threads)]
    if provider is not None:
        command += ["--provider", provider]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, env=_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise _failure(f"It took more than {_TIMEOUT_SECONDS} seconds.") from error
    if done.returncode != 0:
        raise _failure(done.stderr.strip()[-1000:] or f"It ended with status {done.returncode}.")
    return int(json.loads(done.stdout)["peak_memory_bytes"])


def own_peak_memory_bytes() -> int:
    """Return this process's own peak resident memory so far, in bytes.

    Raises:
        EnvironmentError_: This system does not say (EV710).
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource

        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS
    raise EnvironmentError_(
        "EV710",
        "This system does not tell a process's peak memory.",
        why=f"Neither {_STATUS} nor getrusage in bytes exists on {sys.platform}.",
        try_next="Measure on Linux or macOS.",
    )


def main(arguments: list[str] | None = None) -> None:
    """Open a bundle, run one engine on one image and print the peak as JSON."""
    name = "python -m edgevit.runner.measure.memory"
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", choices=["fp32", "engine"], default="engine")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--provider", default=None)
    options = parser.parse_args(arguments)
    try:
        bundle = open_for_engine(options.bundle)
        session = _opener(bundle)(
            bundle, options.engine, threads=options.threads, provider=options.provider
        )
        session.run(np.zeros((1, *bundle.input_size), dtype=np.float32))  # [1, 3, H, W]
        print(json.dumps({"peak_memory_bytes": own_peak_memory_bytes()}))
    except EdgeViTError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)


def _opener(bundle: Bundle) -> OpenOne:
    engine = engine_of(bundle.manifest)
    if engine.session is None:
        raise _failure(f"{engine.title} does not open one engine by itself.")
    return engine.session


def _environment() -> dict[str, str]:
    """Return this environment with the running EdgeViT importable, installed or not."""
    home = str(Path(__file__).resolve().parents[3])
    paths = [home, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _failure(why: str) -> DeviceError:
    return DeviceError(
        "EV709",
        "Peak memory could not be measured.",
        where="a fresh process",
        why=why,
        try_next="Run python -m edgevit.runner.measure.memory on the bundle to see all of it.",
    )


if __name__ == "__main__":
    main()
