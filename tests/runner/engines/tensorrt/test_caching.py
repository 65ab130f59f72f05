"""Engines and timings on disk."""

import stat
from dataclasses import replace

import pytest

from edgevit.errors import EnvironmentError_
from edgevit.runner.engines.tensorrt.building import BuildSettings
from edgevit.runner.engines.tensorrt.caching import (
    EngineCache,
    Identity,
    default_folder,
    engine_key,
    identity,
    l4t_from_release,
    timing_key,
)

ORIN = Identity("Orin", "8.7", "10.3.0", "36.4.3", "aarch64")


def test_the_key_depends_on_everything_an_engine_depends_on():
    settings = BuildSettings()
    keys = {engine_key(b"graph", settings, ORIN), engine_key(b"other", settings, ORIN)}
    keys.add(engine_key(b"graph", replace(settings, max_batch=32), ORIN))
    for name in ("device", "compute_capability", "tensorrt", "l4t", "machine"):
        keys.add(engine_key(b"graph", settings, replace(ORIN, **{name: "other"})))
    assert len(keys) == 8
    assert engine_key(b"graph", BuildSettings(), replace(ORIN)) in keys


def test_timings_are_shared_by_all_builds_of_a_machine_only():
    assert timing_key(ORIN) == timing_key(replace(ORIN))
    assert timing_key(ORIN) != timing_key(replace(ORIN, l4t="36.5.0"))


def test_an_engine_comes_back_with_its_record(tmp_path):
    cache = EngineCache(tmp_path / "new" / "cache")
    assert cache.engine("k") is None
    assert cache.record("k") == {}
    cache.store_engine("k", b"plan", {"variant": "int8"})
    assert cache.engine("k") == b"plan"
    assert cache.record("k")["variant"] == "int8"
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    cache.forget_engine("k")
    cache.forget_engine("k")
    assert cache.engine("k") is None


@pytest.mark.parametrize("damage", ["plan", "json"])
def test_a_damaged_engine_is_not_used(tmp_path, damage):
    cache = EngineCache(tmp_path)
    cache.store_engine("k", b"plan", {})
    (tmp_path / f"k.{damage}").write_bytes(b"[1]")
    assert cache.engine("k") is None


def test_timings(tmp_path):
    cache = EngineCache(tmp_path)
    key = timing_key(ORIN)
    assert cache.timings(key) == b""
    cache.store_timings(key, b"")
    assert list(tmp_path.iterdir()) == []
    cache.store_timings(key, b"timings")
    assert cache.timings(key) == b"timings"


def test_a_folder_that_can_not_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentError_, match="EV755"):
        EngineCache(tmp_path / "file" / "cache").store_engine("k", b"plan", {})


def test_a_store_that_fails_leaves_nothing_half_written(tmp_path):
    (tmp_path / "k.plan").mkdir()  # in the way
    with pytest.raises(EnvironmentError_, match="EV755"):
        EngineCache(tmp_path).store_engine("k", b"plan", {})
    assert [path.name for path in tmp_path.iterdir()] == ["k.plan"]


def test_the_folder_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEVIT_ENGINE_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("EDGEVIT_ENGINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(default_folder()) == "/cache/edgevit/engines"


def test_the_release_of_a_jetson(tmp_path):
    text = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    assert l4t_from_release(text) == "36.4.3"
    assert l4t_from_release("Ubuntu") == ""
    (tmp_path / "release").write_text(text)
    found = identity("Orin", "8.7", "10.3.0", release_file=tmp_path / "release")
    assert found.l4t == "36.4.3"
    assert identity("x", "8.0", "10.3.0", release_file=tmp_path / "none").l4t == ""
