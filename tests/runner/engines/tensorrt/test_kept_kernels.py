"""Kernels made for a card, and which engines this machine compiled, in the cache's folder."""

import pytest

from edgevit.runner.engines.tensorrt.caching import EngineCache
from edgevit.runner.engines.tensorrt.kept_kernels import KernelStore, driver_version, kernels_key


def test_kernels_come_back_whole_or_not_at_all(tmp_path):
    store = KernelStore(EngineCache(tmp_path), kernels_key("engine", "580.65.06"))
    assert store.read() is None
    store.write(b"kernels")
    assert store.read() == b"kernels"
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert store.read() == b""  # damaged: none of it is used
    store.forget()
    store.forget()
    assert store.read() is None


def test_the_key_depends_on_engine_and_driver():
    keys = {kernels_key(engine, driver) for engine in "ab" for driver in ("580", "590", "")}
    assert len(keys) == 6


def test_it_is_known_which_engines_this_machine_compiled(tmp_path):
    cache = EngineCache(tmp_path)
    assert not cache.has_compiled("a" * 64)
    cache.remember_compiled("a" * 64)
    cache.remember_compiled("a" * 64)
    assert cache.has_compiled("a" * 64)
    assert not cache.has_compiled("b" * 64)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC"
            " 2024\nGCC version:  gcc version 11.4.0\n",
            "550.54.14",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n",
            "580.65.06",
        ),
        ("something else", ""),
        (None, ""),
    ],
)
def test_the_drivers_version(tmp_path, text, version):
    if text is not None:
        (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == version
