"""Pack the small image sets that ship with EdgeViT.

Takes the CIFAR-10 tar (``train/<class>/*.jpg`` and ``test/<class>/*.jpg``) and writes two zip
files with the original JPEG bytes, not re-encoded:

* ``calibration.zip``: 256 training images, as even over the classes as 256 allows;
* ``test.zip``: 1,000 test images, 100 of each class.

The choice is seeded, the members are sorted and carry one fixed time stamp, so that the same
tar gives the same bytes every time.

Usage: ``python examples/pack_assets.py --data cifar10.tar.gz --out edgevit/assets``
"""

from __future__ import annotations

import argparse
import random
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

STAMP = (2020, 1, 1, 0, 0, 0)
Members = dict[str, dict[str, bytes]]


def read_split(tar_path: Path, split: str) -> Members:
    """Return ``{class: {file name: JPEG bytes}}`` for one split of the tar."""
    found: Members = defaultdict(dict)
    with tarfile.open(tar_path) as tar:
        for member in tar:
            parts = member.name.split("/")
            if not member.isfile() or len(parts) != 3 or parts[0] != split:
                continue
            handle = tar.extractfile(member)
            assert handle is not None
            found[parts[1]][parts[2]] = handle.read()
    return found


def shares(total: int, classes: Sequence[str], rng: random.Random) -> dict[str, int]:
    """Split ``total`` over the classes as evenly as possible; the rest goes to drawn classes."""
    base, rest = divmod(total, len(classes))
    extra = set(rng.sample(list(classes), rest))
    return {name: base + (name in extra) for name in classes}


def choose(members: Members, total: int, seed: int) -> dict[str, bytes]:
    """Draw ``total`` images, class balanced, and return ``{class/name: bytes}`` sorted."""
    rng = random.Random(seed)
    counts = shares(total, sorted(members), rng)
    picked: dict[str, bytes] = {}
    for name in sorted(members):
        for file in sorted(rng.sample(sorted(members[name]), counts[name])):
            picked[f"{name}/{file}"] = members[name][file]
    return picked


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the files in order, stored without compression, all with the same time stamp."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, date_time=STAMP)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Pack the image sets shipped with EdgeViT.")
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10 tar of JPEG files")
    parser.add_argument("--out", type=Path, default=Path("edgevit/assets"))
    parser.add_argument("--calibration", type=int, default=256, help="training images to pack")
    parser.add_argument("--test", type=int, default=1000, help="test images to pack")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Write ``calibration.zip`` and ``test.zip``."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wanted = (("calibration", "train", args.calibration), ("test", "test", args.test))
    for name, split, total in wanted:
        files = choose(read_split(args.data, split), total, args.seed)
        path = args.out / f"{name}.zip"
        write_zip(path, files)
        print(f"{path}: {len(files)} images, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
