"""Opens thousands of changed bundles whose hashes all fit, and counts what harm came of them.

    python benchmarks/hostile.py --kind manifests --num 10000
    python benchmarks/hostile.py --kind graphs --num 5000

Manifests are changed as JSON, graphs as valid protobuf (tests/hostile/fuzzing.py). A process that
may write no byte opens, inspects, runs and reports each (tests/hostile/victim.py). The row in
results/hostile.csv counts those that wrote, started or crashed something, ended in a traceback,
took 2 GB of memory, or more than a minute.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rows import add_row

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "hostile"))
from fuzzing import KINDS, Tally, base_bundles, described, fuzz
from judging import Judge


def main() -> None:
    """Try the changes and add a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--num", type=int, required=True, help="how many changes to try")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them")
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.num)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("bases", "scratch", "sandbox"):
            (folder / part).mkdir()
        bases = base_bundles(folder / "bases")
        with Judge(folder / "sandbox") as judge:
            tally = fuzz(options.kind, numbers, bases, judge, folder / "scratch")
    if tally.examples:
        print(described(tally), file=sys.stderr)
    add_row("hostile", row_of(options.kind, tally))
    sys.exit(bool(tally.examples))


def row_of(kind: str, tally: Tally) -> dict[str, object]:
    """Return the row of a tally."""
    return {
        "kind": kind,
        "tried": tally.tried,
        "ran": tally.opened,
        "refused": sum(tally.refused.values()),
        "harmed": tally.harmed,
        "tracebacks": tally.tracebacks,
        "over_2_gb": tally.over_memory,
        "over_60_s": tally.over_time,
        "peak_mb": tally.peak_bytes / 1e6,
        "longest_s": tally.seconds,
        "codes": " ".join(f"{code}:{count}" for code, count in sorted(tally.refused.items())),
    }


if __name__ == "__main__":
    main()
