"""The script for a machine with a GPU, as far as it goes without one."""

import json
import sys
import time

import gpu
import numpy as np
import pytest
import torch
from gpu_torch import TorchGraph
from onnx import TensorProto, helper, numpy_helper

import edgevit
from edgevit.data.normalizing import normalizer
from edgevit.runner.engines.tensorrt.parity import check_parity
from edgevit.zoo import reference_images


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    images = reference_images("calibration")
    settings = {"bits": 8, "target": gpu.TARGET, "method": "minmax", "num_calib": 4}
    folder = tmp_path_factory.mktemp("gpu") / "vit_cifar10"
    return edgevit.quantize("vit_cifar10", images, **settings).save(folder)


def run(monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
    monkeypatch.setattr(gpu, "_BEGAN", time.monotonic())  # when it was imported, else
    status = gpu.main()
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    status, said = run(monkeypatch, capsys)
    assert status == gpu.NO_GPU
    assert [line["what"] for line in said] == ["no GPU"]


def test_a_dry_run_measures_parity_of_every_variant(bundle, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "_roundings", lambda *_: None)  # has a test of its own
    options = ("--device", "cpu", "--models", bundle.path.name)
    status, said = run(monkeypatch, capsys, *options, "--bundles", str(bundle.path.parent))
    parity = [line for line in said if line["what"] == "parity"]
    assert status == 0
    assert {line["variant"] for line in parity} == set(bundle.variants)
    assert all(line["cosine"] > 0.999 for line in parity)
    assert not next(line for line in said if line["what"] == "TensorRT for RTX")["runs"]


@pytest.mark.parametrize("variant", ["int8", "fp16", "int8_attention", "fp8"])
def test_the_graph_as_written_gives_the_simulated_logits(bundle, variant):
    session = TorchGraph(bundle.engine_onnx(variant), "cpu", integers=False)
    found = check_parity(session, bundle.golden(), normalizer(bundle.preprocessing), variant)
    assert found.max_error < 1e-3
    assert found.agreement_percent == 100


def test_products_of_codes_are_near(bundle):
    session = TorchGraph(bundle.engine_onnx("int8"), "cpu", integers=True)
    found = check_parity(session, bundle.golden(), normalizer(bundle.preprocessing), "int8")
    assert session.products == {"int8": 24, "float": 14}
    assert 0 < found.max_error < 0.3


def test_triton_rounds_as_the_graph_says(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    from gpu_rounding import WAYS, rounding

    scale = numpy_helper.from_array(np.float16(0.037), "scale")
    zero = numpy_helper.from_array(np.int8(0), "zero")
    ends = [
        helper.make_tensor_value_info(name, kind, [1])
        for name, kind in (("x", TensorProto.FLOAT16), ("codes", TensorProto.INT8))
    ]
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"])
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], [scale, zero])
    found = rounding([helper.make_model(graph).SerializeToString()], "cpu")
    assert (found["scales"], found["numbers"]) == (1, 63488)
    assert found["other_codes"][WAYS[0]] == 0
    assert found["other_codes"][WAYS[2]] > 0
