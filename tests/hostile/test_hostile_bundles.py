"""Bundles made to do harm: each is refused with its code, in bounded memory, nothing is written.

Every one of them is tried by a process that may write no byte (see victim.py).
"""

import json
import subprocess
import sys

import attacks_on_files
import attacks_on_graphs
import attacks_on_outputs
import numpy as np
import pytest
import sealing
from onnx import helper
from sealing import change_graph, put_before_logits, put_constant

from edgevit.bundle import open_bundle
from edgevit.bundle.limits import limits_from
from edgevit.errors import BundleError, UsageError

ATTACKS = {
    f"{kind}: {name}": attack
    for kind, attacks in {
        "engine": attacks_on_files.SETTINGS,
        "graph": attacks_on_graphs.PROGRAMS,
        "cost": attacks_on_graphs.COSTS,
        "tensor": attacks_on_files.TENSORS,
        "golden": attacks_on_files.GOLDEN,
        "outputs": attacks_on_outputs.OUTPUTS,
        "manifest": attacks_on_files.MANIFESTS,
    }.items()
    for name, attack in attacks.items()
}


def test_a_bundle_that_means_no_harm_is_run(judge, folder):
    verdict = judge.judge(folder)
    assert verdict.is_safe, verdict
    assert (verdict.code, verdict.status) == (None, 0), verdict


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_does_no_harm(judge, folder, name):
    attack, code = ATTACKS[name]
    attack(folder)
    verdict = judge.judge(folder)
    assert verdict.is_safe, verdict
    assert (verdict.code, verdict.status) == (code, BundleError.exit_status), verdict


def test_the_judge_notices_harm(judge, folder, monkeypatch):
    """What once was possible: with both checks of settings open, the file is written."""
    home = judge._sandbox
    key = "session.collect_node_memory_stats_to_file"
    opened = f"settings.SESSION_CONFIG[{key!r}] = ({str(home / 'harmed')!r},)"
    script = (home / "open_victim.py").resolve()
    victim = (attacks_on_files.Path(__file__).parent / "victim.py").read_text()
    opening = (
        "    import re\n    from edgevit.bundle import engine_settings\n"
        "    from edgevit.runner.engines.onnxruntime import settings\n"
        f"    engine_settings.WORD = re.compile('')\n    {opened}\n"
    )
    script.write_text(victim.replace("def main() -> None:\n", f"def main() -> None:\n{opening}", 1))
    attacks_on_files._setting(key, str(home / "harmed"))(folder)
    done = subprocess.run(
        [sys.executable, str(script)],
        input=f"{folder}\n",
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(attacks_on_graphs.Path(__file__).parents[2])},
    )
    _ready, *answers = done.stdout.splitlines()
    assert all(json.loads(answer)["code"] != "EV417" for answer in answers)
    assert (home / "harmed").exists() or done.returncode < 0
    for path in (home / "harmed", script):
        path.unlink(missing_ok=True)


def wide(width):
    """Return a change that keeps two tensors of `width` x 96 bytes per image alive."""

    def change(model):
        put_constant(model, "pads", np.array([0, 0, 0, 0, 0, 0, 0, width - 8], np.int64))
        put_constant(model, "zero_f", np.float32(0))
        put_constant(model, "last_axis", np.array([3], np.int64))
        put_constant(model, "rows_of_24", np.array([-1, 24], np.int64))
        put_constant(model, "axis1", np.array([1], np.int64))
        put_before_logits(
            model,
            helper.make_node("Pad", ["image", "pads", "zero_f"], ["wide"]),
            helper.make_node("Transpose", ["wide"], ["turned"], perm=[0, 2, 1, 3]),
            helper.make_node("Transpose", ["turned"], ["back"], perm=[0, 2, 1, 3]),
            helper.make_node("ReduceMean", ["back", "last_axis"], ["mean"]),
            helper.make_node("Reshape", ["mean", "rows_of_24"], ["rows24"]),
            helper.make_node("ReduceMean", ["rows24", "axis1"], ["one"]),
            helper.make_node("Mul", ["before", "one"], ["after"]),
        )

    return change


def test_a_bundle_just_within_the_limit_keeps_within_two_gigabytes(judge, folder):
    """16 images at once take 950 MB by inference: 475 MB in the engine, as much in fp32."""
    width = 950_000_000 // (2 * 16 * 2 * 96)
    for name in ("graph.onnx", "reference.onnx"):
        change_graph(folder, wide(width), name)
    cost = open_bundle(folder).costs["graph.onnx"]
    assert 0.9e9 < 2 * cost.activation_bytes.at(16) < 1e9
    verdict = judge.judge(folder)
    assert verdict.is_safe, verdict
    assert verdict.code is None, verdict
    assert verdict.peak_bytes > 0.5e9, verdict


def test_limits_are_raised_by_the_environment(folder, monkeypatch):
    change_graph(folder, wide(1 << 17))
    bundle = open_bundle(folder)  # it may be looked at
    needed_mb = -(-bundle.costs["graph.onnx"].activation_bytes.at(64) // 10**6)
    with pytest.raises(BundleError) as caught:
        bundle.check_limits(64)
    assert caught.value.code == "EV421"
    assert "EDGEVIT_MAX_MEMORY_MB=" in caught.value.try_next
    monkeypatch.setenv("EDGEVIT_MAX_MEMORY_MB", str(needed_mb + 1))
    bundle.check_limits(64)
    monkeypatch.setenv("EDGEVIT_MAX_GMACS", "1")
    bundle.check_limits(64)


@pytest.mark.parametrize("text", ["0", "-1", "much", "1e3", "9" * 30, "٣"])
def test_a_limit_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="EV423"):
        limits_from({"EDGEVIT_MAX_MEMORY_MB": text})


def test_the_command_line_ends_with_the_status_of_a_bundle(folder, tmp_path):
    """The whole command, as a user types it."""
    attacks_on_files.SETTINGS["statistics into a start-up file"][0](folder)
    data = tmp_path / "images"
    data.mkdir()
    for words in (["inspect", folder], ["validate", folder, "--data", data], ["check", folder]):
        done = subprocess.run(
            [sys.executable, "-m", "edgevit", *map(str, words)], capture_output=True, text=True
        )
        assert done.returncode == BundleError.exit_status, done.stderr
        assert "EV417" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / ".profile").exists()


def test_a_board_refuses_it_too(folder, tmp_path):
    """What is sent to a board has numpy and the engine, and the same lists."""
    attacks_on_graphs.PROGRAMS["loop of 2^62 rounds"][0](folder)
    images = tmp_path / "images"
    images.mkdir()
    index = {"schema_version": 1, "shape": [8, 8, 3], "counts": [1], "labels": [0], "skipped": []}
    (images / "index.json").write_text(json.dumps(index))
    blocked = "import sys\nfor name in ('torch', 'onnx', 'rich', 'PIL'): sys.modules[name] = None\n"
    code = blocked + (
        "from edgevit.runner.board.__main__ import main\n"
        f"main([{str(folder)!r}, {str(images)!r}, {str(tmp_path / 'out.json')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == BundleError.exit_status, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "EV418"
    assert not (tmp_path / "out.json").exists()


def test_nothing_is_left_of_an_opened_bundle_in_its_files(folder):
    """Opening and running changes nothing in the folder."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    open_bundle(folder).engine_onnx()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sealing.manifest_of(folder)["schema_version"] == 1
