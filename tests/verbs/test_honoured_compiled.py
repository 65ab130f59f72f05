"""A placement that NVIDIA's compiler does not honour: an error, or a warning that counts."""

import json
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner
from rich.console import Console

from edgevit import api
from edgevit.cli import main
from edgevit.errors import UnsupportedError
from edgevit.report.table import inspect_table
from edgevit.runner.engines.tensorrt.kernel_table import kernel_table
from edgevit.targets.tensorrt import target as lowering
from edgevit.targets.tensorrt.compiling import NOT_CHECKED
from edgevit.targets.tensorrt.target import TensorRTTarget
from edgevit.zoo import reference_images

QUICK = {"bits": 8, "method": "minmax", "num_calib": 2}


def quantized(target, **options):
    images = str(reference_images("calibration"))
    return api.quantize("vit_cifar10", images, target=target, **{**QUICK, **options})


@pytest.fixture
def compiler():
    """NVIDIA's compiler, where it is installed."""
    return pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def fused(monkeypatch):
    """Graphs whose q, k and v are gathered: the compiler runs each qkv in half precision."""
    monkeypatch.setattr(lowering, "with_cut_heads", lambda graph, **_: graph)


def test_every_quantized_product_of_every_form_is_compiled_as_asked(compiler, tmp_path):
    artefact = quantized("rtx-ada")
    bundle = artefact.save(tmp_path / "b")
    assert bundle.variants == ("int8", "fp16", "int8_attention", "fp8")
    found = {one["variant"]: one for one in api.inspect(bundle.path)["kernels"]}
    assert {name: (one["low"], one["quantized"]) for name, one in found.items()} == {
        "int8": (24, 24),
        "fp16": (0, 0),
        "int8_attention": (36, 36),
        "fp8": (36, 36),
    }
    for variant, low in {"int8": "int8", "int8_attention": "int8", "fp8": "fp8"}.items():
        rows = [row for row in found[variant]["products"] if row["asked"] != "float"]
        assert {(row["chosen"], row["reason"]) for row in rows} == {(low, "")}
        assert found[variant]["capabilities"] == ["SM89"]
    assert found["int8"]["kernels"] < 78  # with three products
    assert artefact.kernel_tables == list(map(kernel_table, bundle.kernel_tables()))
    assert bundle.manifest["warnings"] == []


def test_a_main_form_that_is_not_honoured_is_refused(compiler, fused):
    with pytest.raises(UnsupportedError, match="EV318") as caught:
        quantized("rtx-ampere")
    error = caught.value
    assert error.what == "6 of 24 quantized products got no kernel of their precision."
    assert error.where.startswith(
        "blocks.0.attn.qkv, blocks.1.attn.qkv, blocks.2.attn.qkv and 3 more; compiled for SM86 by"
    )
    assert "rearranges its weight" in error.why
    assert "give every part a product and a weight of its own" in error.why
    assert "--allow-fallback" in error.try_next


def test_with_leave_it_is_a_warning_that_counts(compiler, fused, tmp_path):
    words = ["quantize", "--model", "vit_cifar10", "--bits", "8", "--method", "minmax"]
    words += ["--num-calib", "2", "--target", "rtx-ampere", "--allow-fallback", "--json", "-"]
    done = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    manifest = json.loads(done.stdout)
    notes = [note for note in manifest["warnings"] if "got no kernel" in note]
    assert [note.partition(":")[0] for note in notes] == ["int8", "int8_attention"]
    assert "6 of 24 quantized products" in notes[0]
    main_form = manifest["kernels"][0]
    missed = [row for row in main_form["products"] if row["asked"] != "float" and row["reason"]]
    assert {row["module"] for row in missed} == {f"blocks.{at}.attn.qkv" for at in range(6)}
    assert {row["chosen"] for row in missed} == {"fp16"}
    assert "18 of 24" in done.stderr
    assert "fallback" not in (tmp_path / "b" / "recipe.toml").read_text()


def test_a_form_beside_it_that_is_not_honoured_is_left_out(compiler, monkeypatch, tmp_path):
    """No graph of ours makes only that one so: its kernels are taken away."""
    original = TensorRTTarget.with_kernels

    def with_kernels(self, lowered, variant):
        found = original(self, lowered, variant)
        if variant != "int8_attention":
            return found
        return replace(found, kernels=replace(found.kernels, layers=()))

    monkeypatch.setattr(TensorRTTarget, "with_kernels", with_kernels)
    artefact = quantized("rtx-ampere")
    assert list(artefact.variants) == ["fp16"]
    (note,) = [note for note in artefact.quantized.notes if "left out" in note]
    assert note.startswith("int8_attention is left out: 36 of 36 quantized products got no kernel")
    assert artefact.save(tmp_path / "b").variants == ("int8", "fp16")


def test_for_an_orin_it_is_evidence_and_never_an_error(compiler, fused, tmp_path):
    bundle = quantized("jetson-orin-nano").save(tmp_path / "b")
    notes = [note for note in bundle.manifest["warnings"] if "got no kernel" in note]
    assert len(notes) == 2
    assert all("compiled for SM86" in note for note in notes)
    assert all(note.endswith("builds an engine of its own, which may differ.") for note in notes)
    console = Console(width=200, record=True)
    console.print(inspect_table(api.inspect(bundle.path)))
    shown = console.export_text()
    assert "compiled by TensorRT for RTX 1." in shown
    assert "SM86" in shown
    assert "the device builds its own engine; this is evidence only" in shown


@pytest.mark.parametrize(("target", "notes"), [("rtx-ada", [NOT_CHECKED]), ("jetson-thor", [])])
def test_without_the_compiler_it_is_said(target, notes, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    bundle = quantized(target).save(tmp_path / "b")
    assert bundle.manifest["warnings"] == notes
    assert bundle.kernel_tables() == []
