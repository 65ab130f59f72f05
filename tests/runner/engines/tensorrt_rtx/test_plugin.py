"""TensorRT for RTX as ONNX Runtime's provider: how it is found, and sessions on its devices."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from edgevit.bundle import open_bundle
from edgevit.errors import DeviceError, EdgeViTError, UnsupportedError
from edgevit.runner.engines.onnxruntime.installed import onnxruntime_module
from edgevit.runner.engines.onnxruntime.plugin import ProviderPlugin
from edgevit.runner.engines.onnxruntime.session import session_from_bundle
from edgevit.runner.engines.tensorrt.caching import EngineCache
from edgevit.runner.engines.tensorrt_rtx import plugin
from edgevit.runner.engines.tensorrt_rtx.opened import open_rtx
from edgevit.runner.measure.conditions import Conditions

CPU = "CPUExecutionProvider"


class Runtime(SimpleNamespace):
    """ONNX Runtime as far as a registration needs it; each is another one to the memory of it."""

    __hash__ = object.__hash__

    def register_execution_provider_library(self, name, path):
        self.registered = (name, path)
        if self.fails:
            raise RuntimeError(self.fails)

    def get_ep_devices(self):
        return [SimpleNamespace(ep_name=name) for name in self.names]


def found(monkeypatch, tmp_path, fails="", names=(CPU,), runtime=None):
    given = runtime or Runtime(fails=fails, names=names, __version__="1.32.0")
    package = SimpleNamespace(get_library_path=lambda: "plugin.so")
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", package)
    monkeypatch.setattr(plugin, "onnxruntime_module", lambda: given)
    return plugin.registered_plugin(EngineCache(tmp_path))


@pytest.mark.parametrize(
    ("fails", "code"),
    [
        ("libcuda.so.1: cannot open shared object file", "EV772"),
        ("undefined symbol: OrtSessionOptions", "EV779"),
        ("", "EV773"),  # registered, and no device is its own
    ],
)
def test_what_is_missing_is_said(monkeypatch, tmp_path, fails, code):
    with pytest.raises(EdgeViTError, match=code) as caught:
        found(monkeypatch, tmp_path, fails)
    assert caught.value.try_next


def test_an_older_onnxruntime_takes_no_plugins(monkeypatch, tmp_path):
    old = type("Old", (), {"__version__": "1.20.1"})()
    with pytest.raises(EdgeViTError, match=r"1\.20\.1 takes no plugins"):
        found(monkeypatch, tmp_path, runtime=old)


def test_a_card_is_found_and_its_kernels_are_kept(monkeypatch, tmp_path):
    given = found(monkeypatch, tmp_path, names=(CPU, plugin.PROVIDER, plugin.PROVIDER))
    assert (given.name, len(given.devices)) == (plugin.PROVIDER, 2)
    assert given.options == {"nv_runtime_cache_path": str(tmp_path / "plugin")}


def test_the_real_plugin_without_a_driver(tmp_path):
    """Where the package is installed; it is not among the tests' own requirements."""
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx")
    with pytest.raises(DeviceError, match=r"EV77[23]"):
        plugin.registered_plugin(EngineCache(tmp_path))


@pytest.fixture
def on_processor(monkeypatch):
    """The same way of opening sessions, on the one device that is always there."""
    runtime = onnxruntime_module()
    if not hasattr(runtime, "get_ep_devices"):
        pytest.skip("this ONNX Runtime has no devices of providers")
    devices = tuple(one for one in runtime.get_ep_devices() if one.ep_name == CPU)
    given = ProviderPlugin(CPU, devices)
    monkeypatch.setattr(plugin, "registered_plugin", lambda cache: given)
    return given


def test_a_session_on_a_plugins_devices_computes_the_same(
    on_processor, bundle_path, pixels_to_input
):
    bundle = open_bundle(bundle_path)
    images = pixels_to_input(bundle.golden()["images"])
    usual = session_from_bundle(bundle)
    named = session_from_bundle(bundle, plugin=on_processor)
    assert named.provider == CPU
    np.testing.assert_array_equal(named.run(images), usual.run(images))


def test_validating_through_the_plugin_measures_and_keeps(
    on_processor, monkeypatch, bundle_path, pixels_to_input
):
    monkeypatch.setattr(plugin, "PROVIDER", CPU)
    bundle = open_bundle(bundle_path)
    golden = bundle.golden()
    labels = golden["logits_simulated"].argmax(axis=1)
    batch = golden["images"], labels, [""] * len(labels)
    opened = open_rtx(
        bundle,
        Conditions(rounds=5, provider=CPU, max_drop=100),
        lambda: [batch],
        pixels_to_input,
        lambda *_: None,
        stands_in=False,
    )
    assert opened.variant == opened.build["kept"] == bundle.variants[0]
    assert opened.sessions["engine"].provider == CPU


def test_a_provider_of_another_engine_is_refused(bundle_path):
    with pytest.raises(UnsupportedError, match="EV780") as caught:
        open_rtx(open_bundle(bundle_path), Conditions(provider="CUDAExecutionProvider"))
    assert plugin.PROVIDER in caught.value.try_next
