"""The command line as a user meets it: the main job, every kind of bad input, its exit status."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgevit.cli import main
from edgevit.zoo import reference_images


def run(*arguments):
    """Run in this process; returns click's result."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def run_process(*arguments, **options):
    """Run in a fresh process."""
    command = [sys.executable, "-m", "edgevit.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def make_images(folder, classes=("cat", "dog"), each=4, size=40):
    generator = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = generator.integers(0, 255, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.jpg")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A small bundle made by the command itself."""
    path = tmp_path_factory.mktemp("cli") / "bundle"
    summary = path.with_name("summary.json")
    arguments = ["--model", "vit_cifar10", "--bits", "6", "--method", "minmax", "--num-calib", "8"]
    result = run("quantize", *arguments, "-o", path, "--json", summary)
    assert result.exit_code == 0, result.output
    assert json.loads(summary.read_text())["bits"]["weights"] == 6
    return path


@pytest.fixture
def copy(bundle, tmp_path):
    """A copy of the bundle to damage."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def test_help_is_quick_and_does_not_import_torch():
    """What takes its time is modules: 148 of them, 9 our own, where `import torch` has 1500."""
    code = (
        "import sys, click.testing; from edgevit.cli import main;"
        "r = click.testing.CliRunner().invoke(main, ['--help']); assert r.exit_code == 0;"
        "heavy = {'torch', 'timm', 'numpy', 'onnx', 'onnxruntime', 'rich', 'PIL'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "own = [name for name in sys.modules if name.startswith('edgevit')];"
        "assert len(own) <= 12 and len(sys.modules) <= 200, (own, len(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert run_process("--help").returncode == 0


def test_quantize_inspect_validate(bundle, tmp_path):
    assert run("inspect", bundle).exit_code == 0
    report_path = tmp_path / "report.json"
    data = reference_images("test")
    result = run("validate", bundle, "--data", data, "--num", 100, "--json", report_path)
    assert result.exit_code == 0, result.output
    report = json.loads(report_path.read_text())
    assert report["num_images"] == 100
    assert report["schema_version"] == 1
    for key in ("fp32", "engine"):
        assert 0 <= report["top1"][key] <= 100
        assert report["latency_ms"][key]["p50"] <= report["latency_ms"][key]["p99"]
    assert set(report["drop_points"]) >= {"value", "low", "high"}
    assert report["agreement"]["engine_vs_simulated"] >= 99
    assert report["speedup"] > 0
    assert report["size_bytes"]["bundle"] < report["size_bytes"]["fp32"]
    assert 0 < report["eer"] < 100
    assert report["verdict"] in {"PASS", "FAIL", "UNDECIDED"}


def test_measuring_needs_no_torch(bundle):
    """It takes seconds to import, on a laptop as on a board."""
    code = "import sys; sys.modules['torch'] = None; from edgevit.cli import main; main()"
    data = ["--data", reference_images("test"), "--num", 10, "--rounds", 2]
    command = [sys.executable, "-c", code, "validate", bundle, *data]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_json_to_standard_output_is_alone_there(bundle):
    result = run_process("inspect", bundle, "--json", "-")
    assert result.returncode == 0
    assert json.loads(result.stdout)["model"]["name"] == "vit_cifar10"
    assert "Layers" in result.stderr


def test_every_layer_says_bits_carrier_and_kernel(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    rows = {row["module"]: row for row in manifest["layers"]}
    assert rows["blocks.0.attn.qkv.q"]["weight_bits"] == 6
    assert rows["blocks.0.attn.qkv.q"]["carrier"] == "u8 x s8"
    assert rows["blocks.0.attn.qkv.q"]["kernel"] == "MatMulIntegerToFloat"
    assert {row["kernel"] for row in rows.values()} == {"MatMulIntegerToFloat"}


def test_gates_have_their_own_exit_statuses(bundle):
    data = ["--data", reference_images("test"), "--num", 50, "--rounds", 5]
    assert run("validate", bundle, *data, "--max-latency-ms", 0.0001).exit_code == 6
    assert run("validate", bundle, *data, "--max-drop", 0.01).exit_code in {5, 8}
    assert run("validate", bundle, *data, "--max-drop", 60).exit_code == 0


def test_a_provider_that_is_not_there_is_refused(bundle):
    data = ["--data", reference_images("test"), "--num", 10]
    result = run("validate", bundle, *data, "--provider", "CUDAExecutionProvider")
    assert result.exit_code == 7
    assert "CUDAExecutionProvider" in result.output


BAD_ARGUMENTS = {
    "unknown model": (["--model", "vit_cifar11"], 2, "vit_cifar10"),
    "bits too few": (["--model", "vit_cifar10", "--bits", "1"], 2, "EV201"),
    "bits too many": (["--model", "vit_cifar10", "--act-bits", "9"], 2, "EV201"),
    "unknown method": (["--model", "vit_cifar10", "--method", "ptq4vi"], 2, "ptq4vit"),
    "unknown target": (["--model", "vit_cifar10", "--target", "gpu"], 2, "EV203"),
    "missing folder": (["--model", "vit_cifar10", "--calib", "/no/such/folder"], 9, "no/such"),
    "no image asked": (["--model", "vit_cifar10", "--num-calib", "0"], 2, "--num-calib"),
    "too many images asked": (["--model", "vit_cifar10", "--num-calib", "9999"], 9, "256"),
    "missing weights": (["--model", "vit_cifar10", "--weights", "no.safetensors"], 9, "no.safe"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(case, tmp_path):
    arguments, status, mentioned = BAD_ARGUMENTS[case]
    result = run("quantize", *arguments, "-o", tmp_path / "out")
    assert result.exit_code == status, result.output
    assert mentioned in result.output.replace("\n", "")
    assert "try:" in result.output
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_and_too_many_damaged_images(tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = ["quantize", "--model", "vit_cifar10", "-o", tmp_path / "out", "--num-calib", 6]
    assert run(*arguments, "--calib", tmp_path / "empty").exit_code == 9
    images = make_images(tmp_path / "damaged")
    for path in list(images.rglob("*.jpg"))[:2]:
        path.write_bytes(path.read_bytes()[:200])
    result = run(*arguments, "--calib", images)
    assert result.exit_code == 9
    assert "5" in result.output
    assert not (tmp_path / "out").exists()


def test_one_truncated_image_among_many_is_named_and_counted(tmp_path):
    images = make_images(tmp_path / "images", each=30)
    bad = images / "cat" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    arguments = ["quantize", "--model", "vit_cifar10", "--method", "minmax"]
    out = tmp_path / "out"
    result = run(*arguments, "--calib", images, "--num-calib", 59, "-o", out)
    assert result.exit_code == 0, result.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["calibration"]["num_images"] == 58
    assert any("3.jpg" in name for name in manifest["calibration"]["skipped"])


def test_class_folders_that_do_not_fit_the_model(bundle, tmp_path):
    images = make_images(tmp_path / "images", classes=("apple", "pear"))
    result = run("validate", bundle, "--data", images)
    assert result.exit_code == 9
    assert "apple" in result.output


def test_an_existing_output_is_left_alone(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    for extra in ([], ["--overwrite"]):
        result = run("quantize", "--model", "vit_cifar10", "--method", "minmax", "-o", out, *extra)
        assert result.exit_code == 2
    assert [p.name for p in out.iterdir()] == ["precious.txt"]


def test_overwrite_replaces_a_bundle(copy):
    arguments = ["--model", "vit_cifar10", "--bits", "8", "--method", "minmax", "--num-calib", "8"]
    assert run("quantize", *arguments, "-o", copy, "--overwrite").exit_code == 0
    assert json.loads((copy / "manifest.json").read_text())["bits"]["weights"] == 8
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]


def test_unwritable_output(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    arguments = ["quantize", "--model", "vit_cifar10", "--method", "minmax", "--num-calib", "8"]
    result = run(*arguments, "-o", blocker / "out")
    assert result.exit_code == 3, result.output


def test_a_full_disk_leaves_nothing(tmp_path):
    """The file size limit makes writes fail as a full disk does, for real."""
    code = (
        "import resource, signal, sys;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000));"
        "from edgevit.cli import main; main(sys.argv[1:])"
    )
    arguments = ["quantize", "--model", "vit_cifar10", "--method", "minmax", "--num-calib", "8"]
    command = [sys.executable, "-c", code, *arguments, "-o", str(tmp_path / "out")]
    environment = {**os.environ, "TMPDIR": "/dev/shm"} if Path("/dev/shm").exists() else None
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 3, result.stderr
    assert "try:" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "edgevit.cli", "quantize", "--model", "vit_cifar10"]
    with subprocess.Popen(
        [*command, "-o", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may ignore it
    ) as process:
        said = process.stderr.readline()  # the first stage is done
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=60)[1]
    assert process.returncode not in {0, None}
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["weights.bin", "graph.onnx", "manifest.json", "golden.npz"])
def test_a_flipped_byte_is_found(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))
    for verb in (["inspect", copy], ["validate", copy, "--data", reference_images("test")]):
        result = run(*verb)
        assert result.exit_code == 10, result.output
        assert "try:" in result.output


def test_missing_file_and_newer_schema(copy):
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    result = run("inspect", copy)
    assert result.exit_code == 10
    assert "pgrade" in result.output
    (copy / "manifest.json").write_text(text)
    (copy / "weights.bin").unlink()
    assert run("inspect", copy).exit_code == 10


def test_a_mistyped_verb_gets_a_suggestion():
    result = run("quantise")
    assert result.exit_code == 2
    assert "quantize" in result.output


def test_models_lists_short_names_and_filters():
    result = run("models")
    assert result.exit_code == 0
    for name in ("vit_b", "deit_s", "swin_t", "vit_cifar10"):
        assert name in result.output
    result = run("models", "swin", "--json", "-")
    assert result.exit_code == 0


def test_json_that_cannot_be_written(bundle, tmp_path):
    result = run("inspect", bundle, "--json", tmp_path / "no" / "folder.json")
    assert result.exit_code == 3


def test_methods_are_listed_with_paper_images_cost_and_needs():
    from edgevit.calibration.methods import METHODS

    result = run_process("methods", "--json", "-")
    assert result.returncode == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)["methods"]}
    assert list(rows) == list(METHODS)
    assert rows["edgevit"]["num_images"] == METHODS["edgevit"].num_images
    assert rows["ptq4vit"]["needs"]
    for name, row in rows.items():
        assert row["summary"]
        assert row["source"]
        assert row["cost"]
        assert name in result.stderr.replace("\n", "")
    shown = " ".join(result.stderr.split())
    assert "2111.12293" in shown
    assert "images" in shown


@pytest.mark.parametrize(
    ("options", "code", "status"),
    [
        (["--avg-bits", "nan"], "EV218", 2),
        (["--max-size-mb", "inf"], "EV218", 2),
        (["--seed", "-1"], "EV220", 2),
        (["--seed", str(1 << 63)], "EV220", 2),
        (["--float-layer", "nope"], "EV219", 2),
        (["--json", "no/such/folder.json"], "EV206", 3),
        (["--output", "/dev/null/bundle"], "EV230", 3),
    ],
)
def test_bad_options_are_refused_before_any_work(options, code, status, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["quantize", "--model", "vit_cifar10", "-o", "out", *options]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == status, result.output
    assert code in result.output
    assert not list(tmp_path.iterdir())


def test_a_limit_that_is_not_a_number_is_refused(tmp_path):
    from edgevit.errors import UsageError
    from edgevit.verbs.validate import check_limits

    with pytest.raises(UsageError, match="EV218"):
        check_limits(max_drop=None, max_latency_ms=float("nan"))
    check_limits(max_drop=1.0, max_latency_ms=None)


def test_interrupted_work_exits_with_130(monkeypatch):
    from edgevit import api

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "inspect", stop)
    assert CliRunner().invoke(main, ["inspect", "anything"]).exit_code == 130


def test_python_dash_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "edgevit", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.startswith("edgevit, version")
