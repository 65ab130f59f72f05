"""`edgevit explain` on a bundle for a GPU, with NVIDIA's compiler: sizes, sums, blocks, reasons."""

import json
from math import prod

import pytest
from click.testing import CliRunner

import edgevit
from edgevit.bundle.graph_values import graph_values
from edgevit.cli import main
from edgevit.errors import EnvironmentError_, UnsupportedError, UsageError
from edgevit.runner.engines.tensorrt.cost_model import kernel_works
from edgevit.runner.engines.tensorrt.kernel_sizes import sized_kernels
from edgevit.verbs import explain as verb
from edgevit.zoo import reference_images

pytest.importorskip("tensorrt_rtx")

from edgevit.runner.engines.tensorrt_rtx.compiling import compiled_from_onnx
from edgevit.targets.tensorrt.profiles import PROFILES


@pytest.fixture(scope="module", params=["vit_cifar10", "swin_cifar10"])
def bundle(request, tmp_path_factory):
    """A bundle of a small model for RTX 40, with all its variants."""
    images = reference_images("calibration")
    settings = {"bits": 8, "method": "minmax", "num_calib": 8, "target": "rtx-ada"}
    made = edgevit.quantize(request.param, images, **settings)
    return made.save(tmp_path_factory.mktemp("rtx") / request.param)


@pytest.fixture(scope="module")
def tables(bundle):
    """Kernels as they are compiled where the bundle has none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(bundle), "kernel_tables", lambda self: [])
        return verb.kernels_of(bundle, PROFILES["rtx-ada"])


def for_eight_images(content):
    """The graph with its batch fixed, for which the compiler writes no -1 at all."""
    import onnx

    model = onnx.load_from_string(content)
    size = model.graph.input[0].type.tensor_type.shape.dim[0]
    size.ClearField("dim_param")
    size.dim_value = 8
    return model.SerializeToString()


@pytest.mark.parametrize("variant", ["int8", "fp16", "fp8"])
def test_sizes_at_eight_images_are_those_of_a_compile_for_eight(bundle, tables, variant):
    fixed = compiled_from_onnx(for_eight_images(bundle.engine_onnx(variant)), ("SM89",)).layers
    found = sized_kernels(tables[variant].layers, graph_values(bundle, variant))
    found = [one for one in found if one.layer.kind != "shape_call"]  # only where sizes are open
    assert len(found) == len(fixed) > 50
    assert not [
        one for layer in fixed for one in (*layer.inputs, *layer.outputs) if -1 in one.shape
    ]
    for kernel, layer in zip(found, fixed, strict=True):
        sides = zip(kernel.at(8), (layer.inputs, layer.outputs), strict=True)
        for shapes, operands in sides:  # one tensor may be seen as [16, 128, 48] or [2048, 48]
            assert sorted(map(prod, shapes)) == sorted(prod(one.shape) for one in operands)


def test_multiply_adds_of_the_kernels_are_those_of_the_model(bundle, tables):
    assert set(tables) == set(bundle.variants)
    for name, table in tables.items():
        works = kernel_works(sized_kernels(table.layers, graph_values(bundle, name)))
        assert sum(one.macs_per_image for one in works) == bundle.manifest["model"]["flops"]


def test_the_report(bundle, tables, monkeypatch):
    monkeypatch.setattr(verb, "kernels_of", lambda *_: tables)
    report = edgevit.api.explain(bundle, batch=4)
    json.dumps(report, allow_nan=False)
    assert (report["how"], report["shown"], report["batch"]) == ("prediction", "int8", 4)
    forms = {form["name"]: form for form in report["forms"]}
    assert next(iter(forms)) == "fp16"
    assert set(forms) == set(bundle.variants)
    for name, form in forms.items():
        for key in ("blocks", "kinds"):
            assert sum(one["time_ms"] for one in form[key]) == pytest.approx(form["time_ms"])
            kernels = sum(one["parts"] for one in form[key])
            assert kernels == tables[name].num_kernels  # as inspect and build count them
        assert sum(form["bounds"].values()) == pytest.approx(form["time_ms"])
    blocks = {one["name"]: one["products"] for one in forms["int8"]["blocks"]}
    assert len([one for one in blocks if "blocks." in one]) == 6
    assert all(products["int8"] == 4 for name, products in blocks.items() if "blocks." in name)
    reasons = list(forms["int8"]["reasons"])
    assert 1 <= len(reasons) <= 3
    assert reasons == sorted(reasons, key=lambda reason: -reason["cost_ms"])
    assert any("more kernels" in reason["text"] for reason in reasons)


def test_the_command_says_that_it_is_a_prediction(bundle, tables, monkeypatch, tmp_path):
    monkeypatch.setattr(verb, "kernels_of", lambda *_: tables)
    picture = tmp_path / "where.png"
    words = ["explain", str(bundle.path), "--variant", "fp8", "--json", "-", "--plot", str(picture)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["shown"] == "fp8"
    assert done.stderr.count("PREDICTED, not measured") == 2
    assert "fp8 ms" in done.stderr
    assert "predicted to be faster than fp16" in done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_kernels_that_are_in_the_bundle_are_not_compiled_again(bundle, tables, monkeypatch):
    monkeypatch.setattr(verb, "_compiled", None)
    assert verb.kernels_of(bundle, PROFILES["rtx-ada"]) == tables


def test_what_can_not_be_explained(bundle, tables, monkeypatch):
    with pytest.raises(UsageError, match="EV416"):
        edgevit.api.explain(bundle, variant="fp4")
    monkeypatch.setattr(type(bundle), "kernel_tables", lambda self: [])
    with pytest.raises(UnsupportedError, match="EV856"):
        verb.kernels_of(bundle, PROFILES["tensorrt-hopper"])
    without = {name: table for name, table in tables.items() if name != "fp16"}
    monkeypatch.setattr(verb, "kernels_of", lambda *_: without)
    with pytest.raises(UnsupportedError, match="EV853"):
        edgevit.api.explain(bundle)
    monkeypatch.undo()
    monkeypatch.setattr(type(bundle), "kernel_tables", lambda self: [])
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(EnvironmentError_, match="EV857") as error:
        verb.kernels_of(bundle, PROFILES["rtx-ada"])
    assert "pip install 'edgevit[rtx]'" in error.value.try_next
    assert "edgevit build" in error.value.try_next
