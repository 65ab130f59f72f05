"""Single float operators: which give the same bits in torch, here, and on another processor?

    python benchmarks/float_operators.py
    python benchmarks/float_operators.py --name Haswell --python "qemu-x86_64 -cpu Haswell python3"

The first compares torch with ONNX Runtime on this processor, the second ONNX Runtime here with ONNX
Runtime in a Python that another processor runs, such as an emulated one (it needs numpy and
onnxruntime). Inputs are random, in the shapes of a DeiT-Tiny. Rows: results/float_operators.csv.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import tempfile
from pathlib import Path

import numpy as np

TOKENS, SCORES, IMAGE = (8, 197, 192), (8, 3, 197, 197), (8, 32, 28, 28)


def main() -> None:
    """Write the operators, run them twice, and add a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="torch", help="of the other processor, for the rows")
    parser.add_argument("--python", default="", help="command that starts its Python")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(options.run, "there")
        return
    from rows import add_row

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, with_torch=not options.python)
        run(folder, "here")
        if options.python:
            command = [*shlex.split(options.python), __file__, "--run", name]
            subprocess.run(command, check=True)
        for path in sorted(folder.glob("*.onnx")):
            here, there = (np.load(path.with_suffix(f".{x}.npy")) for x in ("here", "there"))
            add_row(
                "float_operators",
                {
                    "operator": path.stem,
                    "against": options.name,
                    "values": here.size,
                    "differing_percent": 100 * float((here != there).mean()),
                    "largest_difference": float(np.abs(here - there).max() / np.abs(here).max()),
                },
            )


def run(folder: Path, name: str) -> None:
    """Run every operator in the folder with ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    for path in folder.glob("*.onnx"):
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        (output,) = session.run(None, {"x": np.load(path.with_suffix(".x.npy"))})
        np.save(path.with_suffix(f".{name}.npy"), output)


def write(folder: Path, *, with_torch: bool) -> None:
    """Write each operator, its input, and torch's output if wanted."""
    import torch
    import torch.nn.functional as F
    from onnx import helper, numpy_helper, save

    draw = np.random.default_rng(0).standard_normal
    gain, bias = (draw(192).astype(np.float32) for _ in range(2))
    matrix = draw((192, 192)).astype(np.float32)
    kernel, narrow = (draw((32, n, 3, 3)).astype(np.float32) for n in (32, 1))
    start = draw(32).astype(np.float32)
    of = torch.from_numpy
    operators = {  # name: (ONNX operator, shape, other inputs, attributes, torch's function)
        "layer_norm": (
            "LayerNormalization",
            TOKENS,
            [gain, bias],
            {"epsilon": 1e-6},
            lambda x: F.layer_norm(x, (192,), of(gain), of(bias), 1e-6),
        ),
        "softmax": ("Softmax", SCORES, [], {}, lambda x: x.softmax(-1)),
        "gelu": ("Gelu", TOKENS, [], {}, F.gelu),
        "gelu_tanh": (
            "Gelu",
            TOKENS,
            [],
            {"approximate": "tanh"},
            lambda x: F.gelu(x, approximate="tanh"),
        ),
        "sigmoid": ("Sigmoid", TOKENS, [], {}, torch.sigmoid),
        "tanh": ("Tanh", TOKENS, [], {}, torch.tanh),
        "exp": ("Exp", TOKENS, [], {}, torch.exp),
        "hardswish": ("HardSwish", TOKENS, [], {}, F.hardswish),
        "reciprocal": ("Reciprocal", TOKENS, [], {}, torch.reciprocal),
        "add": ("Add", TOKENS, [gain], {}, lambda x: x + of(gain)),
        "mul": ("Mul", TOKENS, [gain], {}, lambda x: x * of(gain)),
        "div": ("Div", TOKENS, [gain], {}, lambda x: x / of(gain)),
        "mean_of_tokens": (
            "ReduceMean",
            TOKENS,
            [np.array([1])],
            {"keepdims": 0},
            lambda x: x.mean(1),
        ),
        "mean_of_image": (
            "ReduceMean",
            IMAGE,
            [np.array([2, 3])],
            {"keepdims": 0},
            lambda x: x.mean((2, 3)),
        ),
        "l2_norm": ("ReduceL2", TOKENS, [np.array([2])], {}, lambda x: x.norm(dim=2, keepdim=True)),
        "matmul": ("MatMul", TOKENS, [matrix], {}, lambda x: x @ of(matrix)),
        "conv": (
            "Conv",
            IMAGE,
            [kernel, start],
            {"pads": [1, 1, 1, 1]},
            lambda x: F.conv2d(x, of(kernel), of(start), padding=1),
        ),
        "conv_depthwise": (
            "Conv",
            IMAGE,
            [narrow, start],
            {"pads": [1, 1, 1, 1], "group": 32},
            lambda x: F.conv2d(x, of(narrow), of(start), padding=1, groups=32),
        ),
    }
    for name, (op, shape, others, attributes, function) in operators.items():
        x = 2 * draw(shape).astype(np.float32)
        constants = [numpy_helper.from_array(value, f"c{i}") for i, value in enumerate(others)]
        names = ["x", *(constant.name for constant in constants)]
        ends = (
            helper.make_tensor_value_info(end, 1, sizes)
            for end, sizes in (("x", shape), ("y", None))
        )
        node, (first, last) = helper.make_node(op, names, ["y"], **attributes), ends
        graph = helper.make_graph([node], name, [first], [last], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        save(model, folder / f"{name}.onnx")
        np.save(folder / f"{name}.x.npy", x)
        if with_torch:
            np.save(folder / f"{name}.there.npy", function(of(x)).numpy())


if __name__ == "__main__":
    main()
