"""A new method or target is one new file: it is added to a copy of the package, and used.

The copy is a tree of links to this package's files; nothing in it is changed but the file added.
Everything runs in a process of its own, so that nothing is known of the file in this one.
"""

import compileall
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from contributing import example

from edgevit.zoo import reference_images

PACKAGE = Path(__file__).parents[1] / "edgevit"
METHOD = example("edgevit/calibration/methods/coarse.py")
TARGET = example("edgevit/targets/abacus.py")
FOLDER = {
    "abacus/__init__.py": 'NAMES = ("abacus",)\n',
    "abacus/target.py": TARGET.replace('NAMES = ("abacus",)\n', ""),
}


DRIVER = """
import json, sys
from click.testing import CliRunner
from edgevit.cli import main

said = []
for words in json.load(sys.stdin):
    done = CliRunner().invoke(main, words)
    if done.exit_code:
        sys.exit(done.output)
    said.append(done.stdout)
json.dump(said, sys.stdout)
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the package below an empty folder."""
    shutil.copytree(PACKAGE, tmp_path / "edgevit", copy_function=os.symlink)
    return tmp_path


def add(folder, files):
    """Write new files into a room of the copy."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        assert not (folder / name).exists()
        (folder / name).write_text(text)


def python(copy, code, given="", **variables):
    """Run code with the copy of the package in its folder; return its standard output."""
    paths = os.pathsep.join([str(copy), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **variables},
        cwd=copy,
        input=given,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def said(copy, *lines):
    """Return what `edgevit` writes to standard output for each of some command lines."""
    return json.loads(python(copy, DRIVER, json.dumps([line.split() for line in lines])))


def completed(copy, words):
    """Return what the shell offers behind the words."""
    typed = {"COMP_WORDS": f"edgevit {words}", "COMP_CWORD": str(len(words.split()))}
    code = "from edgevit.cli import main; main(prog_name='edgevit')"
    lines = python(copy, code, _EDGEVIT_COMPLETE="bash_complete", **typed).splitlines()
    return {line.partition(",")[2] for line in lines}


def test_a_method_is_one_new_file(copy):
    add(copy / "edgevit/calibration/methods", {"coarse.py": METHOD})
    quantize = "quantize --model vit_cifar10 --method coarse"
    listed, helped, _ = said(copy, "methods --json -", "quantize --help", quantize)
    names = [row["name"] for row in json.loads(listed)["methods"]]
    assert (names[0], names[-1]) == ("edgevit", "coarse")
    assert "coarse" in helped
    assert completed(copy, "quantize --method coa") == {"coarse"}
    manifest = json.loads((copy / "vit_cifar10_w6a6_cpu_coarse/manifest.json").read_text())
    assert manifest["calibration"]["method"] == "coarse"
    assert manifest["calibration"]["num_images"] == 4
    assert "calibrated by coarse" in manifest["warnings"]


def test_a_target_is_one_new_file(copy):
    add(copy / "edgevit/targets", {"abacus.py": TARGET})
    quantize = "quantize --model vit_cifar10 --method minmax --num-calib 4 --target Abacus -o beads"
    validate = f"validate beads --data {reference_images('test')} --num 20 --rounds 2"
    listed, helped, *_ = said(
        copy,
        "targets --json -",
        "quantize --help",
        quantize,
        f"{validate} --max-drop 100",
        "doctor --target abacus",
    )
    rows = {row["name"]: row for row in json.loads(listed)["targets"]}
    assert rows["abacus"]["description"] == "Beads on wires"
    assert next(iter(rows)) == "cpu"
    assert "abacus" in helped
    assert completed(copy, "quantize --target aba") == {"abacus"}
    assert json.loads((copy / "beads/manifest.json").read_text())["target"] == "abacus"


def test_a_target_is_one_new_folder(copy):
    add(copy / "edgevit/targets", FOLDER)
    listed, helped = said(copy, "targets --json -", "quantize --help")
    assert "abacus" in [row["name"] for row in json.loads(listed)["targets"]]
    assert "abacus" in helped


def test_compiled_files_alone_do(tmp_path):
    """Names are read from sources only where there are sources."""
    shutil.copytree(PACKAGE, tmp_path / "edgevit", ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(tmp_path / "edgevit", quiet=1, legacy=True)
    for source in (tmp_path / "edgevit").rglob("*.py"):
        source.unlink()
    listed, targets = said(tmp_path, "methods --json -", "targets --json -")
    assert len(json.loads(listed)["methods"]) > 10
    assert {row["name"] for row in json.loads(targets)["targets"]} > {"cpu", "simulation"}


@pytest.mark.parametrize(
    ("room", "files", "why"),
    [
        ("targets", {"abacus.py": TARGET.replace('("abacus",)', '("bacus",)')}, "NAMES"),
        ("targets", {"abacus.py": TARGET.replace("abacus", "cpu")}, "cpu"),
        ("calibration/methods", {"coarse.py": METHOD.replace("coarse", "minmax")}, "minmax"),
        ("calibration/methods", {"coarse.py": METHOD.replace('"coarse"', "str(1)")}, "methods"),
    ],
    ids=["other name", "name twice", "method twice", "name not in the text"],
)
def test_names_that_would_mislead_are_refused(room, files, why, copy):
    """What help and completion read without torch is what there is."""
    add(copy / "edgevit" / room, files)
    code = """
try:
    from edgevit.calibration.methods import METHODS
    from edgevit.targets.registry import TARGETS
except ValueError as error:
    print(error)
"""
    assert why in python(copy, code)
