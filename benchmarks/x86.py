"""A bundle on an x86-64 processor without VNNI instructions: golden logits and every layer.

    python benchmarks/x86.py --bits 8

Runs this machine's Python in qemu's user emulation (`qemu-x86_64`, Debian and Ubuntu: qemu-user),
as `aarch64.py` does with an Arm one: the thin runner opens the bundle and reproduces its golden
logits, with the form of it that it finds exact there; then codes, int32 sums and float32 outputs of
every layer of every form are compared with the simulation. Exit status 1 if the golden classes
differ or the form that the runner takes is not exact.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from aarch64 import add_options, run_on

# qemu 7.2 does not emulate these and says so at every start; none concerns arithmetic.
_OF_KERNELS = ("pcid", "x2apic", "tsc-deadline", "hle", "rtm", "invpcid")


def emulated(qemu: str, cpu: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts this Python on another processor, and its environment."""
    without = "".join(f",-{feature}" for feature in _OF_KERNELS)
    environment = {"PATH": os.environ.get("PATH", "/usr/bin")}
    return [qemu, "-cpu", f"{cpu}{without}", sys.executable], environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", default="Haswell", help="a name that qemu knows")
    add_options(parser, "x86", bits=8)
    options = parser.parse_args()
    qemu = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if qemu is None:
        sys.exit("qemu-x86_64 is missing; try: apt-get install qemu-user")
    good = run_on([options.cpu], lambda cpu: emulated(qemu, cpu), "x86", options)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
