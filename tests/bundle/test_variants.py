"""Bundles with several variants: what is stored once, read back, and refused when damaged."""

import json
import math
import shutil
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from edgevit import api
from edgevit.bundle import open_bundle
from edgevit.bundle.manifest import MANIFEST, dump_manifest
from edgevit.errors import BundleError, UnsupportedError, UsageError
from edgevit.report.table import inspect_table
from edgevit.runner.engines.onnxruntime.session import session_from_bundle
from edgevit.runner.measure.selfcheck import self_check
from edgevit.zoo import reference_images


@pytest.fixture(scope="module")
def artefact():
    return api.quantize(
        "vit_cifar10",
        str(reference_images("calibration")),
        bits=8,
        target="jetson-thor",
        method="minmax",
        num_calib=8,
    )


@pytest.fixture(scope="module")
def bundle(artefact, tmp_path_factory):
    return artefact.save(tmp_path_factory.mktemp("variants") / "bundle")


def test_every_variant_computes_what_was_simulated(artefact, bundle):
    normalize = artefact.model.preprocessing.normalize
    assert bundle.variants == ("int8", "fp16", "int8_attention", "fp8")
    assert (bundle.engine_name, bundle.optimizes) == ("tensorrt", False)
    errors = {}
    for variant in bundle.variants:
        session = session_from_bundle(bundle, threads=1, variant=variant)
        checked = self_check(session, bundle.golden(variant), normalize)
        assert checked.agreement_percent == 100.0
        errors[variant] = checked.rms_error
    assert errors["fp16"] < 0.1 * errors["int8"] < 0.01


def test_the_largest_shift_of_a_scale_is_told(artefact, bundle):
    """To a float16 number, half a step of 2^-10 away at most, or to the one beside it."""
    told = bundle.manifest["calibration"]["scale_shift_percent"]
    forms = [artefact.quantized, artefact.variants["int8_attention"].quantized]
    assert told == 100 * max(form.scale_shift for form in forms)
    assert 0 < told < 0.15
    console = Console(width=200, record=True, file=StringIO())
    console.print(inspect_table(bundle.manifest))
    assert f"scales moved by {told:.3f} % at most" in console.export_text()


def test_variants_differ_and_say_what_they_quantize(bundle):
    golden = {name: bundle.golden(name)["logits_simulated"] for name in bundle.variants}
    assert not np.array_equal(golden["int8"], golden["fp8"])
    kernels = {
        name: sum(row["kernel"] == "Q/DQ" for row in bundle.layers(name))
        for name in bundle.variants
    }
    products = len(bundle.layers())
    assert kernels["fp16"] == 0
    assert 0 < kernels["int8"] < kernels["int8_attention"] == kernels["fp8"] < products
    carriers = {row.get("carrier") for row in bundle.layers("fp8")}
    assert carriers == {None, "f8 x f8"}


def test_tensors_of_equal_content_are_stored_once(bundle):
    """fp8 rounds the very weights of fp16; int8_attention has the codes of the main graph."""
    table = bundle.manifest["variants"]
    main = {entry.name for entry in bundle.tensors}
    codes = {n: s for n, s in table["int8_attention"]["tensors"].items() if "weight_codes" in n}
    assert codes
    assert set(codes.values()) <= main
    halves = {entry.name: entry for entry in bundle.variant_tensors}
    shared = set(table["fp16"]["tensors"].values()) & set(table["fp8"]["tensors"].values())
    assert any(halves[name].dtype == "float16" for name in shared & set(halves))
    weights = 2 * bundle.manifest["model"]["parameters"]
    assert sum(entry.size_bytes for entry in halves.values()) < 1.05 * weights


def test_an_unknown_variant_is_refused(bundle):
    for read in (bundle.engine_onnx, bundle.golden, bundle.layers):
        with pytest.raises(UsageError, match="EV416"):
            read("int4")


@pytest.mark.parametrize("name", ["variants.bin", "fp16.onnx", "fp8.onnx"])
def test_a_flipped_byte_is_found(bundle, tmp_path, name):
    copy = shutil.copytree(bundle.path, tmp_path / "copy")
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match="EV405"):
        open_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match="EV404"):
        open_bundle(copy)


def resealed(bundle, folder, change):
    copy = shutil.copytree(bundle.path, folder / "copy")
    manifest = json.loads((copy / MANIFEST).read_text())
    change(manifest)
    (copy / MANIFEST).write_bytes(dump_manifest(manifest))
    return copy


def name_often(table, stored):
    """One stored tensor as so many initializers that the model would not fit 2 GiB."""
    sizes = {
        row["name"]: math.prod(row["shape"]) * np.dtype(row["dtype"]).itemsize for row in stored
    }
    largest = max(sizes, key=sizes.get)
    table.update({f"copy{n}": largest for n in range(2**31 // sizes[largest] + 1)})


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda m: m["variants"].update(int4=m["variants"]["fp16"]), "EV402"),
        (lambda m: m["variants"]["fp16"].update(graph="../fp16.onnx"), "EV402"),
        (lambda m: m["variants"]["fp16"].update(graph="graph.onnx"), "EV402"),
        (lambda m: m["variants"]["fp16"].update(golden="images"), "EV402"),
        (lambda m: m["variants"]["fp16"]["tensors"].update(x="not stored"), "EV402"),
        (lambda m: m["variants"]["fp16"].update(tensors=[]), "EV402"),
        (lambda m: m["variants"]["fp16"]["tensors"].update(x=["not", "a", "name"]), "EV402"),
        (lambda m: m["variants"]["fp16"].update(layers={}), "EV402"),
        (lambda m: m["variants"]["fp16"].update(layers=[1]), "EV402"),
        (lambda m: name_often(m["variants"]["fp16"]["tensors"], m["tensors"]), "EV402"),
        (lambda m: m.update(variants=[]), "EV402"),
        (lambda m: m["files"].pop("fp16.onnx"), "EV402"),
        (lambda m: m["files"].pop("variants.bin"), "EV402"),
        (lambda m: m["variant_tensors"].append(dict(m["variant_tensors"][0])), "EV407"),
    ],
)
def test_a_manifest_with_wrong_variants_is_refused(bundle, tmp_path, change, code):
    with pytest.raises(BundleError, match=code):
        open_bundle(resealed(bundle, tmp_path, change))


def test_a_bundle_without_variants_has_one(bundle_path):
    tiny = open_bundle(bundle_path)
    assert tiny.variants == ("int8",)
    assert tiny.engine_onnx("int8") == tiny.engine_onnx()
    assert tiny.optimizes


def test_validate_and_inspect_say_what_it_is(bundle, capsys):
    from edgevit.console import console
    from edgevit.report.table import inspect_table

    report = api.validate(bundle, str(reference_images("test")), num=20, rounds=2, threads=1)
    (warning,) = [text for text in report["warnings"] if "TensorRT" in text]
    assert warning.startswith("ONNX Runtime on the CPU stands in for TensorRT")
    assert report["agreement"]["engine_vs_simulated"] == 100.0
    console().print(inspect_table(bundle.manifest))
    assert "also as fp16, int8_attention, fp8" in capsys.readouterr().err


def test_what_stands_in_runs_on_the_cpu_only(bundle):
    with pytest.raises(UnsupportedError) as caught:
        api.validate(
            bundle, str(reference_images("test")), num=10, provider="CUDAExecutionProvider"
        )
    assert caught.value.code == "EV828"
