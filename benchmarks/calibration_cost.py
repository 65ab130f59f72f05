"""Wall time and peak memory of `edgevit quantize` as a whole process.

python benchmarks/calibration_cost.py --data imagenet_sample --models deit_s,swin_b --bits 6
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import add_row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--models", default="deit_s,swin_b")
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--num-calib", type=int, default=32)
    parser.add_argument("--method", default="edgevit")
    options = parser.parse_args()
    for model in options.models.split(","):  # one process each: peak memory is a maximum
        measure(options, model)


def measure(options: argparse.Namespace, model: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "edgevit.cli", "quantize", "--model", model]
        command += ["--no-pretrained", "--bits", str(options.bits), "--method", options.method]
        command += ["--calib", options.data, "--num-calib", str(options.num_calib)]
        start = time.perf_counter()
        subprocess.run([*command, "-o", str(Path(folder) / "b")], check=True)
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    add_row(
        "calibration_cost",
        {
            "model": model,
            "bits": options.bits,
            "method": options.method,
            "images": options.num_calib,
            "seconds": seconds,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "largest_peak_so_far_gb": used.ru_maxrss * 1024 / 1e9,
        },
    )


if __name__ == "__main__":
    main()
