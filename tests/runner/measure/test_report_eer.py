"""The Efficient Error Rate: quoted values, any metrics, any reference."""

import json

import pytest
from click.testing import CliRunner

from edgevit.cli import main
from edgevit.errors import UsageError
from edgevit.runner.measure.eer import REFERENCE, costs_of, efficient_error_rate, rates_of
from edgevit.verbs.eer import eer_asked
from edgevit.zoo import reference_images

REPORT = {
    "parameters": 5_000_000,
    "flops": 1_000_000_000,
    "bits": {"weight_mean": 6.0, "act_mean": 10.0},
    "size_bytes": {"fp32": 20_000_000, "engine": 4_000_000},
    "latency_conditions": {"batch": 1},
    "latency_ms": {"fp32": {"p50": 10.0}, "engine": {"p50": 4.0}},
    "energy_mj": {"fp32": None, "engine": None},
}


@pytest.mark.parametrize(
    ("weight_bits", "activation_bits", "megabytes", "percent"),
    [(6, 6, 66.0, 19.4), (8, 4, 3.7, 9.9)],  # Swin-B W6A6, DeiT-Ti W8A4
)
def test_quoted_models(weight_bits, activation_bits, megabytes, percent):
    bits = {"weight_mean": weight_bits, "act_mean": activation_bits}
    report = {**REPORT, "bits": bits, "size_bytes": {"fp32": None, "engine": megabytes * 1e6}}
    assert round(rates_of(report, eer_asked())["eer"], 1) == percent


def test_the_reference_is_100_percent():
    assert efficient_error_rate(REFERENCE) == pytest.approx(100)
    weights = {"parameters": 0.4, "flops": 0.3, "bits": 0.2, "size": 0.1}
    assert efficient_error_rate(REFERENCE, weights) == pytest.approx(100)


def test_weights_shift_the_mean():
    metrics = {"bits": 16.0, "size": 33e6}
    assert efficient_error_rate(metrics) == pytest.approx(30)
    assert efficient_error_rate(metrics, {"bits": 1.0, "size": 0.0}) == pytest.approx(50)
    weights = {"bits": 0.25, "size": 0.75}
    assert efficient_error_rate(metrics, weights) == pytest.approx(20)


@pytest.mark.parametrize(
    ("metrics", "weights"),
    [
        ({}, None),
        ({"watts": 3.0}, None),
        ({"latency": 3.0}, None),  # the survey's ViT-B/16 has none
        ({"bits": 0.0}, None),
        ({"bits": float("nan")}, None),
        ({"bits": 8.0}, {"bits": 0.9}),
        ({"bits": 8.0}, {"size": 1.0}),
        ({"bits": 8.0, "flops": 1.0}, {"bits": 1.5, "flops": -0.5}),
    ],
)
def test_what_has_no_rate(metrics, weights):
    with pytest.raises(UsageError, match="EV802"):
        efficient_error_rate(metrics, weights)


def test_any_metrics_of_the_fp32_model_of_the_same_run():
    asked = eer_asked(["parameters", "flops", "bits", "size", "latency"], None, "fp32")
    rates = rates_of(REPORT, asked)
    assert rates["eer"] == pytest.approx(100 * (1 + 1 + 8 / 32 + 0.2 + 0.4) / 5)
    assert rates["eer_weighted"] is None
    assert rates["eer_terms"]["metrics"]["latency"] == {
        "value": 4.0,
        "reference": 10.0,
        "weight": None,
    }
    weighted = rates_of(REPORT, eer_asked(["bits=0.25", "latency=0.75"], None, "fp32"))
    assert weighted["eer_weighted"] == pytest.approx(100 * (0.25 * 8 / 32 + 0.75 * 0.4))


def test_what_was_not_measured_is_named_and_nothing_stands_in_for_it():
    rates = rates_of(REPORT, eer_asked(["bits", "energy"], None, "fp32"))
    assert (rates["eer"], rates["eer_weighted"]) == (None, None)
    assert rates["eer_terms"]["missing"] == ["energy"]


def test_a_model_of_the_table_is_a_reference():
    asked = eer_asked(["parameters", "flops", "size"], None, "swin_b")
    assert asked.reference == {
        "parameters": 87_768_224,
        "flops": 15_400_000_000,
        "bits": 32.0,
        "size": 4 * 87_768_224,
    }


def test_a_bundle_is_a_reference(bundle_path):
    asked = eer_asked((), None, bundle_path)
    assert asked.reference["bits"] == 6.0
    assert asked.reference["size"] > 0
    with pytest.raises(UsageError, match="EV805"):  # it never ran
        eer_asked(["latency"], None, bundle_path)


@pytest.mark.parametrize("content", [REPORT, costs_of(REPORT)], ids=["report", "table"])
def test_a_file_is_a_reference(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    asked = eer_asked(["latency", "size"], None, path)
    assert rates_of(REPORT, asked)["eer"] == pytest.approx(100)
    assert asked.reference_name == "other.json"


@pytest.mark.parametrize(
    ("metrics", "weights", "reference", "code"),
    [
        (["watts"], None, "vit_b", "EV803"),
        (["bits", "bits"], None, "vit_b", "EV803"),
        (["bits=0.5", "size"], None, "vit_b", "EV803"),
        (["bits=half", "size=0.5"], None, "vit_b", "EV803"),
        (["bits=0.5", "size=0.5"], (0.5, 0.5), "vit_b", "EV803"),
        (["bits"], (0.5, 0.5), "vit_b", "EV803"),
        (["bits=0.5", "size=0.4"], None, "vit_b", "EV802"),
        ([], None, "no_such_model", "EV804"),
        (["latency"], None, "vit_b", "EV805"),
        (["energy"], None, "swin_t", "EV805"),
    ],
)
def test_what_can_not_be_asked_for(metrics, weights, reference, code):
    with pytest.raises(UsageError, match=code):
        eer_asked(metrics, weights, reference)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", '{"watts": 3}', '{"bits": -1}', '{"bits": "x"}', '{"latency_ms": 3}', "\xff"],
)
def test_a_file_that_is_no_reference(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="EV804"):
        eer_asked((), None, path)


def test_the_command_shows_metrics_reference_and_weights(tmp_path):
    def run(*words):
        return CliRunner().invoke(main, list(map(str, words)))

    bundle, report = tmp_path / "bundle", tmp_path / "report.json"
    quick = ("--method", "minmax", "--num-calib", 8, "-o", bundle)
    made = run("quantize", "--model", "vit_cifar10", *quick)
    assert "0.8 M parameters, 0.058 GFLOPs (multiply-adds) per image" in made.output
    data = ("--data", reference_images("test"), "--num", 20, "--rounds", 5, "--json", report)
    shown = run("validate", bundle, *data, "--eer-weights", 0.3, 0.7).output
    assert "of ViT-B/16 in fp32" in shown
    assert "EER, weighted" in shown
    assert "bits 0.3, size 0.7" in shown
    asked = ("--eer-metric", "latency=0.6", "--eer-metric", "size=0.4", "--eer-reference", "fp32")
    shown = run("validate", bundle, *data, *asked).output
    assert "of fp32: latency, size" in shown
    assert "latency 0.6, size 0.4" in shown
    assert "0.8 M parameters, 0.058 GFLOPs (multiply-adds) per image" in shown
    found = json.loads(report.read_text())
    ratios = {
        name: term["value"] / term["reference"]
        for name, term in found["eer_terms"]["metrics"].items()
    }
    assert found["eer"] == pytest.approx(50 * sum(ratios.values()))
    assert found["eer_weighted"] == pytest.approx(
        100 * (0.6 * ratios["latency"] + 0.4 * ratios["size"])
    )
    assert ratios["latency"] == pytest.approx(1 / found["speedup"])
    assert found["images_per_second"]["engine"] == pytest.approx(
        1000 / found["latency_ms"]["engine"]["p50"]
    )
    assert (found["parameters"], found["flops"]) == (811_146, 58_002_176)
    shown = run("validate", bundle, *data, "--eer-reference", report).output
    assert "100.0 %" in shown  # of itself


def test_latencies_of_other_batches_compare_image_by_image():
    batched = {**REPORT, "latency_conditions": {"batch": 4}}
    assert costs_of(batched)["latency"] == pytest.approx(costs_of(REPORT)["latency"] / 4)


@pytest.mark.parametrize("content", ['{"latency": 1e-320}', '{"latency": true}', '{"size": "12"}'])
def test_metrics_of_a_file_are_plain_numbers(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="EV804"):
        eer_asked(["latency"], None, path)
