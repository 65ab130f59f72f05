"""NVIDIA's compiler on both embedded models: every quantized product in its precision.

Without a GPU and without the extra `rtx` it is skipped; `.ci/run` installs that.
"""

import pytest

import edgevit
from edgevit.errors import DeviceError
from edgevit.runner.engines.tensorrt.layer_table import product_rows, summary
from edgevit.runner.engines.tensorrt_rtx.compiling import compiled_from_onnx
from edgevit.zoo import reference_images

pytest.importorskip("tensorrt_rtx")
MODELS = ("vit_cifar10", "swin_cifar10")
CARDS = ("SM86", "SM89", "SM120")
BLOCKS = 6  # of either model, with one attention each
ASKED = {"int8": 36, "fp16": 0, "int8_attention": 48, "fp8": 48}
"""Products for which a variant asks 8 bits; swin_cifar10 has no attention in 8 bits."""
MOST_KERNELS = {
    "vit_cifar10": {"int8": 78, "fp16": 66, "int8_attention": 72, "fp8": 78},
    "swin_cifar10": {"int8": 86, "fp16": 74, "fp8": 86},
}
MORE_IN_FP8_ON_SM120 = 48
"""The compiler multiplies by the scales of FP8 products in kernels of their own there."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Both models for an Ada card, which has all variants; other cards compile the same graphs."""
    folder, images = tmp_path_factory.mktemp("rtx"), reference_images("calibration")
    settings = {"bits": 8, "method": "minmax", "num_calib": 8, "target": "rtx-ada"}
    return {name: edgevit.quantize(name, images, **settings).save(folder / name) for name in MODELS}


CASES = [
    (name, variant, card)
    for name, variants in MOST_KERNELS.items()
    for variant in variants
    for card in CARDS
    if (variant, card) != ("fp8", "SM86")
]


@pytest.mark.parametrize(("name", "variant", "card"), CASES)
def test_kernel_table(bundles, name, variant, card):
    bundle = bundles[name]
    layers = compiled_from_onnx(bundle.engine_onnx(variant), (card,)).layers
    rows = product_rows(bundle.layers(variant), layers)
    low = [row for row in rows if row.asked != "float"]
    assert len(low) == (ASKED[variant] if name == "vit_cifar10" or variant == "fp16" else 36)
    assert [row for row in low if row.chosen != row.asked] == []
    found = summary(rows, layers)
    assert found.attention == BLOCKS
    more = MORE_IN_FP8_ON_SM120 if (variant, card) == ("fp8", "SM120") else 0
    assert found.kernels <= MOST_KERNELS[name][variant] + more


@pytest.mark.parametrize("name", MODELS)
def test_all_variants_are_compiled(bundles, name):
    assert set(bundles[name].variants) == set(MOST_KERNELS[name])


def test_ampere_has_no_fp8(bundles):
    with pytest.raises(DeviceError, match="fp8_e4m3") as raised:
        compiled_from_onnx(bundles["vit_cifar10"].engine_onnx("fp8"), ("SM86",))
    assert raised.value.code == "EV753"
