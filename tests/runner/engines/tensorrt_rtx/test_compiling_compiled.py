"""What NVIDIA's compiler itself says; it needs no GPU."""

import pytest

from edgevit import quantize
from edgevit.errors import DeviceError, UnsupportedError, UsageError
from edgevit.runner.engines.tensorrt_rtx.compiling import compiled_from_onnx

pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    made = quantize("vit_cifar10", bits=8, target="rtx-ada", method="minmax", num_calib=8)
    return made.save(tmp_path_factory.mktemp("rtx") / "vit")


def test_one_engine_for_several_cards(bundle):
    engine = compiled_from_onnx(bundle.engine_onnx(), ("SM86", "SM89"))
    assert engine.capabilities == ("SM86", "SM89")
    assert engine.data[:4]
    assert len(engine.layers) > 50
    again = compiled_from_onnx(bundle.engine_onnx(), ("SM86", "SM89"))
    assert again.list_sha256 == engine.list_sha256


def test_fp8_for_a_card_without_it(bundle):
    with pytest.raises(UnsupportedError) as caught:
        compiled_from_onnx(bundle.engine_onnx("fp8"), ("SM86",))
    assert caught.value.code == "EV437"


@pytest.mark.parametrize("names", [(), ("SM87",), ("SM89", "SM89"), ("sm89",), ("SM90",)])
def test_cards_that_it_does_not_compile_for(bundle, names):
    with pytest.raises(UsageError) as caught:
        compiled_from_onnx(b"", names)
    assert caught.value.code == "EV771"


def test_what_is_no_graph(bundle):
    with pytest.raises(DeviceError) as caught:
        compiled_from_onnx(b"no graph", ("SM89",))
    assert caught.value.code == "EV752"
