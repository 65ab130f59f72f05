"""The checker as a user meets it: files of other makers, damaged files, bundles, exit statuses."""

import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from rich.console import Console
from small_transformer import Transformer, change, node_named, put

from edgevit.bundle import open_bundle
from edgevit.cli import main
from edgevit.errors import EdgeViTError, UnsupportedError, UsageError
from edgevit.report.conformance import conformance_table
from edgevit.targets.tensorrt.conformance import RULES, check_onnx
from edgevit.targets.tensorrt.profiles import PROFILES, profile_named, version_key
from edgevit.verbs import check as checking
from edgevit.zoo import reference_images

AMPERE = PROFILES["tensorrt-ampere"]


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A real bundle of a trained ViT, for the processor: it has the fp32 graph as ONNX."""
    from edgevit import api

    path = tmp_path_factory.mktemp("check") / "bundle"
    images = reference_images("calibration")
    api.quantize("vit_cifar10", images, bits=8, method="minmax", num_calib=8).save(path)
    return path


@pytest.fixture(scope="module")
def by_onnxruntime(bundle, tmp_path_factory):
    """That ViT quantized by ONNX Runtime's quantize_static with its defaults."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    folder, pixels = tmp_path_factory.mktemp("ort"), open_bundle(bundle).golden()["images"]
    (folder / "fp32.onnx").write_bytes(open_bundle(bundle).reference_onnx())
    images = pixels[:2].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = [{"image": image[None]} for image in images]

        def get_next(self):
            return self.left.pop() if self.left else None

    logging.disable(logging.WARNING)  # it advises to preprocess
    quantization.quantize_static(folder / "fp32.onnx", folder / "int8.onnx", Reader())
    logging.disable(logging.NOTSET)
    return folder / "int8.onnx"


@pytest.fixture
def conforming(tmp_path):
    onnx.save(Transformer().model(), tmp_path / "good.onnx")
    return tmp_path / "good.onnx"


def test_onnxruntime_defaults_are_refused(by_onnxruntime, tmp_path):
    report = tmp_path / "report.json"
    result = run("check", by_onnxruntime, "--target", "jetson-orin-nano", "--json", report)
    assert result.exit_code == UnsupportedError.exit_status
    found = json.loads(report.read_text())
    assert not found["conforms"]
    rules = {f["rule"] for f in found["graphs"][0]["findings"]}
    # asymmetric activations, int32 biases, rounding before softmax and LayerNorm
    assert {3, 16, 17, 18} <= rules


def test_fp32_graph_of_a_bundle_conforms_but_is_told(bundle, tmp_path):
    path = tmp_path / "fp32.onnx"
    path.write_bytes(open_bundle(bundle).reference_onnx())
    found = check_onnx(path, AMPERE)
    assert found.conforms
    assert {f.rule for f in found.findings} == {29}
    assert run("check", path, "--target", "tensorrt", "--precision", "int8").exit_code == 4


def test_bundle_for_another_target_is_refused_and_compared(bundle):
    report = checking.check(bundle, target="tensorrt")
    (graph,) = report["graphs"]
    assert {2, 3} <= {f["rule"] for f in graph["findings"]}
    states = {row["rule"]: row["state"] for row in graph["rules"]}
    assert states[35] == "kept"  # the golden images were run
    with pytest.raises(UnsupportedError, match="EV341"):
        checking.refuse_errors(report)
    with pytest.raises(UsageError, match="EV340"):
        checking.check(bundle)  # its own target is cpu


def test_bundle_that_computes_something_else_is_told(bundle, monkeypatch):
    from edgevit.bundle.opening import Bundle

    golden = Bundle.golden
    shifted = {}

    def other(self):
        shifted.update(golden(self))
        shifted["logits_simulated"] = np.roll(shifted["logits_simulated"], 1, axis=1)
        return shifted

    monkeypatch.setattr(Bundle, "golden", other)
    (graph,) = checking.check(bundle, target="tensorrt")["graphs"]
    assert 35 in {f["rule"] for f in graph["findings"]}


def test_conforming_file_exits_with_0_and_json_on_stdout(conforming):
    result = run("check", conforming, "--target", "tensorrt", "--json", "-")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["conforms"]
    assert report["graphs"][0]["counts"] == {"E": 0, "W": 0, "P": 0}
    assert [row["rule"] for row in report["graphs"][0]["rules"]] == sorted(RULES)


def test_external_data(tmp_path):
    model = Transformer().model()
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=64)
    assert check_onnx(path, AMPERE).findings == ()
    codes = path.with_name("weights").read_bytes()
    path.with_name("weights").write_bytes(b"\x80" * len(codes))
    assert 36 in {f.rule for f in check_onnx(path, AMPERE).findings}  # values are really read
    path.with_name("weights").unlink()
    result = run("check", path, "--target", "tensorrt")
    assert result.exit_code == UsageError.exit_status
    assert "EV345" in result.stderr


def test_constant_nodes_and_functions_are_seen(conforming):
    """Exporters write constants as nodes and blocks as functions; the findings are the same."""
    model = onnx.load(conforming)
    zero = next(t for t in model.graph.initializer if t.name == "proj.in.zero")
    model.graph.initializer.remove(zero)
    zero.CopyFrom(helper.make_tensor(zero.name, TensorProto.INT8, [], [5]))
    constant = helper.make_node("Constant", [], [zero.name], zero.name, value=zero)
    model.graph.node.insert(0, constant)
    assert {f.rule for f in check_onnx(model, AMPERE).findings} == {3}
    body = [helper.make_node("Softmax", ["a"], ["b"], axis=-1)]
    opset = helper.make_opsetid("", 20)
    function = helper.make_function("mine", "Soft", ["a"], ["b"], body, [opset])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    softmax = node_named(model, "softmax")
    softmax.op_type, softmax.domain = "Soft", "mine"
    del softmax.attribute[:]
    assert 41 not in {f.rule for f in check_onnx(model, AMPERE).findings}


def test_blackwell_and_thor_only_serve_releases_that_know_them(conforming):
    for name, profile in PROFILES.items():
        oldest, newest = profile.tensorrt
        assert version_key("10.3") <= version_key(oldest) < version_key(newest)
        assert profile_named(name) is profile
        assert profile.runs("fp8") == (profile.sm >= 89) == (profile.fp8_attention is not None)
        assert profile.is_jetson == name.startswith("jetson-")
    assert version_key("10.13") > version_key("10.3")
    assert not AMPERE.int8_attention.allows(heads=2, head_size=64, sequence=577)
    assert AMPERE.int8_attention.allows(heads=2, head_size=64, sequence=197)
    assert not AMPERE.int8_attention.allows(heads=2, head_size=24, sequence=197)
    assert not AMPERE.int8_attention.allows(heads=1, head_size=64, sequence=197)
    assert PROFILES["rtx-ada"].int8_attention.allows(heads=1, head_size=64, sequence=197)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["missing.onnx", "--target", "tensorrt"], "EV343"),
        (["{good}", "--target", "tensort"], "EV340"),
        (["{good}"], "EV346"),
        (["{good}", "--target", "tensorrt", "--tensorrt", "ten"], "EV342"),
        (["{good}", "--target", "tensorrt", "--tensorrt", "11.4-10.3"], "EV342"),
        (["{good}", "--target", "tensorrt", "--tensorrt", "99.9"], "EV342"),
        (["{good}", "--target", "tensorrt", "--tensorrt", "9.0"], "EV342"),
        (["{good}", "--target", "tensorrt", "--tensorrt", "10.3-11.5"], "EV342"),
        (["{text}", "--target", "tensorrt"], "EV344"),
        (["/dev/null", "--target", "tensorrt"], "EV347"),
        (["{pipe}"], "EV347"),
        (["{folder}", "--target", "tensorrt"], "EV401"),
    ],
)
def test_bad_input(arguments, code, conforming, tmp_path):
    (tmp_path / "text").write_text("not a model, and long enough to look like one")
    os.mkfifo(tmp_path / "pipe")
    places = {name: tmp_path / name for name in ("text", "pipe")}
    named = {"good": conforming, "folder": tmp_path, **places}
    result = run("check", *(word.format(**named) for word in arguments))
    assert code in result.stderr
    assert result.exit_code in (2, 10)


def test_known_releases_are_named_and_taken(conforming):
    result = run("check", conforming, "--target", "tensorrt", "--tensorrt", "99.9")
    said = " ".join(result.stderr.split())
    assert "8.6, 10.0 to 10.16, 11.0 to 11.4" in said
    assert "--tensorrt 11.4" in said
    for known in ("10.3", "10.0-10.16", "11.4"):
        result = run("check", conforming, "--target", "tensorrt", "--tensorrt", known)
        assert result.exit_code == 0
        said = " ".join(result.stderr.split())
        shown = known.replace("-", " to ")
        assert f"TensorRT {shown}: 0 errors, 0 warnings, 0 advice" in said
    onnx.save(put(Transformer().model(), "proj.in.zero", np.int8(7)), conforming)
    result = run("check", conforming, "--target", "tensorrt")
    assert "2 errors, of rule 3." in " ".join(result.stderr.split())


def test_one_error_is_not_several(conforming):
    onnx.save(put(Transformer().model(), "proj.in.zero", np.int8(7)), conforming)
    report = checking.check(conforming, target="tensorrt")
    (graph,) = report["graphs"]
    graph["findings"], graph["counts"] = graph["findings"][:1], {"E": 1, "W": 2, "P": 0}
    console = Console(width=200)
    with console.capture() as capture:
        console.print(conformance_table(report))
    assert "1 error, 2 warnings, 0 advice" in " ".join(capture.get().split())
    with pytest.raises(UnsupportedError, match="EV341") as caught:
        checking.refuse_errors(report)
    assert caught.value.why == "1 error, of rule 3."


@pytest.mark.parametrize(("file", "graph"), [("graph.onnx", "int8"), ("reference.onnx", "fp32")])
def test_a_graph_in_a_bundles_folder_is_checked_with_the_bundles_weights(bundle, file, graph):
    report = checking.check(bundle / file, target="tensorrt")
    (found,) = report["graphs"]
    assert found["name"] == graph
    assert "kept" in [row["state"] for row in found["rules"] if row["rule"] == 35]  # it ran
    whole = checking.check(bundle, target="tensorrt")["graphs"][0]
    assert (found == whole) == (graph == "int8")


def test_a_file_beside_a_manifest_of_somebody_else_is_a_file(conforming):
    (conforming.parent / "manifest.json").write_text('{"files": {"graph.onnx": {}}}')
    path = conforming.rename(conforming.with_name("graph.onnx"))
    assert checking.check(path, target="tensorrt")["graphs"][0]["name"] == "graph.onnx"


def test_a_bundle_says_its_precisions_itself(bundle):
    for path in (bundle, bundle / "graph.onnx"):
        result = run("check", path, "--target", "tensorrt", "--precision", "fp16")
        assert result.exit_code == 2
        assert "EV348" in result.stderr


def test_damaged_files_are_reported_never_a_crash(tmp_path):
    """Random damage ends in findings or in an error of our own."""
    whole = Transformer().model().SerializeToString()
    path, generator = tmp_path / "damaged.onnx", random.Random(0)
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(generator.randint(1, 8)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            outcomes.add(checking.check(path, target="tensorrt")["conforms"])
        except EdgeViTError as error:
            outcomes.add(error.code)
    assert {True, False, "EV344"} <= outcomes  # damage in weights goes unseen, other does not


def test_damaged_graphs_are_reported_never_a_crash():
    """Cut and crossed wires: tensors read before they are made, missing inputs."""
    generator, seen = random.Random(1), set()
    for _ in range(60):
        model = Transformer(attention=True).model()
        nodes = model.graph.node
        victim, donor = generator.choice(nodes), generator.choice(nodes)
        if generator.random() < 0.3:
            del victim.input[generator.randrange(len(victim.input)) :]
        else:
            victim.input[generator.randrange(len(victim.input))] = donor.output[0]
        report = check_onnx(model, AMPERE)
        seen.add(report.conforms)
        damaged = {f.rule for f in report.findings} & {31, 5, 12, 13, 3}
        assert report.conforms or damaged or report.errors
    assert False in seen


@pytest.mark.parametrize("axis", [5, -5, 1])
def test_grids_that_fit_nothing_are_reported_never_a_crash(axis):
    """ONNX's checker accepts an axis beyond the rank and a scale without values."""
    model = change(Transformer(stored=False).model(), "fc1.q", axis=axis)
    model = put(model, "proj.scale", np.zeros(0, np.float16))
    rules = {f.rule for f in check_onnx(model, AMPERE).findings}
    assert 6 in rules
    assert (8 in rules) == (axis != 1)


def test_order_decides_nothing_else_is_looked_at():
    model = put(Transformer().model(), "proj.in.zero", np.int8(7))  # breaks rule 3 as well
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    report = check_onnx(model, AMPERE)
    assert {f.rule for f in report.findings} == {31}
    assert len(report.not_run) == len(RULES) - 1


def test_profiles_need_no_numpy_torch_or_onnx():
    code = (
        "import sys, edgevit.targets.tensorrt.profiles;"
        "assert not {'numpy', 'torch', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_docs_list_every_rule():
    text = (Path(__file__).parents[4] / "docs" / "check.md").read_text(encoding="utf-8")
    rows = [f"| {n} | {r.level.value} | {r.title} | {r.source} |" for n, r in sorted(RULES.items())]
    assert [line for line in text.splitlines() if line in rows] == rows


def test_a_file_of_another_kind_is_refused_whatever_its_name_ends_in(tmp_path):
    for name in ("manifest.json", "notes.txt", "graph.textproto", "graph.onnxtxt"):
        (tmp_path / name).write_text('{"schema_version": 1}', encoding="utf-8")
        result = run("check", tmp_path / name, "--target", "tensorrt")
        assert result.exit_code == 2, (name, result.exception)
        assert "EV344" in result.stderr


def test_a_reason_why_rules_were_not_looked_at_is_said_once(tmp_path):
    node = helper.make_node("Relu", ["missing"], ["y"], "relu")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph([node], "damaged", [], [output]))
    onnx.save(model, tmp_path / "damaged.onnx")
    result = run("check", tmp_path / "damaged.onnx", "--target", "tensorrt")
    assert result.exit_code == 4
    assert " ".join(result.stderr.split()).count("the graph is damaged") == 1
