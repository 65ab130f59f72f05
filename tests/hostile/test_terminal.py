"""What is foreign reaches the terminal as escapes: ESC, markup and newlines through every verb."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgevit.cli import main
from edgevit.zoo import reference_images

NASTY = "\x1b]0;own\x07\x1b[2J\x9b31m[/x][red]\u202egnp.\u2028\n\r\x08\x7fPASS"
FILE = NASTY.replace("/", "|")  # a name of a file
SHOWN = "\\u001b]0;own\\u0007\\u001b[2J\\u009b31m"
QUICK = ["--model", "vit_cifar10", "--method", "minmax", "--num-calib", "4"]
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
FORGED = re.compile("^PASS", re.MULTILINE)  # a line that a newline in a name would make


def said(*arguments):
    """Run in this process; return what it printed, none of which a terminal would obey."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert not RAW.search(result.output), ascii(result.output)
    assert not FORGED.search(result.output), ascii(result.output)
    return result.output


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "bundle"
    result = CliRunner().invoke(main, ["quantize", *QUICK, "-o", str(path)])
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resealed(bundle, place, change):
    """A copy of a bundle whose manifest says something else; its hashes are those of its files."""
    copy = place / "sealed"
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    for name, record in manifest["files"].items():
        data = (copy / name).read_bytes()
        record.update(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def nasty_manifest(manifest):
    """Put the text wherever a manifest has free text."""
    manifest["model"].update(name=NASTY, source=NASTY)
    manifest["edgevit_version"] = manifest["created"] = NASTY
    manifest["warnings"] = [NASTY]
    manifest["calibration"]["method"] = NASTY
    for row in manifest["layers"]:
        row.update(name=NASTY, module=NASTY, kernel=NASTY, kind=NASTY, grid=NASTY, carrier=NASTY)


def class_folders(place):
    for name in (FILE, f"b{FILE}"):
        (place / "data" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(place / "data" / name / f"{FILE}.png")
    return place / "data"


def models(_bundle, _place):
    assert "\\x1b]0;own" in said("models", NASTY)


def methods(_bundle, place):
    assert SHOWN in said("methods", "--json", place / FILE / "x")


def targets(_bundle, place):
    assert SHOWN in said("targets", "--json", place / FILE / "x")


def quantize(_bundle, place):
    from safetensors.torch import save_file
    from torch import zeros

    save_file({NASTY: zeros(1)}, place / "w.safetensors")
    (place / FILE).write_text(f"model = {json.dumps(NASTY)}\n")
    images = class_folders(place)
    for option in (
        ["--model", NASTY],
        ["--model", f"timm:{NASTY}"],
        ["--weights", "w.safetensors"],
        ["--weights", FILE],
        ["--recipe", FILE],
        ["--method", NASTY],
        ["--target", NASTY],
        ["--float-layer", NASTY],
        ["--calib", NASTY],
        ["--calib", images],
        [NASTY],
        [f"--{NASTY}"],
        ["--bits", NASTY],
    ):
        said("quantize", *QUICK, "-o", "out", "--overwrite", *option)
    assert SHOWN in said("quantize", *QUICK, "-o", place / FILE)
    os.remove(place / FILE)
    assert SHOWN in said("quantize", *QUICK, "-o", place / FILE)
    assert (place / FILE / "manifest.json").is_file()


def validate(bundle, place):
    few = ["--data", reference_images("test"), "--num", 10, "--rounds", 2]
    said("validate", resealed(bundle, place, nasty_manifest), *few)
    said("validate", bundle, "--data", class_folders(place))
    said("validate", bundle, *few, "--provider", NASTY)
    said("validate", bundle, *few, "--engine", NASTY)
    assert SHOWN in said("validate", NASTY, *few)


def build(bundle, place):
    assert SHOWN in said("build", place / FILE)
    (place / FILE).touch()
    assert SHOWN in said("build", bundle, "-o", place / FILE / "x")
    for option in (["--for", NASTY], ["--variant", NASTY], ["--max-batch", NASTY]):
        said("build", bundle, *option)
        said("build", resealed(bundle, place, for_a_card), *option)
        shutil.rmtree(place / "sealed")
    said("build", resealed(bundle, place, for_a_card))
    said("inspect", place / "sealed")


def for_a_card(manifest):
    nasty_manifest(manifest)
    manifest.update(target="rtx-ada", engine={"name": "tensorrt_rtx"})
    manifest.pop("variants", None)
    canonical = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"))
    manifest["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()


def inspect(bundle, place):
    from edgevit.bundle import open_bundle
    from edgevit.bundle.rewriting import write_compiled

    words = {"name": NASTY, "kind": NASTY, "tactic": NASTY, "onnx_nodes": ["linear_product", NASTY]}
    operands = {"inputs": [], "outputs": [], "constants": []}
    table = {"variant": "int8", "engine": NASTY, "capabilities": [NASTY], "max_batch": 1}
    table |= {"layers": [words | operands], "list_sha256": ""}
    given = {"variants": (), "engines": (), "kernel_tables": [table], "overwrite": False}
    write_compiled(open_bundle(bundle), place / "compiled", **given)
    assert SHOWN in said("inspect", place / "compiled", "--json", "-")
    sealed = resealed(bundle, place, nasty_manifest)
    output = said("inspect", sealed)
    assert SHOWN in output or "error EV" in output
    said("inspect", sealed, "--json", "-")
    assert SHOWN in said("inspect", place / FILE)


def explain(bundle, place):
    few = ["--rounds", 2]
    assert SHOWN in said("explain", NASTY, *few)
    for option in (["--variant", NASTY], ["--batch", NASTY], ["--plot", place / FILE / "x"]):
        said("explain", bundle, *few, *option)
    assert SHOWN in said("explain", bundle, *few, "--json", place / FILE / "x")
    said("explain", resealed(bundle, place, nasty_manifest), *few)


def sensitivity(_bundle, place):
    images = ["--calib", class_folders(place), "--num-calib", 2]
    assert SHOWN in said("sensitivity", *QUICK, *images, "-o", place / FILE)
    said("sensitivity", "--model", NASTY, "-o", "s.csv")
    said("sensitivity", *QUICK, "-o", "s.csv", "--plot", FILE)


def simulate(_bundle, place):
    (place / FILE).write_text(f"model = {json.dumps(NASTY)}\n")
    few = ["--model", "vit_cifar10", "--num-calib", 2, "--num", 2]
    for option in (
        ["--model", NASTY],
        ["--recipe", FILE],
        ["--method", NASTY],
        ["--target", NASTY],
        ["--data", NASTY],
        ["--classes", FILE],
        ["--weights", FILE],
        ["--bits", NASTY],
    ):
        said("simulate", *few, *option)
    images = ["--data", class_folders(place), "--no-labels"]
    assert SHOWN in said(
        "simulate", *few, *images, "--method", "minmax", "--json", place / FILE / "x"
    )


def demo(_bundle, place):
    said("demo", "--model", NASTY)
    (place / FILE).touch()
    assert SHOWN in said("demo", "-o", place / FILE)


def check(bundle, place):
    from onnx import TensorProto, helper, save

    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3])
        for name in (f"in{NASTY}", f"out{NASTY}")
    ]
    node = helper.make_node(NASTY, [ends[0].name], [ends[1].name], name=NASTY, domain=NASTY)
    graph = helper.make_graph([node], NASTY, ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    save(model, place / f"{FILE}.onnx")
    assert SHOWN in said("check", place / f"{FILE}.onnx", "--target", "tensorrt")
    said("check", bundle, "--target", NASTY)
    said("check", bundle, "--target", "tensorrt", "--tensorrt", NASTY)
    said("check", resealed(bundle, place, nasty_manifest), "--target", "tensorrt")


SSH = """#!{python}
import sys
sys.stderr.write({said!r})
sys.exit(255)
"""


def on_a_board_that_says_so(place):
    """Put a `ssh` on the path that says nasty words and fails."""
    (place / "bin").mkdir()
    tool = place / "bin" / "ssh"
    tool.write_text(SSH.format(python=sys.executable, said=NASTY))
    tool.chmod(0o755)
    return {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def deploy(bundle, place):
    few = ["--data", reference_images("test"), "--num", 10]
    assert "\\x1b]0;own" in said("deploy", bundle, *few, "--device", NASTY)
    os.environ.update(on_a_board_that_says_so(place))
    assert SHOWN in said("deploy", bundle, *few, "--device", "me@board")
    said("deploy", resealed(bundle, place, nasty_manifest), *few, "--device", "me@board")


def doctor(_bundle, place):
    said("doctor", "--target", NASTY)
    assert "\\x1b]0;own" in said("doctor", "--device", NASTY)
    os.environ.update(on_a_board_that_says_so(place))
    assert SHOWN in said("doctor", "--device", "me@board")


CASES = [
    models,
    methods,
    targets,
    quantize,
    validate,
    build,
    explain,
    inspect,
    sensitivity,
    demo,
    check,
    deploy,
]
CASES = {case.__name__: case for case in (*CASES, doctor, simulate)}


@pytest.mark.parametrize("verb", sorted(main.commands))
def test_nothing_foreign_is_obeyed(verb, bundle, place, monkeypatch):
    monkeypatch.setenv("PATH", os.environ["PATH"])  # put back afterwards
    monkeypatch.setenv("COLUMNS", "2000")
    CASES[verb](bundle, place)


def test_a_command_line_is_repeated_as_escapes():
    """By click itself, in a process, where its words are real bytes and no characters."""
    words = ["quantize", f"--{NASTY}", b"\xff\xfe[red]"]
    for verb in ([NASTY], words, ["models", "a", b"\x1b[2J\xff"]):
        done = subprocess.run([sys.executable, "-m", "edgevit", *verb], capture_output=True)
        assert done.returncode == 2
        assert b"Error: " in done.stderr
        assert not RAW.search(done.stderr.decode())


@pytest.mark.parametrize("form", [{"force_terminal": False}, {"force_terminal": True}])
def test_the_console_escapes_whatever_it_is_given(form):
    """Also strings, headings and bars, which no caller made plain."""
    import io

    from rich.table import Table

    from edgevit.report.plain import PlainConsole
    from edgevit.report.progress import show_progress

    stream = io.StringIO()
    console = PlainConsole(file=stream, width=300, color_system=None, **form)
    console.print(NASTY, "[red]kept[/red] :smile:")
    table = Table(NASTY, title=NASTY, caption=NASTY)
    table.add_row(NASTY)
    console.print(table)
    with show_progress(console) as progress:
        progress(NASTY, 1, 1)
    text = stream.getvalue()
    if form["force_terminal"]:  # rich's own: it moves the cursor and hides it
        text = re.sub("\r|\x1b\\[(\\?25[lh]|2K|1A|[0-9;]*m)", "", text)
    assert not RAW.search(text), ascii(text)
    assert "[red]kept[/red] :smile:" in text


def test_json_stays_json(place):
    from edgevit.console import write_json

    content = {NASTY: [NASTY, "\udcff", "é漢🙂"]}
    write_json("out.json", content)
    text = (place / "out.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert not RAW.search(text)
    assert "é漢🙂" in text


def test_a_warning_of_a_library_is_escaped():
    import warnings

    from edgevit.console import show_warnings

    with show_warnings():
        shown = warnings.formatwarning(NASTY, UserWarning, NASTY, 1, NASTY)
    assert not RAW.search(shown)
    assert RAW.search(warnings.formatwarning(NASTY, UserWarning, "file", 1, ""))
