"""The validation report and its tables, made from a real bundle run by real sessions."""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from edgevit.bundle import open_bundle
from edgevit.errors import UsageError
from edgevit.report.table import inspect_table, layers_table, models_table, validation_table
from edgevit.runner.engines.onnxruntime.session import session_from_bundle
from edgevit.runner.measure.accuracy import predict_all
from edgevit.runner.measure.eer import EerAsked
from edgevit.runner.measure.latency import measure_alternating
from edgevit.runner.measure.selfcheck import self_check
from edgevit.runner.measure.validation import Measurements, validation_report

CONDITIONS = {"threads": 1, "batch": 1, "rounds": 5, "warmup": 1}


def measure(bundle, normalize, kinds=("fp32", "engine")):
    sessions = {kind: session_from_bundle(bundle, kind, threads=1) for kind in kinds}
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (200, 8, 8, 3)).astype(np.uint8)
    reference = sessions.get("fp32", sessions["engine"])
    labels = reference.run(normalize(pixels)).argmax(1)
    labels[::4] = random.integers(0, 7, 50)
    found = predict_all(sessions, [(pixels, labels, None)], normalize)
    image = normalize(pixels[:1])
    return Measurements(
        engine=found["engine"],
        fp32=found.get("fp32"),
        self_check=self_check(sessions["engine"], bundle.golden(), normalize),
        latency=measure_alternating(sessions, image, warmup=1, rounds=5),
        latency_conditions=CONDITIONS,
        peak_memory_bytes={kind: 100_000_000 for kind in kinds},
        skipped_images=[f"broken-{index}.jpg" for index in range(30)],
        warnings=["measured on battery"],
    )


@pytest.fixture(scope="module")
def bundle(bundle_path):
    return open_bundle(bundle_path)


@pytest.fixture(scope="module")
def measured(bundle, pixels_to_input):
    return measure(bundle, pixels_to_input)


@pytest.fixture
def without_reference(parts, tmp_path, pixels_to_input):
    bundle = open_bundle(parts.write(tmp_path / "out", reference=None))
    return bundle, measure(bundle, pixels_to_input, ("engine",))


def test_the_report_is_json_and_adds_up(bundle, measured):
    report = validation_report(bundle, measured, max_drop_points=20.0)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["schema_version"] == 1
    assert report["num_images"] == 200
    fp32, engine = measured.fp32.correct(1), measured.engine.correct(1)
    assert report["top1"] == {"fp32": 100 * fp32.mean(), "engine": 100 * engine.mean()}
    assert report["top5"]["engine"] == 100 * measured.engine.correct(5).mean()
    same = measured.fp32.top5[:, 0] == measured.engine.top5[:, 0]
    assert report["agreement"] == {
        "engine_vs_fp32": 100 * same.mean(),
        "engine_vs_simulated": 100.0,
    }
    drop = report["drop_points"]
    assert drop["value"] == pytest.approx(report["top1"]["fp32"] - report["top1"]["engine"])
    assert drop["low"] < drop["value"] < drop["high"]
    assert 0 <= report["mcnemar_p"] <= 1
    latency = report["latency_ms"]
    assert report["speedup"] == latency["fp32"]["p50"] / latency["engine"]["p50"]
    interval = report["speedup_interval"]
    assert interval["low"] <= interval["value"] == report["speedup"] <= interval["high"]
    assert report["latency_conditions"] == CONDITIONS
    assert report["size_bytes"]["fp32"] == bundle.size_bytes("reference")
    assert report["size_bytes"]["bundle"] == bundle.size_bytes("bundle")
    expected = 50 * (6 / 32 + bundle.size_bytes("engine") / 330e6)
    assert report["eer"] == pytest.approx(expected)
    assert report["eer_weighted"] is None
    assert report["eer_terms"]["reference"] == "ViT-B/16 in fp32"
    assert (report["parameters"], report["flops"]) == (None, None)  # the tiny bundle says nothing
    speeds, latency = report["images_per_second"], report["latency_ms"]
    assert speeds == {name: 1000 / latency[name]["p50"] for name in ("fp32", "engine")}
    assert report["skipped_images"]["count"] == 30
    assert len(report["skipped_images"]["names"]) == 20
    assert report["warnings"] == ["one layer has no grid", "measured on battery"]
    assert report["bits"]["weights"] == 6


@pytest.mark.parametrize(("limit", "verdict"), [(99.0, "PASS"), (-50.0, "FAIL")])
def test_verdicts_follow_the_interval(bundle, measured, limit, verdict):
    report = validation_report(bundle, measured, max_drop_points=limit)
    assert report["verdict"] == verdict
    assert report["images_needed"] == 0


def test_a_limit_inside_the_interval_is_undecided_with_a_number(bundle, measured):
    drop = validation_report(bundle, measured)["drop_points"]
    limit = (drop["value"] + drop["high"]) / 2
    report = validation_report(bundle, measured, max_drop_points=limit)
    assert report["verdict"] == "UNDECIDED"
    assert report["images_needed"] > 0
    assert str(report["images_needed"]) in report["verdict_reason"]


def test_without_a_limit_there_is_no_verdict(bundle, measured):
    report = validation_report(bundle, measured)
    assert report["verdict"] is None
    assert report["images_needed"] is None
    assert report["drop_points"] is not None


def test_without_reference_fp32_is_null_and_the_verdict_undecided(without_reference):
    report = validation_report(*without_reference, max_drop_points=1.0)
    assert report["verdict"] == "UNDECIDED"
    assert "no fp32 reference" in report["verdict_reason"]
    for key in ("top1", "top5", "latency_ms", "size_bytes", "peak_memory_bytes"):
        assert report[key]["fp32"] is None
        assert report[key]["engine"] is not None
    for key in ("drop_points", "mcnemar_p", "speedup", "speedup_interval", "images_needed"):
        assert report[key] is None
    assert report["agreement"]["engine_vs_fp32"] is None
    assert "no fp32 reference" in shown(validation_table(report))


def test_without_labels_there_is_agreement_but_no_accuracy(bundle, measured):
    labels = np.full(200, -1)
    unlabelled = dataclasses.replace(
        measured,
        engine=dataclasses.replace(measured.engine, labels=labels),
        fp32=dataclasses.replace(measured.fp32, labels=labels),
        latency={},
    )
    report = validation_report(bundle, unlabelled, max_drop_points=1.0)
    assert report["top1"] == {"fp32": None, "engine": None}
    assert report["agreement"]["engine_vs_fp32"] is not None
    assert report["verdict"] == "UNDECIDED"
    assert "label" in report["verdict_reason"]
    assert report["latency_ms"] == {"fp32": None, "engine": None}
    assert shown(validation_table(report))


def test_predictions_of_other_images_are_refused(bundle, measured):
    other = dataclasses.replace(measured.fp32, labels=measured.fp32.labels[::-1])
    with pytest.raises(UsageError, match="EV801"):
        validation_report(bundle, dataclasses.replace(measured, fp32=other))


def test_the_weighted_rate_is_reported(bundle, measured):
    report = validation_report(bundle, measured, eer=EerAsked(weights={"bits": 1.0, "size": 0.0}))
    assert report["eer_weighted"] == pytest.approx(100 * 6 / 32)


def shown(renderable, encoding="utf-8"):
    """Return what a pipe of 80 columns gets, after checking that it fits and has no codes."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=80)
    console.print(renderable)
    stream.flush()
    text = stream.buffer.getvalue().decode(encoding)
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    return text


def test_the_validation_table_shows_every_number(bundle, measured):
    report = validation_report(bundle, measured, max_drop_points=20.0)
    text = shown(validation_table(report))
    for expected in (
        f"{report['top1']['engine']:.2f} %",
        f"{report['latency_ms']['engine']['p99']:.2f} ms",
        f"{report['speedup']:.2f}x",
        "100.0 MB",
        "W6A6",
        "200 images",
        "30 damaged images skipped",
        "measured on battery",
        f"{report['images_per_second']['engine']:.1f}",
        report["verdict"],
    ):
        assert expected in text
    assert shown(validation_table(report), "ascii")


def test_layers_show_bits_grids_and_reasons():
    layers = [
        {
            "module": "blocks.0.attn.qkv",
            "kind": "linear",
            "left_bits": 6,
            "right_bits": 4,
            "grid": "asymmetric",
            "carrier": "u8 x s8",
            "kernel": "QGemm",
        },
        {"module": "blocks.0.[bold]head", "kind": "linear", "kernel": "float32", "reason": "asked"},
        {"module": "blocks.1.head", "kind": "linear", "kernel": "float32", "reason": "asked"},
        {"module": "norm", "kind": "linear", "kernel": "float32", "reason": "no grid fits"},
        {"module": "layers.2.blocks.17.a_very_long_name.attn.relative_position.qk", "kind": "qk"},
    ]
    text = shown(layers_table(layers))
    for expected in ("blocks.0.attn.qkv", "6 x 4", "u8 x s8", "QGemm", "[bold]head"):
        assert expected in text
    assert text.count("asked") == 1  # a reason of many layers is said once
    assert "note 1: asked" in text
    assert "note 2: no grid fits" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "note 1" in rows["blocks.1.head"]
    assert "note 2" in rows["norm"]


def test_a_manifest_at_a_glance(bundle):
    sizes = {kind: bundle.size_bytes(kind) for kind in ("bundle", "reference")}
    text = shown(inspect_table({**bundle.manifest, "size_bytes": sizes}))
    for expected in ("tiny", "W6A6", "for cpu", "input 3x8x8", "QGemm", "one layer has no grid"):
        assert expected in text
    assert shown(inspect_table(bundle.manifest))


def test_models_show_what_is_known():
    rows = [
        {
            "name": "deit_tiny",
            "parameters": 5_717_416,
            "flops": 1.26e9,
            "input_size": (3, 224, 224),
        },
        {"name": "my/own[model]", "parameters": None},
    ]
    text = shown(models_table(rows))
    for expected in ("deit_tiny", "5.7 M", "1.3", "3x224x224", "my/own[model]", "-"):
        assert expected in text
    assert "source" not in text
    assert shown(models_table([]))
