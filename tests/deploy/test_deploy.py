"""`edgevit deploy` against a real OpenSSH server on this machine."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from named_outputs import SHAPES, Tower, write_images
from thin_python import bare_python

from edgevit.bundle import Bundle, open_bundle
from edgevit.bundle.compiled import CompiledFile
from edgevit.bundle.rewriting import write_compiled
from edgevit.errors import (
    BundleError,
    DataError,
    DeviceError,
    EnvironmentError_,
    UnsupportedError,
    UsageError,
)
from edgevit.verbs.deploy import deploy
from edgevit.verbs.validate import validate

QUICK = {"threads": 1, "rounds": 5}


def refused(kind, code, *arguments, **options):
    with pytest.raises(kind) as caught:
        deploy(*arguments, device="board", **{**QUICK, **options})
    assert caught.value.code == code, caught.value
    return caught.value


def test_the_report_is_that_of_this_machine(board, bundle, few):
    latency = {"eer_metrics": ["latency"], "eer_reference": "fp32"}
    there = deploy(bundle, few, device="board", **latency, **QUICK)
    here = validate(bundle, few, **QUICK)
    same = (
        "labels",
        "chance",
        "top1",
        "top5",
        "drop_points",
        "agreement",
        "num_images",
        "size_bytes",
        "engine",
    )
    assert {key: there[key] for key in same} == {key: here[key] for key in same}
    assert there["flops"] == here["flops"]
    assert there["eer"] == pytest.approx(100 / there["speedup"])
    assert there["self_check"]["agreement_percent"] == 100
    assert there["latency_ms"]["engine"]["p50"] > 0
    assert there["peak_memory_bytes"]["engine"] > 1e7
    assert there["device"]["modules"]["tensorrt"] is None
    assert there["device"]["facts"]["system"]["machine"] == os.uname().machine
    assert there["device"]["kept"] is None
    assert board.left() == []  # not even an empty folder


def test_named_outputs_come_back(board, tmp_path):
    import edgevit

    images = write_images(tmp_path / "images")
    artefact = edgevit.quantize(Tower(), images, bits=8, method="minmax", num_calib=8)
    bundle = artefact.save(tmp_path / "tower")
    there = deploy(bundle.path, images, device="board", **QUICK)
    here = validate(bundle, images, **QUICK)
    for key in ("task", "self_check", "agreement", "top1", "num_images", "labels"):
        assert there[key] == here[key]
    assert list(there["task"]["outputs"]) == [*SHAPES]


def test_labels_are_made_here_and_sent(board, bundle, tmp_path):
    from PIL import Image

    for number, folder in enumerate(["1", "2", "3", "4", "5", "6", "10"]):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for shade in range(5):
            colour = (36 * number, 50 * shade, 128)
            Image.new("RGB", (8, 8), colour).save(tmp_path / "data" / folder / f"{shade}.png")
    refused(DataError, "EV112", bundle, tmp_path / "data")
    names = ["10", "6", "5", "4", "3", "2", "1"]
    for order in ({"class_order": "torchvision"}, {"classes": names}):
        there = deploy(bundle, tmp_path / "data", device="board", **order, **QUICK)
        here = validate(bundle, tmp_path / "data", **order, **QUICK)
        for key in ("labels", "chance", "top1"):
            assert there[key] == here[key]
    assert there["labels"]["mapping"]["10"] == 0


def test_kept_it_can_be_measured_again_and_is_not_sent_again(board, bundle, few):
    device = deploy(bundle, few, device="board", keep=True, **QUICK)["device"]
    root = Path(device["kept"])
    assert (root / "bundle" / "manifest.json").is_file()
    (root / "measurements.json").unlink()
    again = [*shlex.split(board.client), "board", device["run_again"]]
    subprocess.run(again, check=True, capture_output=True)
    assert json.loads((root / "measurements.json").read_text())["engine"]["labels"]
    steps = []
    deploy(bundle, few, device="board", progress=lambda *step: steps.append(step), **QUICK)
    first = next(step for step in steps if step[0] == "send")
    assert first[1] == first[2]  # all of it was there
    assert board.left() == []


def test_engines_that_were_compiled_here_are_not_sent(board, bundle, few, tmp_path):
    """A board builds its own; the bundle is the same without them, and opens there."""
    engine = CompiledFile(
        variant="int8",
        capabilities=("SM86",),
        engine="tensorrt_rtx",
        version="1.7.1.116",
        batches=(1, 8, 16),
        list_sha256="0" * 64,
        seconds=1.0,
        data=bytes(4 << 20),
    )
    opened, path = open_bundle(bundle), tmp_path / "compiled"
    given = {"variants": ("int8",), "engines": [engine], "kernel_tables": ()}
    write_compiled(opened, path, **given, overwrite=False)
    steps = []
    report = deploy(
        path, few, device="board", keep=True, progress=lambda *step: steps.append(step), **QUICK
    )
    assert report["agreement"]["engine_vs_simulated"] == 100
    there = Path(report["device"]["kept"]) / "bundle"
    left_out = {"engine_int8_sm86.rtx"}
    assert {one.name for one in path.iterdir()} - {one.name for one in there.iterdir()} == left_out
    assert max(total for stage, _, total in steps if stage == "send") < 4 << 20
    assert open_bundle(there).engines() == []
    deploy(path, few, device="board", **QUICK)


def test_command_line(board, bundle, few, tmp_path):
    """Without torch, which takes seconds to import."""
    code = "import sys; sys.modules['torch'] = None; from edgevit.cli import main; main()"
    command = [sys.executable, "-c", code, "deploy", str(bundle), "--device", "board"]
    command += ["--data", str(few), "--rounds", "5", "--json", str(tmp_path / "report.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["device"]["address"] == "board"
    assert "on board: " in done.stderr
    done = subprocess.run([*command, "--max-drop", "1e-9"], capture_output=True, text=True)
    assert done.returncode in (5, 8), done.stderr
    board.replace_host_key()
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "EV839" in done.stderr) == (7, True), done.stderr


def test_host_keys_are_checked(board, bundle, few):
    board.replace_host_key()
    error = refused(DeviceError, "EV839", bundle, few)
    assert "has changed" in error.what
    assert "ssh-keygen -R board" in error.try_next
    (board.folder / "known_hosts").write_text("")
    error = refused(DeviceError, "EV812", bundle, few)
    assert "is unknown" in error.what
    assert board.left() == []


def test_login_refused(board, bundle, few):
    (board.folder / "authorized_keys").write_text("")
    assert "ssh-copy-id" in refused(DeviceError, "EV813", bundle, few).try_next


def test_not_reachable(board, bundle, few):
    board.line.refuse()
    refused(DeviceError, "EV814", bundle, few)


@pytest.mark.parametrize(
    "device",
    ["-oProxyCommand=touch x", "a b", "", "$(touch x)", "user@", "@host", "ssh://u@h:99999"],
)
def test_addresses_that_are_none(bundle, few, device):
    with pytest.raises(UsageError) as caught:
        deploy(bundle, few, device=device)
    assert caught.value.code == "EV811"


def test_no_ssh_client(bundle, few, monkeypatch):
    monkeypatch.setenv("EDGEVIT_SSH", "no-such-client")
    refused(EnvironmentError_, "EV810", bundle, few)


def test_missing_engine(make_board, bundle, few, tmp_path):
    board = make_board(bare_python(tmp_path / "v", "numpy"))
    error = refused(EnvironmentError_, "EV840", bundle, few)
    assert "No module named 'onnxruntime'" in error.why
    assert board.left() == []


def test_missing_numpy(make_board, bundle, few, tmp_path):
    make_board(bare_python(tmp_path / "v"))
    assert "numpy" in refused(EnvironmentError_, "EV818", bundle, few).what


def test_missing_python(board, bundle, few):
    error = refused(DeviceError, "EV816", bundle, few, python="python9")
    assert "python9" in error.why


def test_another_python_can_be_named(make_board, bundle, few, board_path):
    make_board("/usr/bin:/bin")
    python = f"{board_path.partition(':')[0]}/python3"
    assert deploy(bundle, few, device="board", python=python, **QUICK)["num_images"] == 40


def test_a_python_in_the_home_of_the_board(board, bundle, few, board_path):
    own = board.home / "my python"
    own.write_text(f'#!/bin/sh\nexec {board_path.partition(":")[0]}/python3 "$@"\n')
    own.chmod(0o755)
    options = {"device": "board", "python": "~/my python", "keep": True, **QUICK}
    again = deploy(bundle, few, **options)["device"]["run_again"]
    environment = {**os.environ, "HOME": str(board.home)}
    done = subprocess.run(["sh", "-c", again], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_engine_that_could_not_run_the_bundle(board, bundle, few):
    refused(UnsupportedError, "EV826", bundle, few, engine="tensorrt")
    refused(UsageError, "EV823", bundle, few, engine="tensorflow")


def test_a_bundle_for_tensorrt_on_a_board_without(board, make_bundle, few):
    for_jetson = make_bundle("jetson-orin-nano")
    report = deploy(for_jetson, few, device="board", **QUICK)
    assert report["latency_ms"] == {"fp32": None, "engine": None}
    assert report["engine"]["stands_in"] is True
    assert any("no latency of the device was measured" in line for line in report["warnings"])
    assert report["agreement"]["engine_vs_simulated"] == 100
    refused(EnvironmentError_, "EV840", for_jetson, few, engine="tensorrt")
    assert board.left() == []


def test_what_fails_there_is_raised_here(
    board, make_parts, preprocessing, few, tmp_path, monkeypatch
):
    parts = make_parts()
    parts.manifest.update(preprocessing=preprocessing)
    logits = parts.golden["logits_simulated"]
    parts.golden["logits_simulated"] = logits[:, :-1]  # of another model: the board has to say so
    with monkeypatch.context() as patch:  # who writes a bundle would notice as well
        patch.setattr(Bundle, "_check_golden", lambda self, arrays: None)
        path = parts.write(tmp_path / "bundle")
    error = refused(BundleError, "EV402", path, few)
    assert error.where.startswith("on the board")
    assert board.left() == []
