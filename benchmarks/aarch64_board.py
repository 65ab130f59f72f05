"""The emulated side of `aarch64.py` and `x86.py`: numpy, ONNX Runtime and the rooms a board gets.

python aarch64_board.py golden BUNDLE          the golden images through the thin runner
python aarch64_board.py tensors FOLDER         FOLDER/model.onnx with its tensors to a file
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def golden(path: str) -> dict[str, Any]:
    """Open the bundle, which verifies every byte, and compare its golden logits."""
    from edgevit.bundle import open_bundle
    from edgevit.data.normalizing import normalizer
    from edgevit.runner.engines.onnxruntime.session import session_from_bundle, variant_here
    from edgevit.runner.measure.selfcheck import self_check

    bundle = open_bundle(path)
    session = session_from_bundle(bundle, threads=1)
    start = time.perf_counter()
    checked = self_check(session, bundle.golden(), normalizer(bundle.preprocessing))
    seconds = time.perf_counter() - start
    heavy = {"torch", "onnx", "PIL", "timm", "click", "rich"} & set(sys.modules)
    assert not heavy, heavy
    return {
        "variant": variant_here(bundle),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "engine": session.engine,
        "golden_seconds": seconds,
        **checked.to_dict(),
    }


def tensors(folder: Path) -> dict[str, Any]:
    """Run FOLDER/model.onnx on images.npy exactly; write outputs and optimised graph."""
    import onnxruntime

    from edgevit.runner.engines.onnxruntime.probe import exact_config

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    for key, value in exact_config(onnxruntime).items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(
        (folder / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    names = json.loads((folder / "names.json").read_text())
    values = session.run(names, {"image": np.load(folder / "images.npy")})
    np.savez(folder / "tensors.npz", **{str(i): value for i, value in enumerate(values)})
    return {"tensors": len(values)}


def main() -> None:
    verb, path = sys.argv[1:]
    print(json.dumps(golden(path) if verb == "golden" else tensors(Path(path))))


if __name__ == "__main__":
    main()
