"""Widths of single layers: placed, packed, and refused where one tensor would need two grids."""

import pytest
import torch

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.errors import UsageError
from edgevit.graph.sharing import shared_grid_sites
from edgevit.quantizers.quantized_graph import IntegerLinear
from edgevit.targets.cpu.parity import integer_layer_parity
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.widths import is_asked_in_float, widths_of

TARGET = CpuTarget()
ATTENTION = "blocks.0.attn.qkv"


def mixed_bits():
    return {
        **{f"{ATTENTION}.{part}": (2 + at, 5) for at, part in enumerate("qkv")},
        "blocks.0.attn.qk": (8, 6),
        "blocks.1.mlp.fc2": (7, 3),
    }


def test_only_the_layers_named_change(split_vit):
    usual = TARGET.place(split_vit, weight_bits=4, act_bits=4)
    mixed = TARGET.place(split_vit, weight_bits=4, act_bits=4, layer_bits=mixed_bits())
    for gemm in split_vit.gemms:
        for at, site in enumerate((gemm.left, gemm.right)):
            wanted = mixed_bits().get(gemm.module)
            if wanted is None:
                assert mixed.options[site.name] == usual.options[site.name]
            else:
                bits = wanted[0] if gemm.weight is not None and at == 1 else wanted[1]
                assert {spec.bits for spec in mixed.options[site.name]} == {bits}


@pytest.mark.parametrize("method", ["minmax", "edgevit"])
def test_each_layer_is_calibrated_packed_and_run_in_its_own_width(split_vit, images, method):
    placement = TARGET.place(split_vit, weight_bits=4, act_bits=4, layer_bits=mixed_bits())
    quantized = calibrate(split_vit, placement, images, METHODS[method])
    lowered = TARGET.lower(quantized)
    rows = {row["module"]: row for row in lowered.layers}
    for gemm in split_vit.gemms:
        weight, act = mixed_bits().get(gemm.module, (4, 4))
        row = rows[gemm.module]
        assert row["left_bits"] == (8 if gemm.left.role.value == "patch_in" else act)
        if gemm.weight is not None:
            assert row["weight_bits"] == weight
            assert lowered.packed_bits.get(f"{gemm.name}_weight_codes.constant", weight) == weight
            layer = quantized.layers[gemm.name]
            assert isinstance(layer, IntegerLinear)
            assert len(torch.unique(layer.weight_codes)) > 1 << weight - 1
    assert set(lowered.packed_bits.values()) == {2, 3, 4, 7}
    assert all(row.is_exact for row in integer_layer_parity(quantized, images.numpy()))


def test_readers_of_one_tensor_need_one_width(split_vit):
    leader = shared_grid_sites(split_vit)
    assert leader[f"{ATTENTION}.k:input"] == leader[f"{ATTENTION}.q:input"]
    with pytest.raises(UsageError, match="EV212"):
        TARGET.place(split_vit, weight_bits=4, act_bits=4, layer_bits={f"{ATTENTION}.q": (4, 5)})


def test_unknown_layers_and_widths_are_refused(split_vit):
    def widths(layer_bits):
        return widths_of(split_vit, weight_bits=4, act_bits=4, layer_bits=layer_bits)

    with pytest.raises(UsageError, match=r"blocks\.1\.mlp\.fc2"):
        widths({"blocks.1.mlp.fc22": (4, 4)})
    with pytest.raises(UsageError, match="EV201"):
        widths({"blocks.1.mlp.fc2": (4, 9)})
    assert set(widths({}).values()) == {(4, 4)}


def test_missing_twin_grids_are_those_of_each_width(split_vit):
    layer_bits = {"blocks.0.mlp.fc2": (4, 6), "blocks.1.mlp.fc2": (4, 4)}
    placement = TARGET.place(split_vit, weight_bits=4, act_bits=4, layer_bits=layer_bits)
    (missing,) = placement.missing.items()
    assert missing[0] == "blocks.0.mlp.fc2:input"
    assert missing[1].spec.bits == 6
    assert "at 6-bit codes" in missing[1].why


@pytest.mark.parametrize(
    ("asked", "module", "expected"),
    [
        ("blocks.2", "blocks.2.attn.qkv", True),
        ("blocks.2", "blocks.20.attn.qkv", False),
        ("blocks.2.attn", "blocks.2.attn.proj", True),
        ("blocks.2.attn", "blocks.2.attn_drop", False),
        ("blocks.2.attn.qkv", "blocks.2.attn.qkv", True),
        ("blocks.[12]", "blocks.1.mlp.fc1", True),
        ("*.fc1", "blocks.1.mlp.fc1", True),
        ("attn", "blocks.2.attn.qkv", False),
    ],
)
def test_a_path_takes_the_module_or_all_that_it_holds(asked, module, expected):
    assert is_asked_in_float(module, ("other", asked)) == expected


def test_a_whole_block_stays_in_float_and_no_other(split_vit):
    placement = TARGET.place(split_vit, weight_bits=4, act_bits=4, float_layers=("blocks.1",))
    for gemm in split_vit.gemms:
        assert (gemm.left.name in placement.skipped) == gemm.module.startswith("blocks.1.")


def test_a_layer_that_is_not_there_is_refused_with_close_names(split_vit):
    with pytest.raises(UsageError) as caught:
        TARGET.place(split_vit, weight_bits=4, act_bits=4, float_layers=("block.1.mlp",))
    assert caught.value.code == "EV219"
    assert "blocks.1.mlp, " in caught.value.why
    assert caught.value.try_next == "--float-layer blocks.1.mlp"


def test_targets_are_found_in_any_case():
    from edgevit.targets.registry import target_named
    from edgevit.targets.tensorrt.profiles import profile_named

    assert target_named("CPU").name == "cpu"
    assert target_named("Jetson-Orin-Nano").name == "jetson-orin-nano"
    assert profile_named("Jetson-Orin-Nano").name == "jetson-orin-nano"
    with pytest.raises(UsageError) as caught:
        profile_named("JETSON-ORIN-NAN")
    assert caught.value.try_next == "--target jetson-orin-nano"
