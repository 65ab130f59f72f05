"""Agreement of exports: fitted heads, margins, and what is not run twice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from agreement import agreement, outputs
from rows import add_row
from subjects import fitted_head
from tensorrt_export import EVERYTHING, Task, exported, refitted

from edgevit.calibration.methods import METHODS
from edgevit.calibration.run import calibrate
from edgevit.data import Preprocessing
from edgevit.targets.registry import TARGETS

MEAN = (0.5, 0.5, 0.5)
LABELS = np.array([7, 2, 0, 5])
TASK = Task(model="vit_cifar10", bits=8, method="minmax", num_calib=8, images=64, casts="kept")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_another_head_on_the_same_features_is_the_whole_model(
    name, pixels, images, results, request
):
    graph, target = request.getfixturevalue(name), TARGETS[EVERYTHING]
    preprocessing = Preprocessing.from_crop_pct(
        input_size=(3, 32, 32), crop_pct=1.0, interpolation="bicubic", mean=MEAN, std=MEAN
    )
    placement = target.place(graph, weight_bits=8, act_bits=8)
    form = calibrate(graph, placement, images, METHODS["minmax"])
    found = outputs(form, exported(form), preprocessing, pixels)
    forms, run = refitted({"int8": form}, {"int8": found}, LABELS)
    whole = outputs(forms["int8"], exported(forms["int8"]), preprocessing, pixels)
    assert not np.array_equal(whole.simulated, found.simulated)
    assert run["int8"].simulated.argmax(1).tolist() == LABELS.tolist()
    for part in ("engine", "simulated", "engine_features", "simulated_features"):
        assert np.array_equal(getattr(whole, part), getattr(run["int8"], part)), part


def test_a_fitted_head_tells_its_images_apart():
    features = np.random.default_rng(0).normal(3.0, 1.0, (4, 16)).astype(np.float32)
    weight, bias = fitted_head(features, LABELS, 10)
    logits = torch.from_numpy(features) @ weight.T + bias
    assert logits.argmax(1).tolist() == LABELS.tolist()
    absent = [1, 3, 4, 6, 8, 9]
    assert not weight[absent].any()
    assert not bias[absent].any()
    assert float(logits[0, 7]) > 0.9


def test_the_agreement_is_what_errors_of_that_size_leave():
    """Two classes, gaps from 0 to 4, errors of size 1: the two numbers find the same."""
    rng = np.random.default_rng(1)
    gaps = np.linspace(0, 4, 4000)
    simulated = np.stack([gaps, np.zeros_like(gaps), np.zeros_like(gaps)], axis=1) - [0, 0, 9]
    simulated += rng.normal(size=(4000, 1))
    errors = rng.choice([-1.0, 1.0], simulated.shape)
    found = agreement(simulated + errors, simulated)
    assert found.median_margin == pytest.approx(2.0, rel=0.01)
    assert found.agreement_percent == pytest.approx(87.5, abs=1.5)  # a quarter of half the images
    assert found.noise_percent == pytest.approx(86.0, abs=2.5)
    exact = agreement(simulated, simulated)
    assert (exact.agreement_percent, exact.noise_percent) == (100.0, 100.0)


def test_a_class_without_weights_makes_no_error_look_smaller():
    simulated = np.array([[1.0, 0.0], [0.0, 1.0]])
    engine = simulated + np.array([[0.1, -0.1], [-0.1, 0.1]])
    padded = [np.pad(logits, ((0, 0), (0, 98))) for logits in (engine, simulated)]
    assert agreement(*padded).median_margin == pytest.approx(10.0)
    assert agreement(engine, simulated).median_margin == pytest.approx(10.0)


def test_a_task_with_rows_is_done(results):
    assert not TASK.is_done()
    add_row("tensorrt_export", {**TASK.__dict__, "agreement_percent": 100.0})
    assert TASK.is_done()
    assert not replace(TASK, images=1000).is_done()
    assert not replace(TASK, casts="dropped").is_done()
