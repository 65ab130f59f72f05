"""Sizes, multiply-adds, bytes and times of kernels, against cases worked out by hand and a twin."""

import dataclasses

import numpy as np
import pytest

from edgevit.bundle.graph_values import GraphValues
from edgevit.errors import DeviceError, UnsupportedError
from edgevit.runner.engines.tensorrt.cost_model import (
    LARGEST_BATCH,
    KernelWork,
    crossover_batch,
    kernel_works,
    predicted_ms,
)
from edgevit.runner.engines.tensorrt.device_peaks import DEVICES, DevicePeaks
from edgevit.runner.engines.tensorrt.inspecting import EngineLayer, LayerOperand
from edgevit.runner.engines.tensorrt.kernel_sizes import sized_kernels
from edgevit.targets.tensorrt.profiles import PROFILES

# 1 fp16 operation a nanosecond, 2 in int8; a byte a nanosecond; a microsecond to launch
SLOW = DevicePeaks("slow", {"fp16": 1e-3, "int8": 2e-3}, 1.0, 1.0, "", "")


def tensor(name, precision, *shape):
    return LayerOperand(name, precision, shape)


def layer(name, nodes, inputs, outputs, constants=(), kind="kgen", tactic=""):
    return EngineLayer(name, kind, inputs, constants, outputs, tactic, nodes)


# Two patches of 6 values -> 3 tokens (a class token before them) of 4 channels; q and k side by
# side; attention of 2 heads of 2; sums over the last axis are no values of the graph.
READS = {
    "patches": ("image",),
    "embed": ("patches", "w"),
    "tokens": ("embed", "pos"),
    "norm_q": ("tokens",),
    "q_product": ("norm_q", "wq"),
    "k_product": ("norm_q", "wk"),
    "q": ("q_product", "bq"),
    "heads": ("q",),
    "scores": ("heads", "heads"),
    "mixed": ("scores", "heads"),
    "logits": ("mixed", "wl"),
}
SIZES = {"image": 12, "patches": 12, "embed": 8, "tokens": 12, "norm_q": 12, "q_product": 12,
         "k_product": 12, "q": 12, "heads": 12, "scores": 18, "mixed": 12, "logits": 5}  # fmt: skip
VALUES = GraphValues(reads=READS, per_image=SIZES, image="image", outputs=frozenset({"logits"}))
KERNELS = [
    layer("shape", (), (), (), kind="shape_call"),
    layer("__myl_CastResh_myl0_1", ("patches",), (tensor("image", "fp32", -1, 3, 4),),
          (tensor("a", "fp16", -1, 2, 6),)),
    layer("__myl_FcAdd_myl0_2", ("embed",), (tensor("a", "fp16", -1, 6),),
          (tensor("b", "fp16", -1, 4),), (tensor("c1", "fp16", 1, 4), tensor("c2", "fp16", 6, 4)),
          kind="runtime_fusion"),
    layer("__myl_ConcAddMean_myl0_3", ("embed", "tokens", "norm_q"), (tensor("b", "fp16", -1, 4),),
          (tensor("c", "fp16", -1, 4), tensor("s", "fp32", -1, 1), tensor("d", "int8", -1, 4)),
          (tensor("c3", "fp16", 1, 3, 4),)),
    layer("q_product+k_product_myl0_4", ("q_product", "k_product"), (tensor("d", "int8", -1, 4),),
          (tensor("e", "fp16", -1, 8),), (tensor("c4", "int8", 4, 8), tensor("c5", "fp32", 1)),
          kind="gemm"),
    layer("__myl_AddReshTran_myl0_5", ("q_product", "q", "heads"), (tensor("e", "fp16", -1, 4),),
          (tensor("f", "fp16", -1, 3, 2),)),
    layer("_gemm_mha_v2_myl0_6", ("scores", "mixed"),
          tuple(tensor("f", "fp16", -1, 3, 2) for _ in range(3)),
          (tensor("g", "fp16", -1, 3, 2),)),
    layer("__myl_Fc_myl0_7", ("logits",), (tensor("g", "fp16", -1, 12),),
          (tensor("h", "fp32", -1, 5),), (tensor("c6", "fp16", 12, 5),), kind="runtime_fusion"),
]  # fmt: skip


def test_what_stands_behind_minus_one():
    found = [(one.inputs, one.outputs) for one in sized_kernels(KERNELS, VALUES)]
    assert found == [
        ((), ()),
        ((1,), (1,)),
        ((2,), (2,)),  # patches
        ((2,), (3, 3, 3)),  # tokens; the sums have as many rows as what leaves beside them
        ((3,), (3,)),
        ((3,), (2,)),  # half of the columns of what q and k wrote, then heads
        ((2, 2, 2), (2,)),
        ((1,), (1,)),
    ]
    assert sized_kernels(KERNELS, VALUES)[4].at(8) == ([(24, 4)], [(24, 8)])


def test_multiply_adds_and_bytes():
    works = kernel_works(sized_kernels(KERNELS, VALUES))
    attention = 2 * 3 * 3 * (2 + 2)  # heads x queries x keys x (channels of q k, of p v)
    assert [one.macs_per_image for one in works] == [
        0, 0, 2 * 6 * 4, 0, 3 * 4 * 8, 0, attention, 12 * 5]  # fmt: skip
    assert [one.fixed_bytes for one in works] == [0, 0, 8 + 48, 24, 32 + 4, 0, 0, 120]
    assert [one.bytes_per_image for one in works] == [
        0, 48 + 24, 24 + 16, 16 + 24 + 12 + 12, 12 + 48, 24 + 24, 4 * 24, 24 + 20]  # fmt: skip
    assert [one.launches for one in works] == [0, *[1] * 7]


def test_a_product_of_two_activations_that_are_not_fused():
    reads = {"p": ("image", "image")}
    sizes, ends = {"image": 24, "p": 18}, frozenset({"p"})
    values = GraphValues(reads=reads, per_image=sizes, image="image", outputs=ends)
    names = (tensor("image", "fp16", -1, 3, 4), tensor("image", "fp16", -1, 4, 3))
    product = layer("p_myl0_0", ("p",), names, (tensor("o", "fp16", -1, 3, 3),), kind="gemm")
    (work,) = kernel_works(sized_kernels([product], values))
    assert work.macs_per_image == 2 * 3 * 4 * 3
    odd = dataclasses.replace(product, inputs=names[:1])
    with pytest.raises(DeviceError, match="EV852"):
        kernel_works(sized_kernels([odd], values))


@pytest.mark.parametrize(
    "change",
    [
        lambda one: dataclasses.replace(one, inputs=(tensor("b", "fp16", -1, 7),)),
        lambda one: dataclasses.replace(
            one, outputs=(tensor("c", "fp16", -1, 7),), onnx_nodes=("embed",)
        ),
    ],
)
def test_kernels_of_another_graph_are_refused(change):
    with pytest.raises(DeviceError, match="EV851"):
        sized_kernels([*KERNELS[:3], change(KERNELS[3])], VALUES)


def test_times_by_hand():
    work = KernelWork(KERNELS[4], fixed_bytes=100, bytes_per_image=10, macs_per_image=300)
    # int8: 600 operations at 2 a ns = 300 ns; 110 bytes = 110 ns; and 1000 ns for the launch
    assert work.milliseconds(SLOW, 1) == pytest.approx(1300e-6)
    assert work.milliseconds(SLOW, 1, launch=False) == pytest.approx(300e-6)
    assert work.is_bound_by(SLOW, 1) == "launch"
    assert work.is_bound_by(SLOW, 10) == "compute"
    light = dataclasses.replace(work, macs_per_image=3)
    assert light.milliseconds(SLOW, 1) == pytest.approx(1110e-6)
    assert light.is_bound_by(SLOW, 1000) == "memory"
    with pytest.raises(UnsupportedError, match="EV850"):
        predicted_ms([work], DevicePeaks("old", {"fp16": 1.0}, 1, 1, "", ""), [1])


def slow_ms(work, device, batch):
    """One kernel, step by step."""
    memory = (work.fixed_bytes + batch * work.bytes_per_image) / (device.bandwidth_gb_s * 1e9)
    compute = 0.0
    if work.macs_per_image:
        per_second = device.tera[work.layer.precision] * 1e12 / 2
        compute = batch * work.macs_per_image / per_second
    return 1e3 * (max(memory, compute) + work.launches * device.launch_us * 1e-6)


def test_the_table_of_times_is_the_slow_one():
    works = kernel_works(sized_kernels(KERNELS, VALUES))
    device, batches = DEVICES["rtx-ada"], (1, 7, 64)
    found = predicted_ms(works, device, batches)
    assert found.shape == (len(works), 3)
    wanted = [[slow_ms(work, device, batch) for batch in batches] for work in works]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_crossover():
    int8, fp16 = KERNELS[4], KERNELS[6]
    one = KernelWork(fp16, 0, 0, 1000)  # 1 us and 2 us an image
    two = [KernelWork(int8, 0, 0, 1000), KernelWork(int8, 0, 9000, 0)]  # 2 us, 1 and 9 us an image
    assert crossover_batch([one], two, SLOW) is None
    less = [two[0], KernelWork(int8, 0, 905, 0)]  # 2 us, 1.905 us an image: faster above 10.5
    assert crossover_batch([one], less, SLOW) == 11
    assert crossover_batch([one], two[:1], SLOW) == 1
    assert LARGEST_BATCH == 256
    fixed = [two[0], KernelWork(int8, 254_500, 0, 0)]  # 256.5 us and 1 us an image: faster at 256
    assert crossover_batch([one], fixed, SLOW) == 256


def test_every_profile_has_a_device_with_its_precisions_and_sources():
    assert set(DEVICES) == set(PROFILES)
    for name, device in DEVICES.items():
        assert device.source
        assert "assumption" in device.doubtful
        needed = set(PROFILES[name].precisions) - {"fp4", "bf16"}
        assert needed <= set(device.tera)
        assert device.operations("bf16") == device.operations("fp16")
        assert device.tera["fp32"] < device.tera["fp16"] < device.tera["int8"]
