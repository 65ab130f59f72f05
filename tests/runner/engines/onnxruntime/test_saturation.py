"""Whether sums of 8-bit products are exact here, and which form of a bundle is run."""

import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgevit import api
from edgevit.bundle.manifest import EXACT_VARIANT
from edgevit.errors import DeviceError
from edgevit.runner.engines.onnxruntime import session as sessions
from edgevit.runner.engines.onnxruntime.probe import PROBE, exact_config, saturates
from edgevit.runner.engines.onnxruntime.session import (
    EngineSession,
    session_from_bundle,
    variant_here,
)
from edgevit.runner.measure.selfcheck import self_check
from edgevit.zoo import reference_images

QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")


@pytest.fixture(scope="module")
def artefact():
    return api.quantize(
        "vit_cifar10", reference_images("calibration"), bits=8, method="minmax", num_calib=4
    )


@pytest.fixture(scope="module")
def bundle(artefact, tmp_path_factory):
    return artefact.save(tmp_path_factory.mktemp("saturation") / "bundle")


def test_the_probe_is_one_product_of_u8_and_s8():
    matrix = helper.make_tensor_value_info
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    inputs = ["a", "b", "one", "one"]
    node = helper.make_node("MatMulIntegerToFloat", inputs, ["y"], domain="com.microsoft")
    graph = helper.make_graph(
        [node],
        "saturation",
        [matrix("a", TensorProto.UINT8, ["M", "K"]), matrix("b", TensorProto.INT8, ["K", "N"])],
        [matrix("y", TensorProto.FLOAT, ["M", "N"])],
        [one],
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    assert onnx.ModelProto.FromString(PROBE) == helper.make_model(
        graph, ir_version=8, opset_imports=versions
    )


class PairsIn16Bits:
    """An engine that adds neighbouring products in 16 bits, as VPMADDUBSW does."""

    def __init__(self, model, options, providers):
        assert (model, options.intra_op_num_threads) == (PROBE, 1)

    def run(self, names, inputs):
        a, b = (inputs[name].astype(np.int64) for name in "ab")
        products = a[:, :, None] * b  # [M, K, N]
        pairs = products[:, ::2] + products[:, 1::2]
        return [np.clip(pairs, -(1 << 15), (1 << 15) - 1).sum(1).astype(np.float32)]


class TwiceTheLeast(PairsIn16Bits):
    """An engine that takes 128 off the left codes and wraps where both products are 2^14."""

    def run(self, names, inputs):
        a, b = inputs["a"].astype(np.int64) - 128, inputs["b"].astype(np.int64)
        products = a[:, :, None] * b
        pairs = (products[:, ::2] + products[:, 1::2]).astype(np.int16).astype(np.int64)
        return [(pairs.sum(1) + 128 * b.sum(0)).astype(np.float32)]


class Runtime:
    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, session):
        self.InferenceSession = session


@pytest.mark.parametrize("engine", [PairsIn16Bits, TwiceTheLeast])
def test_an_engine_that_saturates_is_found(engine):
    assert saturates(Runtime(engine))
    assert exact_config(Runtime(engine)) == {"session.x64quantprecision": "1"}


def test_an_engine_that_is_exact_is_left_alone():
    class Exact(PairsIn16Bits):
        def run(self, names, inputs):
            a, b = (inputs[name].astype(np.int64) for name in "ab")
            return [(a @ b).astype(np.float32)]

    assert not saturates(Runtime(Exact))
    assert exact_config(Runtime(Exact)) == {}


def test_weights_become_unsigned_only_where_sums_saturate(bundle, tmp_path):
    """Unsigned weights take three times as long, which only wrong sums are worth."""
    assert bundle.session_config == {}
    session_from_bundle(bundle)  # as it is opened: the same options, written to a file here
    EngineSession(bundle.engine_onnx(), threads=1, save_optimized=tmp_path / "optimised.onnx")
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    types = {constant.name: constant.data_type for constant in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    found = [types[node.input[1]] for node in products if node.input[1] in types]
    wanted = TensorProto.UINT8 if saturates(onnxruntime) else TensorProto.INT8
    assert len(found) == 38
    assert set(found) == {wanted}


def test_both_forms_of_an_8_bit_model_compute_the_same_integers(artefact, bundle):
    assert bundle.variants == ("int8", EXACT_VARIANT)
    products = [r for r in bundle.layers(EXACT_VARIANT) if r["module"].endswith((".qk", ".pv"))]
    assert {row["carrier"] for row in products} == {"u8 x u8"}
    golden, unsigned = bundle.golden(), bundle.golden(EXACT_VARIANT)
    assert np.array_equal(golden["logits_simulated"], unsigned["logits_simulated"])
    pixels = golden["images"][:8]
    assert np.array_equal(artefact.simulate(pixels), artefact.simulate(pixels, EXACT_VARIANT))
    images = artefact.model.preprocessing.normalize(pixels)
    safe = session_from_bundle(bundle, threads=1, variant=EXACT_VARIANT).run(images)
    if not saturates(onnxruntime):
        usual = session_from_bundle(bundle, threads=1, variant="int8").run(images)
        assert np.array_equal(usual, safe)
    checked = self_check(
        session_from_bundle(bundle, threads=1), golden, artefact.model.preprocessing.normalize
    )
    assert checked.identical_percent == 100
    assert not [entry for entry in bundle.variant_tensors if "weight" in entry.name]


def test_the_form_is_chosen_by_what_the_engine_computes(bundle, monkeypatch):
    opened = []
    monkeypatch.setattr(sessions, "EngineSession", lambda onnx, **_: opened.append(onnx))
    for answer, name in ((True, EXACT_VARIANT), (False, "int8")):
        monkeypatch.setattr(sessions, "saturates", lambda runtime, answer=answer: answer)
        assert variant_here(bundle) == name
        session_from_bundle(bundle)
        assert opened[-1] == bundle.engine_onnx(name)
        assert variant_here(bundle, "CUDAExecutionProvider") == "int8"
    assert opened[0] != opened[1]


def test_an_engine_that_refuses_the_probe_is_named(bundle, monkeypatch):
    def refuses(runtime):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(sessions, "saturates", refuses)
    with pytest.raises(DeviceError, match="EV712"):
        session_from_bundle(bundle)


def test_below_8_bits_one_form_is_enough(tmp_path):
    made = api.quantize(
        "vit_cifar10", reference_images("calibration"), bits=7, method="minmax", num_calib=4
    )
    assert made.save(tmp_path / "bundle").variants == ("int8",)


ON_ANOTHER = """
import sys
import numpy as np
from edgevit.bundle import open_bundle
from edgevit.data.normalizing import normalizer
from edgevit.runner.engines.onnxruntime.session import session_from_bundle, variant_here
bundle = open_bundle(sys.argv[1])
images = normalizer(bundle.preprocessing)(bundle.golden()["images"])
found = {name: session_from_bundle(bundle, threads=1, variant=name).run(images)
         for name in bundle.variants}
found["taken"] = session_from_bundle(bundle, threads=1).run(images)
print(variant_here(bundle))
np.savez(sys.argv[2], **found)
"""


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 (package qemu-user) is not installed")
def test_an_emulated_processor_without_vnni_computes_the_same_logits(tmp_path):
    """The usual form is wrong there, and the runner takes the other one."""
    made = api.quantize("vit_cifar10", reference_images("calibration"), bits=8, num_calib=8)
    path = made.save(tmp_path / "bundle").path
    there = [QEMU, "-cpu", "Haswell", sys.executable]
    names = []
    for python, file in (([sys.executable], "here.npz"), (there, "there.npz")):
        command = [*python, "-c", ON_ANOTHER, str(path), str(tmp_path / file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        names.append(done.stdout.splitlines()[-1])
    here, emulated = (dict(np.load(tmp_path / name)) for name in ("here.npz", "there.npz"))
    assert names[1] == EXACT_VARIANT
    assert np.array_equal(emulated["taken"], emulated[EXACT_VARIANT])
    unlike = {name: np.abs(emulated[name] - here[name]).max() for name in emulated}
    assert unlike[EXACT_VARIANT] < 1e-4 < 1e-3 < unlike["int8"]
