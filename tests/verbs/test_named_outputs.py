"""A model of two named outputs all the way: quantized, written, opened, validated, checked."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from named_outputs import SHAPES, Tower, write_images

from edgevit import api
from edgevit.bundle.golden import fp32_of, simulated_of
from edgevit.cli import main
from edgevit.deploy.measured import content_of, measured_from_json
from edgevit.errors import UndecidedError, UnsupportedError
from edgevit.graph.capture import graph_from_module
from edgevit.runner.board.exchange import dict_from_measurements, measurements_from_dict
from edgevit.runner.measure.measurements import measure

STATED = [{"name": name, "shape": list(shape)} for name, shape in SHAPES.items()]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "all")


def made(images, **options):
    return api.quantize(Tower(), images, bits=8, num_calib=8, **{"method": "minmax", **options})


@pytest.fixture(scope="module")
def artefact(images):
    return made(images)


@pytest.fixture(scope="module")
def bundle(artefact, tmp_path_factory):
    return artefact.save(tmp_path_factory.mktemp("bundles") / "cpu")


@pytest.fixture(scope="module")
def for_jetson(images, tmp_path_factory):
    artefact = made(images, target="jetson-orin-nano")
    return artefact.save(tmp_path_factory.mktemp("bundles") / "jetson")


def test_the_bundle_says_what_comes_out(bundle):
    model = bundle.manifest["model"]
    assert (model["outputs"], model["task"]) == (STATED, "features")
    assert (model["num_classes"], model["classes"]) == (None, None)
    assert any("count was left out" in warning for warning in bundle.manifest["warnings"])
    golden = bundle.golden()
    for found in (simulated_of(golden), fp32_of(golden)):
        assert {name: one.shape[1:] for name, one in found.items()} == SHAPES
    per_image = bundle.costs["graph.onnx"].activation_bytes.per_image
    assert per_image >= 4 * sum(int(np.prod(shape)) for shape in SHAPES.values())


def test_a_classifiers_bundle_has_none_of_it(bundle_path):
    from edgevit.bundle import open_bundle

    opened = open_bundle(bundle_path)
    assert set(opened.manifest["model"]).isdisjoint({"outputs", "task"})
    assert [(one.name, one.shape) for one in opened.outputs] == [("logits", (7,))]
    assert opened.task == "classify"


def test_golden_arrays_are_what_is_simulated(artefact):
    pixels = artefact.golden["images"]
    simulated = artefact.simulate_all(pixels)
    assert np.array_equal(artefact.simulate(pixels), simulated["tokens"])
    for name, values in simulated.items():
        assert np.array_equal(artefact.golden[f"simulated/{name}"], values)


def test_validate_reports_the_task(bundle, images):
    report = api.validate(bundle, images, rounds=3)
    task = report["task"]
    assert (task["name"], task["num_images"], list(task["outputs"])) == ("features", 12, [*SHAPES])
    assert all(one["cosine"] > 0.999 for one in task["outputs"].values())
    assert task["metrics"][0]["label"] == task["main"]
    checked = report["self_check"]
    assert checked["agreement_percent"] is None
    assert all(one["within"] and one["cosine"] > 0.9999 for one in checked["outputs"].values())
    assert report["top1"] == {"fp32": None, "engine": None}
    assert report["latency_ms"]["engine"]["p50"] > 0
    with pytest.raises(UndecidedError, match="EV503") as caught:
        api.check_gates(report, max_drop=1.0, max_latency_ms=None)
    assert "there is no drop to judge" in caught.value.why


def test_the_command_line_shows_it_in_text_and_json(bundle, images):
    words = ["validate", str(bundle.path), "--data", str(images), "--rounds", "3"]
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    assert "tokens: cosine to fp32" in shown.output
    assert "engine and simulation" in shown.output
    assert "top-1" not in shown.output
    inspected = CliRunner().invoke(main, ["inspect", str(bundle.path)])
    assert "features: tokens 4x16, pooled 16" in inspected.output
    printed = CliRunner().invoke(main, [*words, "--json", "-"])
    assert list(json.loads(printed.stdout)["task"]["outputs"]) == [*SHAPES]


def test_what_a_board_measures_of_it_comes_back(bundle, images, pixels_to_input):
    opened = api.load(bundle.path)
    pixels = opened.golden()["images"]
    batches = [(pixels, np.zeros(len(pixels), np.int64), [])]
    from edgevit.runner.measure.conditions import Conditions

    measured = measure(opened, lambda: batches, len(pixels), Conditions(rounds=3), lambda *_: None)
    content = dict_from_measurements(measured)
    more = {
        "machine": {"machine": "m", "python": "3.8", "numpy": "1"},
        "of": {"bundle_sha256": "0" * 64, "images_sha256": "0" * 64},
    }
    read = content_of(measured_from_json(json.dumps({**content, **more}).encode()))
    back = measurements_from_dict(read)
    assert back.task == measured.task
    assert back.self_check == measured.self_check
    assert back.engine.top5.shape == (len(pixels), 0)


def test_the_export_for_a_jetson_has_them_in_every_form(for_jetson, images):
    assert set(for_jetson.variants) >= {"int8", "fp16"}
    for variant in for_jetson.variants:
        found = simulated_of(for_jetson.golden(variant))
        assert {name: one.shape[1:] for name, one in found.items()} == SHAPES
    verdict = CliRunner().invoke(main, ["check", str(for_jetson.path), "--json", "-"])
    assert verdict.exit_code == 0, verdict.output
    report = api.validate(for_jetson, images, engine="onnxruntime", rounds=3)
    assert all(one["within"] for one in report["self_check"]["outputs"].values())
    assert all(one["cosine"] > 0.999 for one in report["task"]["outputs"].values())


@pytest.mark.parametrize("method", ["edgevit", "repq-vit", "apq-vit"])
def test_methods_calibrate_it(images, method):
    simulated = api.simulate(Tower(), images, method=method, bits=8, num_calib=6)
    shown = 2 * torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    found = simulated.quantized.forward_all(shown)
    for name, wanted in simulated.graph.forward_all(shown).items():
        assert (found[name] - wanted).norm() < 0.2 * wanted.norm()


def test_training_calibrates_it(images):
    from dataclasses import replace

    from edgevit.calibration.methods.edgevit_train import Training, train
    from edgevit.calibration.run import Run
    from edgevit.targets.registry import target_named

    graph = graph_from_module(Tower(), (3, 16, 16))
    target = target_named("cpu")
    prepared = target.prepare(graph)
    shown = 2 * torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    placement = target.place(prepared, weight_bits=4, act_bits=8)
    run = Run(graph=prepared, placement=placement, images=shown, seed=0)
    found = train(run, replace(Training(), iterations=5, batch_size=8, device="cpu"))
    for name, wanted in graph.forward_all(shown).items():
        assert (found.forward_all(shown)[name] - wanted).norm() < 0.5 * wanted.norm()


def test_what_compares_classes_is_refused(images):
    with pytest.raises(UnsupportedError, match="EV351"):
        api.compare_methods(Tower(), images, images, num_calib=4)
    with pytest.raises(UnsupportedError, match="EV351"):
        api.sensitivity(Tower(), images, data=images, num_calib=4)
    rows = api.sensitivity(Tower(), images, num_calib=4)
    assert all(row["fisher_error"] is not None for row in rows)


def test_outputs_too_large_to_be_compared_are_refused_before_calibration(images, monkeypatch):
    monkeypatch.setattr("edgevit.calibration.run.calibrate", None)  # nobody gets there
    monkeypatch.setattr("edgevit.bundle.golden.MAX_GOLDEN_BYTES", (32 << 20) + 3 * 4 * 80 - 1)
    with pytest.raises(UnsupportedError, match="EV354") as error:
        made(images)
    assert "320 bytes an image" in error.value.why
    assert error.value.where == "tokens, pooled"


class _Given(Tower):
    def __init__(self, given):
        super().__init__()
        self.given = given

    def forward(self, x):
        return self.given(x, self.body.forward_features(x))


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (lambda x, tokens: tokens[:, :, None, None].expand(-1, -1, 700, 400, -1) * 2, "EV354"),
        (lambda x, tokens: {"brightness": x.mean((2, 3))[:, :, None]}, "EV323"),
    ],
)
def test_what_a_bundle_could_not_hold_is_refused_before_calibration(given, code, images):
    stages = []
    with pytest.raises(UnsupportedError, match=code):
        api.quantize(
            _Given(given),
            images,
            bits=8,
            num_calib=4,
            method="minmax",
            progress=lambda stage, *_: stages.append(stage),
        )
    assert stages[-1] == "capture graph"


def test_a_graph_that_could_not_be_opened_is_refused_with_its_module(monkeypatch):
    from edgevit.targets.onnx import emitters
    from edgevit.targets.registry import target_named

    def wrong(context, node):
        inputs = [node.args[0].name, context.integers("axes", [0])]
        context.builder.add("ReduceMean", inputs, node.name, keepdims=0)

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Linear(3, 5)

        def forward(self, x):
            return self.head(self.pool(x).flatten(1))

    monkeypatch.setitem(emitters.EMITTERS, torch.ops.aten.mean.dim, wrong)
    for name in ("cpu", "jetson-orin-nano"):
        with pytest.raises(UnsupportedError, match="EV322") as caught:
            target_named(name).check_graph(graph_from_module(Pooled(), (3, 16, 16)))
        assert caught.value.where == "pool"
