"""A board's own kernels beside those compiled when the model was quantized."""

import json

import pytest

from edgevit.bundle import open_bundle
from edgevit.report.compiled import compared_lines
from edgevit.runner.engines.tensorrt.compared_kernels import with_compared_kernels
from edgevit.runner.engines.tensorrt.inspecting import (
    EngineLayer,
    LayerOperand,
    layers_from_inspector,
)
from edgevit.runner.engines.tensorrt.kernel_table import KernelTable
from edgevit.runner.engines.tensorrt.layer_table import product_rows

ENCODER = "/encoder/layers.0"
COMPILED = {"engine": "tensorrt_rtx 1.7.1", "capabilities": ["SM86"], "kernels": 2}


@pytest.fixture
def bundle(parts, tmp_path):
    """Compiled in INT8: a product that is in half on the board, one that it does not tell of."""
    names = {f"{ENCODER}/pos_ff/output/MatMul": "ff.out", "nowhere": "lost"}
    rows = [
        {"name": name, "module": module, "carrier": "s8 x s8"} for name, module in names.items()
    ]
    parts.manifest["layers"] = rows
    codes = LayerOperand("x", "int8", (-1, 64))
    weight = LayerOperand("w", "int8", (64, 64))
    layers = tuple(
        EngineLayer(name, "gemm", (codes,), (weight,), onnx_nodes=(name,)) for name in names
    )
    table = KernelTable("int8", "tensorrt_rtx 1.7.1", ("SM86",), 16, layers, "0" * 64)
    return open_bundle(parts.write(tmp_path / "b", kernel_tables=[table.to_dict()]))


@pytest.fixture
def build(bundle, recorded):
    """What a board would send of the recorded engine."""
    layers = layers_from_inspector(recorded("bert_myelin_a100.layers.json"))
    table = KernelTable("int8", "tensorrt 10.3.0", ("SM87",), 16, layers)
    rows = [row.to_dict() for row in product_rows(bundle.layers(), layers)]
    return json.loads(json.dumps({"layers": rows, "kernels": table.to_dict()}))


def test_products_of_another_precision_and_counts_are_told(bundle, build):
    found = with_compared_kernels(build, bundle)["compared"]
    assert found["compiled"] == COMPILED
    assert found["here"] == {"engine": "tensorrt 10.3.0", "capabilities": ["SM87"], "kernels": 4}
    assert (found["same"], found["unknown"]) == (0, 1)
    (row,) = found["differ"]
    assert (row["module"], row["compiled"], row["here"]) == ("ff.out", "int8", "fp16")
    assert compared_lines(found) == [
        "kernels of int8: 4 by tensorrt 10.3.0 here, 2 compiled for SM86 by TensorRT for RTX 1.7.1",
        "products: 0 in the precision compiled, 1 in another, 1 not told",
        "another precision: ff.out (fp16 here, int8 compiled)",
    ]


def test_the_same_kernels_differ_in_nothing(bundle, build):
    build["layers"][0]["chosen"] = "int8"
    found = with_compared_kernels(build, bundle)["compared"]
    assert (found["same"], found["differ"]) == (1, [])
    assert len(compared_lines(found)) == 2


def test_without_either_there_is_nothing_to_compare(bundle, build, make_parts, tmp_path):
    assert with_compared_kernels(None, bundle) is None
    assert with_compared_kernels({**build, "kernels": None}, bundle)["compared"] is None
    bare = open_bundle(make_parts().write(tmp_path / "bare"))
    assert with_compared_kernels(build, bare)["compared"] is None
    assert compared_lines(None) == []
