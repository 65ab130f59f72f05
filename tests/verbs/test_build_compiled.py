"""`edgevit build` with NVIDIA's compiler: engines and kernels, and what goes wrong on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx")

from click.testing import CliRunner
from test_build import RECORDED

import edgevit
from edgevit.bundle import leftovers, open_bundle
from edgevit.cli import main
from edgevit.errors import DeviceError, UnsupportedError
from edgevit.runner.engines.tensorrt_rtx import ENGINE


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def said(*words):
    result = CliRunner().invoke(main, list(map(str, words)), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def tiny(parts, tmp_path):
    parts.manifest.update(target="rtx-ada", engine=ENGINE.table({}))
    return parts.write(tmp_path / "tiny")


@pytest.fixture(scope="module")
def quantized(small_bundle, tmp_path_factory):
    """A small model for a card that has FP8."""
    return small_bundle("rtx-ada", tmp_path_factory.mktemp("quantized") / "vit")


@pytest.fixture(scope="module")
def built(quantized, tmp_path_factory):
    """The same, compiled for two generations; and the report."""
    place = tmp_path_factory.mktemp("built")
    path, report = place / "vit", place / "report.json"
    cards = ["--for", "sm86,12.0"]
    text = said("build", quantized, "-o", path, *cards, "--json", report)
    return path, json.loads(report.read_text()), text


def test_a_form_that_no_card_of_the_new_build_can_have_is_kept(built, tmp_path):
    """FP8 for SM86: what was compiled of it for SM120 stays in the bundle."""
    again = tmp_path / "again"
    report = edgevit.build(built[0], capabilities=["sm86"], output=again)
    assert [one["name"] for one in report["variants"] if not one["engines"]] == ["fp8"]
    files = {row["file"]: row["capabilities"] for row in open_bundle(again).engines()}
    assert files["engine_fp8_sm120.rtx"] == ["SM120"]
    assert files["engine_int8_sm86.rtx"] == ["SM86"]


def test_the_card_of_the_target_is_compiled_for(tiny):
    stages = []
    report = edgevit.build(tiny, progress=lambda *stage: stages.append(stage))
    assert stages == [
        ("compile int8", 0, 1),
        ("compile int8", 1, 1),
        ("write bundle", 0, 1),
        ("write bundle", 1, 1),
    ]
    assert report["capabilities"] == ["SM89"]
    (variant,) = report["variants"]
    (engine,) = variant["engines"]
    (row,) = open_bundle(tiny).engines()
    assert (row["file"], row["version"]) == (engine["file"], report["engine"].split()[1])
    assert row["batches"] == [1, 8, 16]
    assert len(open_bundle(tiny).compiled_engine("int8", "SM89")) == engine["size_bytes"]
    (table,) = open_bundle(tiny).kernel_tables()
    assert table["list_sha256"] == row["list_sha256"] == engine["kernels"]["list_sha256"]
    assert len(table["layers"]) == engine["kernels"]["kernels"]


def test_built_again_it_is_the_same_but_for_the_time(tiny):
    edgevit.build(tiny)
    before = contents(tiny)
    edgevit.build(tiny, max_batch=16)
    after = contents(tiny)
    assert {name for name in before if before[name] != after[name]} <= {"manifest.json"}
    edgevit.build(tiny, capabilities=["8.6"], max_batch=4)
    assert open_bundle(tiny).engines()[0]["batches"] == [1, 4, 4]
    assert {path.name for path in tiny.glob("*.rtx")} == {"engine_int8_sm86.rtx"}


def test_every_form_is_compiled_and_keeps_its_precision(built):
    path, report, text = built
    bundle = open_bundle(path)
    files = {row["file"]: row["capabilities"] for row in bundle.engines()}
    assert files == {
        "engine_int8_sm86.rtx": ["SM86", "SM120"],
        "engine_fp16_sm86.rtx": ["SM86", "SM120"],
        "engine_int8_attention_sm86.rtx": ["SM86", "SM120"],
        "engine_fp8_sm120.rtx": ["SM120"],
    }
    kernels = {one["name"]: one["engines"][0]["kernels"] for one in report["variants"]}
    assert {name: (one["low"], one["quantized"]) for name, one in kernels.items()} == {
        "int8": (8, 8),
        "fp16": (0, 0),
        "int8_attention": (12, 12),
        "fp8": (8, 8),
    }
    assert kernels["int8"]["blocks"] == 2
    assert "12 of 12" in text
    assert "warning" not in text
    assert text.endswith(f"wrote {path}\n")


def test_a_card_that_can_not_have_a_form_is_named(built):
    _, report, text = built
    refused = {one["name"]: list(one["refused"]) for one in report["variants"] if one["refused"]}
    assert refused == {"fp8": ["SM86"]}
    assert "fp8 is not there for SM86: The card can't compute in a type of the graph." in text


def test_inspect_shows_engines_and_kernels(built, tmp_path):
    path, report, _ = built
    text = said("inspect", path, "--json", tmp_path / "inspected.json")
    found = json.loads((tmp_path / "inspected.json").read_text())
    assert [row["file"] for row in found["engines"]] == [p.name for p in engines_in(path, found)]
    mine = [engine["kernels"] for one in report["variants"] for engine in one["engines"]]
    assert found["kernels"] == mine
    assert found["size_bytes"]["compiled"] == report["size_bytes"]["compiled"]
    assert "engine_fp8_sm120.rtx: fp8 for SM120, batch 1 to 16, by tensorrt_rtx 1.7.1" in text
    assert "Layers, compiled for SM86, SM120" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("blocks.0.mlp.fc1")]
    assert row[-5:] == ["s8", "x", "s8", "int8", "library"]
    assert "compiled by TensorRT for RTX 1.7.1" in text
    assert "evidence" not in text


def engines_in(path, found):
    return [path / row["file"] for row in found["engines"] if (path / row["file"]).is_file()]


def test_a_board_gets_kernels_as_evidence_and_no_engine(tmp_path):
    """This bundle was written before q, k and v were split: the compiler takes them in half."""
    old = shutil.copytree(RECORDED, tmp_path / "old")
    text = said("build", old)
    assert "compiled for SM86 by TensorRT for RTX 1.7.1" in text
    assert "jetson-orin-nano builds its own engine" in text
    assert "int8: not as asked:" in text
    bundle = open_bundle(old)
    assert (bundle.engines(), list(old.glob("*.rtx"))) == ([], [])
    assert {table["variant"] for table in bundle.kernel_tables()} == {"int8", "fp16"}
    assert "this is evidence only" in said("inspect", old)
    (int8,) = [one for one in edgevit.inspect(old)["kernels"] if one["variant"] == "int8"]
    missed = [row for row in int8["products"] if row["asked"] == "int8" and row["chosen"] != "int8"]
    assert {row["module"].rsplit(".", 1)[1] for row in missed} == {"qkv"}
    assert int8["quantized"] - int8["low"] == len(missed)


def test_a_form_that_no_card_can_have_is_refused_in_plain_words(quantized, tmp_path):
    copy = shutil.copytree(quantized, tmp_path / "copy")
    before = contents(copy)
    with pytest.raises(UnsupportedError) as caught:
        edgevit.build(copy, variants=["fp8"], capabilities=["sm75", "sm86"])
    error = caught.value
    assert (error.code, error.where) == ("EV437", "fp8, SM75; fp8, SM86")
    assert "fp8_e4m3" in error.why
    assert "memory" not in error.try_next
    assert contents(copy) == before


def test_a_graph_that_the_compiler_refuses(parts, tmp_path):
    """TensorRT has symmetric codes only; the bundle's own checks let other zeros pass."""
    parts.manifest.update(target="rtx-ada", engine=ENGINE.table({}))
    parts.graph_onnx = with_other_zeros(parts.graph_onnx)
    path = parts.write(tmp_path / "asymmetric")
    before = contents(path)
    with pytest.raises(DeviceError) as caught:
        edgevit.build(path)
    assert caught.value.code == "EV752"
    assert caught.value.where.startswith("int8, ")
    assert contents(path) == before


def with_other_zeros(graph):
    import onnx

    model = onnx.load_from_string(graph)
    (zero,) = [one for one in model.graph.initializer if one.name == "zero"]
    zero.raw_data = bytes([1] * len(zero.raw_data))
    return model.SerializeToString()


STOPPING = """
import os, sys, time
from edgevit.verbs import build
from edgevit.bundle import new_folder
kept = new_folder.NewBundle.add_stream
def slowly(self, name, chunks):
    kept(self, name, chunks)
    if name.endswith(".rtx"):
        print("writing", flush=True)
        time.sleep(60)
if sys.argv.pop(1) == "writing":
    new_folder.NewBundle.add_stream = slowly
else:
    compiled = build.compilation_from_onnx
    def starting(*arguments):
        print("compiling", flush=True)
        return compiled(*arguments)
    build.compilation_from_onnx = starting
from edgevit.cli import main
main(sys.argv[1:])
"""


def started(moment, path):
    command = [sys.executable, "-c", STOPPING, moment, "build", str(path)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == f"{moment}\n", process.stderr.read()
    return process


@pytest.mark.parametrize("moment", ["compiling", "writing"])
def test_a_build_killed_in_the_middle_leaves_the_old_bundle(tiny, moment, monkeypatch):
    monkeypatch.setattr(leftovers, "_NEW_SECONDS", 0.0)
    before = contents(tiny)
    with started(moment, tiny) as process:
        time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert contents(tiny) == before
    edgevit.build(tiny)
    assert os.listdir(tiny.parent) == ["tiny"]
    assert len(open_bundle(tiny).engines()) == 1


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupted_build_ends_with_the_graph_that_is_compiled(
    quantized, tmp_path, number, status
):
    """The compiler's callbacks would swallow it, and all forms be compiled and written."""
    copy = shutil.copytree(quantized, tmp_path / "copy")
    before = contents(copy)
    with started("compiling", copy) as process:
        time.sleep(0.4)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "Exception caught" not in output + errors
    assert contents(copy) == before
    assert os.listdir(tmp_path) == ["copy"]
