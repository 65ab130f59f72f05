"""Every refusal says what, where, why and what to try, in the words the user used."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgevit.cli import main
from edgevit.zoo import EMBEDDED_MODELS, reference_images

QUICK = ["--model", "vit_cifar10", "--method", "minmax", "--num-calib", "4"]
TEST = str(reference_images("test"))


def refused(code, *arguments, status=2):
    """Run, make sure that it is refused completely, and return the parts of the error."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    lines = [line for line in result.output.splitlines() if not line.endswith(": done")]
    assert lines[0].startswith(f"error {code}: "), result.output
    parts = dict(line.strip().split(": ", 1) for line in lines[1:])
    assert set(parts) == {"where", "why", "try"}, result.output
    assert all(text.strip() for text in parts.values()), result.output
    return {**parts, "what": lines[0]}


@pytest.mark.parametrize("verb", ["quantize", "sensitivity"])
@pytest.mark.parametrize("option", ["--bits", "--weight-bits", "--act-bits"])
def test_a_width_is_refused_under_the_name_it_was_given(verb, option, tmp_path):
    arguments = ["--model", "vit_cifar10", option, 9, "-o", tmp_path / "out"]
    assert refused("EV201", verb, *arguments)["where"] == option


def test_bits_are_not_looked_at_when_both_widths_are_given():
    from edgevit.verbs.inputs import check_widths

    assert check_widths(9, 4, 5) == (4, 5)


@pytest.mark.parametrize(
    ("options", "code", "where"),
    [
        (["--threads", 0], "EV707", "--threads"),
        (["--threads", -2], "EV707", "--threads"),
        (["--threads", 100000], "EV227", "--threads"),
        (["--batch", 10**9], "EV228", "--batch"),
        (["--rounds", 10**9], "EV229", "--rounds"),
        (["--rounds", 0], "EV708", "--rounds"),
        (["--rounds", 1], "EV708", "--rounds"),
        (["--batch", 0], "EV207", "--batch"),
        (["--eer-weights", "nan", "nan"], "EV802", "--eer-weights"),
        (["--eer-weights", "inf", "0"], "EV802", "--eer-weights"),
        (["--eer-weights", "0", "0"], "EV802", "--eer-weights"),
        (["--eer-weights", "1.5", "-0.5"], "EV802", "--eer-weights"),
        (["--max-drop", "-1"], "EV218", "--max-drop"),
        (["--max-drop", "nan"], "EV218", "--max-drop"),
        (["--max-latency-ms", "0"], "EV218", "--max-latency-ms"),
    ],
)
def test_validate_refuses_what_can_not_be_measured_before_it_opens_anything(options, code, where):
    error = refused(code, "validate", "no/bundle", "--data", "no/images", *options)
    assert error["where"] == where
    assert where in error["try"]


def test_a_limit_of_no_drop_is_one(bundle_path):
    from edgevit.runner.measure.limits import check_limits

    check_limits(max_drop=0.0, max_latency_ms=None)


@pytest.mark.parametrize("num", [0, -1, 1001])
def test_a_wrong_number_of_images_is_refused_under_its_option(num, bundle_path):
    error = refused("EV103", "validate", bundle_path, "--data", TEST, "--num", num, status=9)
    assert "(--num 1000)" in error["try"]
    assert "--num-calib" not in error["try"]


def test_each_verb_has_its_own_name_for_a_number_of_images():
    arguments = ["--model", "vit_cifar10", "--data", TEST, "--num", 0, "-o", "never.csv"]
    assert "(--num 1000)" in refused("EV103", "sensitivity", *arguments, status=9)["try"]
    too_many = [*QUICK[:-1], 257, "-o", "never"]
    assert "(--num-calib 256)" in refused("EV103", "quantize", *too_many, status=9)["try"]


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_name_is_refused(empty, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for verb in (["quantize", *QUICK], ["demo"], ["sensitivity", "--model", "vit_cifar10"]):
        assert "--output" in refused("EV223", *verb, "-o", empty)["where"]
    refused("EV223", "validate", "x", "--data", "x", "--json", empty)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["deit_s", "vit_cifar11"])
def test_the_demo_names_its_models(model, tmp_path):
    error = refused("EV224", "demo", "--model", model, "-o", tmp_path / "out")
    for name in EMBEDDED_MODELS:
        assert name in error["why"]
        assert f"--model {name}" in error["try"]
    assert "--calib" not in " ".join(error.values())


def test_a_file_is_no_bundle_and_is_called_a_file(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"x")
    for verb in (["inspect", file], ["validate", file, "--data", TEST]):
        error = refused("EV401", *verb, status=10)
        assert error["where"] == str(file)
        assert "file" in error["why"]
    assert "no such" in refused("EV401", "inspect", tmp_path / "absent", status=10)["why"]


@pytest.mark.parametrize(
    ("name", "code"),
    [("floats.npz", "EV107"), ("damaged.npz", "EV135"), ("other.npz", "EV135")],
)
def test_an_npz_that_does_not_fit_says_how_to_make_one(name, code, tmp_path):
    path = tmp_path / name
    if name == "damaged.npz":
        path.write_bytes(b"PK not a zip")
    elif name == "other.npz":
        np.savez(path, pictures=np.zeros(3))
    else:
        np.savez(path, images=np.zeros((2, 4, 4, 3), np.float32))
    error = refused(code, "quantize", *QUICK, "--calib", path, "-o", tmp_path / "o", status=9)
    assert error["where"] == str(path)
    assert "numpy.savez" in error["try"]


def test_a_folder_without_a_label_says_what_to_do(tmp_path):
    from dataclasses import replace

    from edgevit.data import Preprocessing, open_images
    from edgevit.errors import DataError

    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.arange(2))
    images = replace(open_images(tmp_path / "a.npz"), labels={"0": 0})
    preprocessing = Preprocessing(
        input_size=(3, 4, 4),
        resize_size=4,
        interpolation="bilinear",
        crop_pct=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    with pytest.raises(DataError, match="EV133") as caught:
        next(images.batches(preprocessing, 2))
    assert set(caught.value.parts()) == {"what", "where", "why", "try"}


@pytest.mark.parametrize("kind", ["missing", "folder", "damaged"])
def test_weights_that_can_not_be_read(kind, tmp_path):
    path = tmp_path / "weights.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "damaged":
        path.write_bytes(b"\xff" * 20)
    arguments = [*QUICK, "--weights", path, "-o", tmp_path / "out"]
    error = refused("EV154", "quantize", *arguments, status=9)
    assert error["where"] == str(path)
    assert ("Save" in error["try"]) == (kind == "damaged")


STOPPED_WHILE_WRITING = """
import os, shutil, signal, sys
from edgevit.bundle import new_folder
add, rmtree = new_folder.NewBundle.add, shutil.rmtree
def terminated_add(self, *arguments):
    add(self, *arguments)
    print("a file is written", file=sys.stderr)
    assert self.folder.name.endswith(".partial") and list(self.folder.iterdir())
    os.kill(os.getpid(), signal.SIGTERM)
def terminated_rmtree(folder, *arguments, **keywords):
    if str(folder).endswith(".partial"):
        os.kill(os.getpid(), signal.SIGTERM)
    rmtree(folder, *arguments, **keywords)
new_folder.NewBundle.add, shutil.rmtree = terminated_add, terminated_rmtree
from edgevit.cli import main
main(sys.argv[1:])
"""


def test_sigterm_while_the_bundle_is_written_leaves_nothing(tmp_path):
    """The program gets real signals, the second while it is clearing away."""
    command = [sys.executable, "-c", STOPPED_WHILE_WRITING, "quantize", *QUICK]
    arguments = ["-o", str(tmp_path / "new" / "out"), "--json", str(tmp_path / "out.json")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    assert "a file is written" in done.stderr
    assert done.stderr.rstrip().endswith("Terminated.")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


STOPPED_WHILE_CLEARING = """
import os, shutil, signal
from edgevit import console
from edgevit import scratch
rmtree, stops = shutil.rmtree, [signal.{signal}, 0, 0, 0]
def interrupted(*arguments, **keywords):
    os.kill(os.getpid(), stops.pop(0))
    rmtree(*arguments, **keywords)
shutil.rmtree = interrupted
with console.end_in_order(), scratch.scratch_folder() as folder:
    (folder / "file").touch()
raise AssertionError("it went on")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_temporary_folder_goes_when_its_clearing_is_interrupted(tmp_path, name):
    code = STOPPED_WHILE_CLEARING.replace("{signal}", name)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may ignore it
    )
    assert done.returncode == (143 if name == "SIGTERM" else -signal.SIGINT), done.stderr
    assert list(tmp_path.iterdir()) == []


STOPPED_WHILE_IMPORTING = """
import os, signal, sys
from edgevit import cli
@cli.main.command()
def importing():
    try:
        os.kill(os.getpid(), signal.{signal})
    except BaseException as error:
        {then}
cli.main(["importing"])
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("then", ['raise ImportError("initialization failed") from error', "pass"])
def test_a_library_that_takes_a_signal_for_something_else_does_not_hide_it(name, status, then):
    """As onnxruntime does when it is interrupted while it is imported."""
    code = STOPPED_WHILE_IMPORTING.replace("{signal}", name).replace("{then}", then)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may ignore it
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_at_any_time_leaves_nothing(tmp_path):
    """Ended from outside as soon as the work has begun."""
    command = [sys.executable, "-m", "edgevit.cli", "quantize", "--model", "vit_cifar10"]
    with subprocess.Popen(
        [*command, "-o", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True
    ) as process:
        said = process.stderr.readline()  # the first stage is done
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_uses_the_command_line_keeps_its_own_handling_of_sigterm(bundle_path):
    mine = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGTERM, mine)
    try:
        assert CliRunner().invoke(main, ["inspect", str(bundle_path)]).exit_code == 0
        assert signal.getsignal(signal.SIGTERM) is mine
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert CliRunner().invoke(main, ["inspect", str(bundle_path)]).exit_code == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_pipe_is_written_into_and_stays_one(tmp_path):
    """Replaced by a file, /dev/null would be gone for the whole machine."""
    from edgevit.console import check_writable, write_json

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_writable(str(pipe), "/dev/null")
    write_json(str(pipe), {"key": 1})
    assert json.loads(os.read(reader, 1000)) == {"key": 1}
    os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_file_whose_writing_is_interrupted_is_not_left_behind(tmp_path):
    from edgevit.console import replace_file

    def write(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    (tmp_path / "out.json").write_text(json.dumps({"old": True}))
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "out.json", write)
    assert os.listdir(tmp_path) == ["out.json"]
    assert json.loads((tmp_path / "out.json").read_text()) == {"old": True}


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        result = CliRunner().invoke(main, ["methods", "--json", str(pipe)])
        assert result.exit_code == 0, result.output
        assert json.loads(os.read(reader, 1 << 20))["schema_version"] == 1
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    result = CliRunner().invoke(main, ["methods", "--json", str(tmp_path / "link.json")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["methods"]


def test_an_open_file_of_the_shell_is_written_to():
    read, write = os.pipe()
    command = [sys.executable, "-m", "edgevit", "methods", "--json", f"/dev/fd/{write}"]
    done = subprocess.run(command, pass_fds=(write,), capture_output=True, text=True, check=False)
    os.close(write)
    with os.fdopen(read) as file:
        found = file.read()
    assert done.returncode == 0, done.stderr
    assert json.loads(found)["methods"]


def test_what_may_not_be_replaced_is_refused_before_any_work(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.png").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"mine")
    for name in ("photos", "file"):
        arguments = ["quantize", *QUICK, "--overwrite", "-o", str(tmp_path / name)]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert result.output.startswith("error EV411"), result.output


def test_accuracy_layer_by_layer_needs_labels(tmp_path):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "flat.npz", images=pixels)
    arguments = ["sensitivity", *QUICK, "--data", tmp_path / "flat.npz", "--num", 4]
    error = refused("EV111", *arguments, "-o", tmp_path / "s.csv", status=9)
    assert "flat.npz" in error["where"]
    assert os.listdir(tmp_path) == ["flat.npz"]


@pytest.mark.parametrize(
    ("options", "code"), [(["--method", "nosuch"], "EV202"), (["--seed", "-1"], "EV220")]
)
def test_sensitivity_refuses_what_can_not_be_before_it_loads_a_model(options, code, tmp_path):
    arguments = ["sensitivity", "--model", "vit_cifar10", "-o", str(tmp_path / "s.csv"), *options]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.output.startswith(f"error {code}"), result.output


def test_a_pattern_that_matches_no_model_says_so():
    result = CliRunner().invoke(main, ["models", "nosuch_model"])
    assert result.exit_code == 0
    assert "No model matches 'nosuch_model'." in result.output
