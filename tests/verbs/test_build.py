"""`edgevit build` before anything is compiled: what it refuses, and in which words."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import edgevit
from edgevit.bundle import open_bundle
from edgevit.cli import main
from edgevit.errors import UsageError
from edgevit.runner.engines.tensorrt_rtx import ENGINE

RECORDED = Path(__file__).parents[1] / "bundle" / "recorded" / "bf88222" / "vit_w8a8_jetson"


@pytest.fixture
def rtx(parts, tmp_path):
    """The tiny bundle for a card."""
    parts.manifest.update(target="rtx-ada", engine=ENGINE.table({}))
    return parts.write(tmp_path / "tiny")


def refused(code, *arguments, **options):
    with pytest.raises(UsageError) as caught:
        edgevit.build(*arguments, **options)
    assert caught.value.code == code, caught.value
    return caught.value


def test_a_bundle_for_a_processor_has_nothing_to_compile(bundle_path):
    error = refused("EV438", bundle_path)
    assert "ONNX Runtime takes this one as it is" in error.why
    assert "--target rtx-ada" in error.try_next


def test_a_device_that_nothing_is_compiled_for(parts, tmp_path):
    parts.manifest.update(target="jetson-thor", engine={"name": "tensorrt", "optimize": False})
    error = refused("EV439", parts.write(tmp_path / "thor"))
    assert "compute capability 11.0" in error.why


@pytest.mark.parametrize("cards", [["sm87"], ["sm86", "8.6"], ["all"], [""], ["sm86", "12"]])
def test_cards_that_the_compiler_does_not_know(rtx, cards):
    error = refused("EV771", rtx, capabilities=cards)
    assert "SM75, SM80, SM86, SM89, SM120, SM121" in error.why


def test_other_arguments_that_can_not_be(rtx, tmp_path):
    refused("EV416", rtx, variants=["int4"])
    refused("EV754", rtx, max_batch=0)
    refused("EV754", rtx, max_batch=4, best_batch=8)


def test_without_the_extra_it_says_what_to_install(rtx):
    blocked = "import sys; sys.modules['tensorrt_rtx'] = None; from edgevit.cli import main; main()"
    before = {path.name: path.read_bytes() for path in rtx.iterdir()}
    command = [sys.executable, "-c", blocked, "build", str(rtx)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "error EV770" in done.stderr
    assert "pip install 'edgevit[rtx]'" in done.stderr
    assert {path.name: path.read_bytes() for path in rtx.iterdir()} == before


def test_an_output_that_is_there_is_refused_before_the_work(rtx, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "thesis.tex").touch()
    for options in ([], ["--overwrite"]):
        words = ["build", str(rtx), "-o", str(tmp_path / "new"), *options]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 2
        assert "EV411" in result.output


def test_an_old_bundle_shows_no_kernels(tmp_path):
    old = shutil.copytree(RECORDED, tmp_path / "old")
    found = edgevit.inspect(old)
    assert (found["kernels"], found["engines"]) == ([], [])
    assert found["size_bytes"]["compiled"] == 0
    output = CliRunner().invoke(main, ["inspect", str(old)]).output
    assert "Kernels" not in output
    assert "compiled" not in output
    assert open_bundle(old).kernel_tables() == []
