"""Bytes on disk of packed bundles (graph and weights) against the fp32 weights file.

python benchmarks/size.py --data imagenet_sample --models deit_s,vit_b,swin_b --bits 8,6,4
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rows import add_row
from safetensors.torch import save_file

from edgevit import api
from edgevit.zoo import load_model


def fp32_file_bytes(model: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(load_model(model, pretrained=False).model.state_dict(), str(path))
        return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--models", default="deit_s,vit_b,swin_b")
    parser.add_argument("--bits", default="8,6,4")
    options = parser.parse_args()
    for model in options.models.split(","):
        fp32 = fp32_file_bytes(model)
        for bits in map(int, options.bits.split(",")):
            artefact = api.quantize(
                model, options.data, bits=bits, method="minmax", num_calib=2, pretrained=False
            )
            with tempfile.TemporaryDirectory() as folder:
                bundle = artefact.save(Path(folder) / "b", include_reference=False)
                golden = bundle.manifest["files"]["golden.npz"]["size_bytes"]
                size = bundle.size_bytes("bundle") - golden
            limit = 100 * bits / 32 + 3
            row = {"model": model, "bits": bits, "bundle_bytes": size, "fp32_bytes": fp32}
            add_row("size", {**row, "percent": 100 * size / fp32, "limit_percent": limit})


if __name__ == "__main__":
    main()
