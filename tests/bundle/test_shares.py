"""The share of multiply-adds in integers: against a hand count, in bundles, reports and texts."""

import json

import pytest
import torch
from convolutional import MULTIPLY_ADDS, SIZE, hybrid

import edgevit
from edgevit import api
from edgevit.bundle.manifest_schema import check_layers
from edgevit.bundle.shares import multiply_add_shares
from edgevit.data import Preprocessing
from edgevit.errors import BundleError
from edgevit.report.shares import shares_lines
from edgevit.zoo import reference_images

PREPROCESSING = Preprocessing(
    input_size=SIZE,
    resize_size=SIZE[1],
    crop_pct=1.0,
    interpolation="bilinear",
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    made = edgevit.quantize(
        hybrid(),
        reference_images("calibration"),
        bits=8,
        num_calib=4,
        method="minmax",
        preprocessing=PREPROCESSING,
    )
    return made.save(tmp_path_factory.mktemp("shares") / "bundle")


def test_rows_have_the_multiply_adds_counted_by_hand(bundle):
    rows = {row["module"]: row["multiply_adds"] for row in bundle.layers()}
    assert rows == MULTIPLY_ADDS
    assert bundle.manifest["model"]["flops"] == sum(MULTIPLY_ADDS.values())


def test_shares_are_those_counted_by_hand(bundle):
    total, counts = sum(MULTIPLY_ADDS.values()), MULTIPLY_ADDS
    shares = api.inspect(bundle.path)["multiply_adds"]
    assert shares["total"] == total
    assert shares["float8_percent"] == 0
    floats = {"stem", "depthwise", "grouped"}
    in_integers = sum(count for name, count in counts.items() if name not in floats)
    assert shares["integer_percent"] == pytest.approx(100 * in_integers / total)
    percents = {row["reason"].split(":")[0]: row["percent"] for row in shares["float"]}
    assert percents == {
        "a convolution in groups": pytest.approx(100 * counts["grouped"] / total),
        "a convolution with fewer than 24 channels": pytest.approx(100 * counts["stem"] / total),
        "a depthwise convolution": pytest.approx(100 * counts["depthwise"] / total),
    }
    assert list(percents.values()) == sorted(percents.values(), reverse=True)
    assert bundle.manifest["bits"]["float_products"] == 3
    assert bundle.manifest["bits"]["products"] == 8


def test_validate_says_the_share(bundle, tmp_path):
    report = edgevit.validate(bundle, _images(tmp_path), rounds=2)
    assert report["multiply_adds"] == multiply_add_shares(bundle.layers())
    json.dumps(report)


def _images(folder):
    """Return one image for each of five classes."""
    from PIL import Image

    for index in range(5):
        (folder / str(index)).mkdir()
        Image.new("RGB", SIZE[1:], (50 * index, 20, 9)).save(folder / str(index) / "a.png")
    return str(folder)


def test_lines_group_the_reasons():
    rows = [
        {"kernel": "X", "multiply_adds": 9_990},
        {"kernel": "Q/DQ", "carrier": "f8 x f8", "multiply_adds": 6},
        {"kernel": "float32", "reason": "b", "multiply_adds": 1},
        {"kernel": "float16", "reason": "b", "multiply_adds": 2},
        {"kernel": "float32", "reason": "", "multiply_adds": 1},
    ]
    assert shares_lines(multiply_add_shares(rows)) == [
        "multiply-adds: 99.9 % in integers, 0.1 % in FP8",
        "  under 0.1 % in float: b",
        "  under 0.1 % in float: no reason is noted",
    ]
    rows[0]["multiply_adds"] = 10_000_000
    assert shares_lines(multiply_add_shares(rows))[0].startswith("multiply-adds: over 99.9 %")


def test_older_bundles_do_not_say_it():
    assert multiply_add_shares([{"kernel": "X"}, {"kernel": "X", "multiply_adds": 1}]) is None
    assert multiply_add_shares([]) is None
    assert shares_lines(None) == ["multiply-adds: the bundle does not say how many are in integers"]


@pytest.mark.parametrize("count", [-1, 1.5, True, "9", 1 << 60])
def test_a_count_that_is_none_is_refused(count):
    with pytest.raises(BundleError, match="EV402"):
        check_layers([{"name": "x", "multiply_adds": count}], "layers")


def test_transposed_convolutions_are_counted():
    from torch import nn

    from edgevit.graph.capture import graph_from_module
    from edgevit.graph.multiply_adds import multiply_adds

    model = nn.Sequential(nn.ConvTranspose2d(3, 6, 2, stride=2), nn.Flatten(), nn.Linear(6 * 64, 4))
    graph = graph_from_module(model.eval(), (3, 4, 4))
    assert multiply_adds(graph) == 3 * 16 * 6 * 4 + 6 * 64 * 4
    assert graph.forward(torch.zeros(1, 3, 4, 4)).shape == (1, 4)
