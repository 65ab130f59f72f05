"""`edgevit explain` on a bundle for the CPU: ONNX Runtime's profile, engine and fp32 in turns."""

import json

import pytest
from click.testing import CliRunner

import edgevit
from edgevit.cli import main
from edgevit.errors import BundleError, DeviceError, UnsupportedError, UsageError
from edgevit.runner.engines.onnxruntime.profiling import operator_times, reasons_of
from edgevit.runner.measure.blocks import block_names, kernel_blocks
from edgevit.runner.measure.explanation import Part, form_of
from edgevit.runner.measure.reason import Reason, costliest
from edgevit.zoo import reference_images


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    images = reference_images("calibration")
    made = edgevit.quantize("vit_cifar10", images, bits=8, method="minmax", num_calib=8)
    return made.save(tmp_path_factory.mktemp("cpu") / "vit")


@pytest.fixture(scope="module")
def report(bundle):
    return edgevit.api.explain(bundle, threads=1, rounds=5, batch=2)


def test_the_profile_of_both(report, bundle):
    json.dumps(report, allow_nan=False)
    fp32, engine = report["forms"]
    assert (report["how"], fp32["name"]) == ("measured", "fp32")
    assert engine["name"] == report["shown"]
    assert engine["name"] in bundle.variants
    for form in (fp32, engine):
        for key in ("blocks", "kinds"):
            assert sum(one["time_ms"] for one in form[key]) == pytest.approx(form["time_ms"])
        names = [one["name"] for one in form["blocks"]]
        assert names == ["patch_embed", *(f"blocks.{n}" for n in range(6)), "head"]
    assert sum(one["products"].get("int8", 0) for one in engine["blocks"]) == 50
    assert sum(one["products"].get("fp32", 0) for one in fp32["blocks"]) == 50
    kinds = {one["name"]: one["parts"] for one in engine["kinds"]}
    assert kinds["integer product"] == 50
    assert kinds["softmax"] == kinds["GELU"] == 6
    assert kinds["LayerNorm"] == 13
    assert kinds["(de)quantize"] > 30
    assert "float product" not in kinds
    assert "crossover_batch" in engine


def test_the_sum_stands_beside_runs_with_and_without_the_profile(report):
    for form in report["forms"]:
        cost = report["overhead"][form["name"]]
        assert cost["operators_ms"] == pytest.approx(form["time_ms"])
        assert min(cost.values()) > 0


def test_reasons_say_what_they_cost_and_what_to_do(report):
    reasons = report["forms"][1]["reasons"]
    assert 1 <= len(reasons) <= 3
    assert any("(de)quantize" in reason["text"] for reason in reasons)
    assert all(reason["cost_ms"] > 0 and reason["remedy"] for reason in reasons)


def test_the_command(bundle, tmp_path):
    picture = tmp_path / "where.svg"
    words = ["explain", str(bundle.path), "--threads", "1", "--rounds", "2"]
    done = CliRunner().invoke(main, [*words, "--json", "-", "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["schema_version"] == 1
    assert "blocks.5" in done.stderr
    assert "PREDICTED" not in done.stderr
    assert "run with the profile" in done.stderr
    assert b"<svg" in picture.read_bytes()
    assert not list(tmp_path.glob("*.json"))


def test_nothing_is_left_behind(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    edgevit.api.explain(bundle, threads=1, rounds=2)
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_explained(bundle, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="EV416"):
        edgevit.api.explain(bundle, variant="int9")
    with pytest.raises(UsageError):
        edgevit.api.explain(bundle, batch=0)
    from edgevit.runner.engines.base import Engine
    from edgevit.verbs import explain as verb

    other = Engine(name="abacus", title="", module="", available=lambda: None, open=None)
    monkeypatch.setattr(verb, "engine_of", lambda manifest: other)
    with pytest.raises(UnsupportedError, match="EV855"):
        edgevit.api.explain(bundle)


def test_no_reference(parts, tmp_path):
    bare = parts.write(tmp_path / "bare", reference=None)
    with pytest.raises(BundleError, match="EV425"):
        edgevit.api.explain(bare, rounds=2)


def event(name, duration_us, op="Gemm"):
    kind = {"cat": "Node", "name": f"{name}_kernel_time", "args": {"op_name": op}}
    return {**kind, "dur": duration_us}


RUN = {"cat": "Session", "name": "model_run", "dur": 1}


def test_medians_of_the_last_runs():
    runs = [[event("a", first), event("b", 10), RUN] for first in (9000, 1000, 3000, 2000)]
    content = json.dumps([one for run in runs for one in run]).encode()
    found = operator_times(content, 3)
    assert [(one.name, one.op, one.time_ms) for one in found] == [
        ("a", "Gemm", 2.0),
        ("b", "Gemm", 0.01),
    ]


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1]", json.dumps([RUN]).encode(), json.dumps([event("a", 1), RUN]).encode(),
     json.dumps([event("a", 1), RUN, event("a", 1), event("b", 1), RUN]).encode()],
)  # fmt: skip
def test_no_profile(content):
    with pytest.raises(DeviceError, match="EV854"):
        operator_times(content, 2)


def test_reasons_by_hand():
    fp32 = [Part("b", "float product", "fp32", 8.0), Part("b", "softmax", "", 1.0)]
    engine = [
        Part("b", "integer product", "int8", 5.0),
        Part("b", "float product", "fp32", 0.5),
        Part("b", "(de)quantize", "", 2.0),
        Part("b", "softmax", "", 0.75),
    ]
    found = reasons_of(fp32, engine)
    assert [reason.cost_ms for reason in found] == [2.0, 1.25, 0.5]  # 5 - (8 - 0.5) / 2
    assert found[0].text.startswith("(de)quantize: 1 operators, 2.000 ms")
    assert reasons_of(engine, engine[3:]) == []


def test_the_three_costliest():
    reasons = [Reason(cost, "", "") for cost in (1, 5, 2, 4)]
    assert [one.cost_ms for one in costliest(reasons)] == [5, 4, 2]


def test_a_form_keeps_the_order_of_blocks():
    parts = [Part("z", "p", "int8", 1), Part("a", "q", "", 5), Part("z", "q", "", 2)]
    form = form_of("int8", parts)
    assert [(one.name, one.time_ms, one.parts) for one in form.blocks] == [("z", 3, 2), ("a", 5, 1)]
    assert [one.name for one in form.kinds] == ["q", "p"]
    assert form.blocks[0].products == {"int8": 1}


def rows(*modules):
    kinds = {"qk": "qk", "pv": "pv"}
    return [
        {"name": f"n{at}", "module": module, "kind": kinds.get(module.rpartition(".")[2], "linear")}
        for at, module in enumerate(modules)
    ]


def test_blocks_of_several_libraries():
    found = block_names(
        rows(
            "patch_embed.proj", "layers.0.blocks.1.attn.qk", "layers.0.blocks.1.mlp.fc1",
            "layers.1.downsample.reduction", "layers.1.blocks.0.attn.pv", "head",
            "features.1.0.attn.qk", "features.1.0.mlp.0",
            "encoder.layers.encoder_layer_1.self_attention.qk",
            "encoder.layers.encoder_layer_1.mlp.0", "encoder.layers.encoder_layer_10.mlp.0",
        )
    )  # fmt: skip
    assert list(found.values()) == [
        "patch_embed", "layers.0.blocks.1", "layers.0.blocks.1", "layers.1.downsample",
        "layers.1.blocks.0", "head", "features.1.0", "features.1.0",
        "encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_1",
        "encoder.layers.encoder_layer_10.mlp",
    ]  # fmt: skip


def test_what_names_no_product_counts_to_the_next_that_does():
    products = rows("embed.proj", "blocks.0.attn.qk", "head")
    nodes = [(), ("n0_product", "x"), ("norm",), ("n1", "n2"), ("gelu",), ("n2_2d",), ("end",)]
    assert kernel_blocks(nodes, products) == [
        "embed", "embed", "blocks.0", "blocks.0", "head", "head", "head"]  # fmt: skip
    assert kernel_blocks([("a",)], []) == ["other"]
