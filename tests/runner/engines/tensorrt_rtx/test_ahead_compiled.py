"""Cards that share an engine, and cards that can't have one; with NVIDIA's compiler."""

import pytest

pytest.importorskip("tensorrt_rtx")

from edgevit.bundle import open_bundle
from edgevit.errors import UnsupportedError, UsageError
from edgevit.runner.engines.tensorrt.building import BuildSettings
from edgevit.runner.engines.tensorrt_rtx import ahead
from edgevit.runner.engines.tensorrt_rtx.ahead import (
    capabilities_from_texts,
    compilation_from_onnx,
)
from edgevit.runner.engines.tensorrt_rtx.compiling import compiled_from_onnx
from edgevit.targets.tensorrt import target

SETTINGS = BuildSettings(best_batch=8, max_batch=16)


@pytest.fixture(scope="module")
def fp8(small_bundle, tmp_path_factory):
    path = small_bundle("rtx-ada", tmp_path_factory.mktemp("made") / "bundle")
    return open_bundle(path).engine_onnx("fp8")


def test_cards_in_every_spelling():
    found = capabilities_from_texts(["sm86", "SM89", " 12.0", "sm_75", "121"])
    assert found == ("SM86", "SM89", "SM120", "SM75", "SM121")
    for wrong in (["sm87"], ["8,6"], ["sm"], ["sm86", "86"], []):
        with pytest.raises(UsageError, match="EV771"):
            capabilities_from_texts(wrong)


def test_a_card_that_would_lose_by_sharing_has_its_own_engine(small_bundle, tmp_path, monkeypatch):
    """Of q, k and v that are gathered FP8 on SM120 has more kernels, and on SM89 too if shared."""
    monkeypatch.setattr(target, "with_cut_heads", lambda graph, **_: graph)
    fp8 = open_bundle(small_bundle("rtx-ada", tmp_path / "b", allow_fallback=True)).engine_onnx(
        "fp8"
    )
    found = compilation_from_onnx(fp8, ("SM86", "SM89", "SM120"), SETTINGS)
    assert [engine.capabilities for engine in found.engines] == [("SM89",), ("SM120",)]
    shared = compiled_from_onnx(fp8, ("SM89", "SM120"), settings=SETTINGS)
    assert len(found.engines[0].layers) < len(shared.layers)
    assert list(found.refused) == ["SM86"]
    assert all(not engine.warnings for engine in found.engines)


def test_a_card_without_the_unit_is_told_so(fp8):
    with pytest.raises(UnsupportedError) as caught:
        compiled_from_onnx(fp8, ("SM75", "SM86"))
    error = caught.value
    assert (error.code, error.where) == ("EV437", "SM75, SM86")
    assert "FP8 is there from SM89 on" in error.try_next


def test_equally_many_kernels_that_grow_when_shared_stay_apart(monkeypatch):
    class Engine:
        def __init__(self, names):
            self.capabilities, self.layers = tuple(names), range(len(names) + 5)

    monkeypatch.setattr(ahead, "compiled_from_onnx", lambda onnx, names, settings: Engine(names))
    found = compilation_from_onnx(b"", ("SM86", "SM89"), SETTINGS)
    assert [engine.capabilities for engine in found.engines] == [("SM86",), ("SM89",)]
