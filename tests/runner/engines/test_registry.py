"""Which engine runs a bundle is what its manifest says, and engines are found by looking."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgevit.bundle import open_bundle
from edgevit.errors import BundleError, EdgeViTError, UnsupportedError, UsageError
from edgevit.runner.engines import all_engines, engine_named, engine_of
from edgevit.runner.engines.choice import choose_engine, engine_choices
from edgevit.runner.engines.onnxruntime.session import session_from_bundle
from edgevit.runner.engines.tensorrt.opening import engine_for

ROOT = Path(__file__).resolve().parents[3]
LIBRARIES = {"numpy", "onnxruntime", "tensorrt", "cuda", "torch", "onnx"}


def asking(parts, path, **engine):
    """A bundle whose manifest asks this of its engine, in place of what it asked."""
    parts.manifest["engine"] = engine
    return open_bundle(parts.write(path))


def test_the_engines_are_the_folders():
    folder = ROOT / "edgevit" / "runner" / "engines"
    folders = sorted(path.parent.name for path in folder.glob("*/__init__.py"))
    assert list(all_engines()) == folders == ["onnxruntime", "tensorrt", "tensorrt_rtx"]
    assert engine_choices() == ("auto", "onnxruntime", "tensorrt", "tensorrt_rtx")


def test_looking_loads_no_library():
    """Not even numpy: a doctor has to be able to say that it is missing."""
    blocked = f"import sys\nfor name in {sorted(LIBRARIES)}: sys.modules[name] = None\n"
    code = f"{blocked}from edgevit.runner.engines import all_engines\nprint(*all_engines())\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["onnxruntime", "tensorrt", "tensorrt_rtx"], done.stderr


def test_every_target_names_an_engine_or_runs_in_simulation_alone():
    from edgevit.targets.registry import TARGETS

    for target in TARGETS.values():
        try:
            target.check_deployable()
        except UnsupportedError:
            assert target.name == "simulation"
        else:
            assert engine_named(target.engine).title


@pytest.mark.parametrize(
    ("manifest", "name"),
    [
        ({"target": "cpu"}, "onnxruntime"),
        ({"target": {"name": "tensorrt-ada"}}, "tensorrt"),
        ({"target": "jetson-thor", "engine": {"provider": "CPUExecutionProvider"}}, "tensorrt"),
        ({"target": "jetson-thor", "engine": {"name": "onnxruntime"}}, "onnxruntime"),
        ({"target": "cpu", "engine": {"name": "tensorrt"}}, "tensorrt"),
    ],
)
def test_the_manifest_decides_and_before_it_did_the_target(manifest, name):
    assert engine_of(manifest).name == name


def test_an_engine_that_is_none_is_refused():
    for action in (
        lambda: engine_named("openvino"),
        lambda: choose_engine({"target": "cpu"}, "openvino"),
    ):
        with pytest.raises(UsageError, match="EV823") as caught:
            action()
        assert caught.value.try_next == "One of auto, onnxruntime, tensorrt, tensorrt_rtx."


FOREIGN = {
    "engine": {"name": "openvino"},
    "setting": {"name": "onnxruntime", "session_config": {"ep.context_enable": "1"}},
    "value": {"name": "onnxruntime", "session_config": {"session.x64quantprecision": "2"}},
    "provider": {"name": "tensorrt", "provider": "CUDAExecutionProvider"},
    "key": {"name": "tensorrt", "library": "x.so"},
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("opener", [session_from_bundle, engine_for], ids=lambda one: one.__name__)
def test_what_no_engine_declares_is_refused_before_any_session(
    parts, tmp_path, monkeypatch, name, opener
):
    """Whichever engine is asked to open it, with nothing of it loaded."""
    for library in ("onnxruntime", "tensorrt"):
        monkeypatch.setitem(sys.modules, library, None)
    bundle = asking(parts, tmp_path / "b", **FOREIGN[name])
    with pytest.raises(BundleError, match="EV417"):
        opener(bundle)
    for other in (choose_engine, engine_of):
        with pytest.raises(BundleError, match="EV417"):
            other(bundle.manifest)


@pytest.mark.parametrize("name", FOREIGN)
def test_every_verb_refuses_it_when_it_opens_the_bundle(parts, tmp_path, name):
    from edgevit import api

    path = asking(parts, tmp_path / "b", **FOREIGN[name]).path
    for verb in (
        api.load,
        api.inspect,
        lambda path: api.check(path, target="tensorrt"),
        lambda path: api.validate(path, "no/images"),
        lambda path: api.deploy(path, "no/images", device="nowhere"),
    ):
        with pytest.raises(BundleError, match="EV417"):
            verb(path)


@pytest.mark.parametrize(
    "engine",
    [{"name": "../x"}, {"provider": "a b"}, {"x": ["1"]}, {"x": {"y": {"z": "1"}}}, {"x": 1}],
    ids=str,
)
def test_what_is_no_plain_word_is_refused_when_a_bundle_is_opened(parts, tmp_path, engine):
    with pytest.raises(BundleError, match="EV417"):
        asking(parts, tmp_path / "b", **engine)


def test_a_bundle_asks_what_its_engine_or_the_stand_in_declares(parts, tmp_path):
    exact = {"session.x64quantprecision": "1"}
    for engine in all_engines().values():
        table = engine.table(exact)
        assert table["name"] == engine.name
        bundle = asking(parts, tmp_path / engine.name, **table)
        assert engine_of(bundle.manifest) == engine
        assert bundle.session_config == exact


def test_an_engine_without_a_stand_in_says_itself_what_is_missing(monkeypatch):
    """And one that has a stand-in says so only where it was asked for by name."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    codes = []
    for manifest, asked in (
        ({"target": "cpu"}, "auto"),
        ({"target": "cpu"}, "onnxruntime"),
        ({"target": "tensorrt"}, "tensorrt"),
        ({"target": "cpu"}, "tensorrt"),
    ):
        with pytest.raises(EdgeViTError) as caught:
            choose_engine(manifest, asked)
        codes.append(caught.value.code)
    assert codes == ["EV701", "EV701", "EV842", "EV826"]
    for asked, reason in (("auto", "there is no TensorRT"), ("onnxruntime", "it was asked for")):
        choice = choose_engine({"target": "tensorrt"}, asked)
        assert (choice.name, choice.stands_in) == ("onnxruntime", True)
        assert f"stands in for TensorRT ({reason})" in choice.warnings[0]


def test_the_peak_memory_of_an_engine_that_opens_none_by_itself_is_not_measured(
    bundle_path, monkeypatch, capsys
):
    from edgevit.runner.measure import memory

    alone = replace(engine_named("onnxruntime"), session=None)
    monkeypatch.setattr(memory, "engine_of", lambda manifest: alone)
    with pytest.raises(SystemExit):
        memory.main([str(bundle_path)])
    assert "EV709" in capsys.readouterr().err


def test_a_stand_in_runs_graphs_as_they_are_written(parts, tmp_path):
    parts.manifest["target"] = "jetson-orin-nano"
    bundle = asking(parts, tmp_path / "b", **engine_named("tensorrt").table({}))
    assert (bundle.engine_name, bundle.optimizes) == ("tensorrt", False)
    logits = session_from_bundle(bundle, threads=1).run(np.zeros((1, 3, 8, 8), np.float32))
    assert logits.shape == (1, 7)
