"""`edgevit targets`, the names in the help, completion, and the exit statuses in the docs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgevit.cli import main

ROOT = Path(__file__).parent.parent


def run(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_all_targets_are_listed_with_what_they_run(tmp_path):
    from edgevit.targets.registry import TARGETS

    output = run("targets", "--json", tmp_path / "targets.json")
    rows = json.loads((tmp_path / "targets.json").read_text())["targets"]
    assert [row["name"] for row in rows] == list(TARGETS)
    for row in rows:
        assert row["name"] in output
        assert all(row[key] for key in ("widths", "grids", "seen_to_run"))
        assert ("e4m3" in row["grids"]) == ("fp8" in row["float_precisions"])


@pytest.mark.parametrize("name", ["cpu", "simulation", "tensorrt", "tensorrt-ada"])
def test_the_grids_listed_are_those_that_are_offered(name, vit):
    from edgevit.targets.registry import TARGETS

    target, found = TARGETS[name], set()
    graph = target.prepare(vit)
    for bits in target.widths:
        main_form = target.place(graph, weight_bits=bits, act_bits=bits)
        for placement in [main_form, *target.variants(graph, main_form).values()]:
            found |= {spec.kind for some in placement.options.values() for spec in some}
    assert found == set(target.grids)


def test_names_known_without_torch_are_those_of_the_registries():
    from edgevit.calibration.methods import METHODS
    from edgevit.calibration.naming import method_names
    from edgevit.targets.naming import target_names
    from edgevit.targets.registry import TARGETS

    assert method_names() == tuple(sorted(METHODS))
    assert target_names() == tuple(TARGETS)


@pytest.mark.parametrize("verb", ["quantize", "sensitivity"])
def test_help_names_methods_and_targets_without_torch(verb):
    code = (
        "import sys; from edgevit.cli import main\n"
        f"try: main(['{verb}', '--help'])\n"
        "finally:\n"
        "    heavy = {'torch', 'timm', 'onnx', 'onnxruntime', 'rich', 'PIL'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.replace("-\n", "-").split()
    words = {word.strip(",.") for word in said}
    assert {"minmax", "noisyquant+ptq4vit", "percentile", "cpu", "simulation"} <= words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell):
    """As docs/command-line.md says it."""
    assert "_EDGEVIT_COMPLETE=bash_source edgevit" in (ROOT / "docs/command-line.md").read_text()
    code = "from edgevit.cli import main; main(prog_name='edgevit')"
    env = {**os.environ, "_EDGEVIT_COMPLETE": f"{shell}_source"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "_EDGEVIT_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("edgevit val", {"validate"}), ("edgevit quantize --target jetson-orin-nan", None)],
)
def test_names_are_completed(words, wanted):
    code = "from edgevit.cli import main; main(prog_name='edgevit')"
    words_env = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    env = {**os.environ, "_EDGEVIT_COMPLETE": "bash_complete", **words_env}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    found = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert found == (wanted or {"jetson-orin-nano"})


def test_the_exit_statuses_in_the_docs_are_those_of_the_errors():
    from edgevit import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    statuses = {kind.exit_status for kind in kinds if issubclass(kind, errors.EdgeViTError)}
    text = (ROOT / "docs/validate.md").read_text().partition("## Exit statuses")[2]
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    documented = {int(row) for row in rows if row.isdigit()}
    assert documented >= {0, 130, 143}
    assert documented - {0, 130, 143} == statuses
