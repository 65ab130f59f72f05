"""Errors of outputs against plain numpy, tasks by name, and the check against a simulation."""

import math

import numpy as np
import pytest

from edgevit.bundle.golden import (
    MAX_GOLDEN_BYTES,
    fp32_of,
    golden_bytes,
    golden_from_bytes,
    num_golden,
    simulated_of,
)
from edgevit.bundle.outputs import TASKS, Output
from edgevit.errors import BundleError, DeviceError, UsageError
from edgevit.runner.measure.accuracy import predict_all
from edgevit.runner.measure.outputs import OutputErrors, errors_of
from edgevit.runner.measure.selfcheck import MIN_SQNR_DB, self_check
from edgevit.runner.measure.task import started
from edgevit.runner.measure.tasks import all_tasks
from edgevit.runner.measure.tasks.base import UNITS

MODEL = {
    "task": "features",
    "outputs": [{"name": "a", "shape": [4, 3]}, {"name": "b", "shape": []}],
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_errors_are_those_of_all_images_whatever_the_batches():
    wanted = normal(9, 4, 3)
    found = wanted + 0.1 * normal(9, 4, 3, seed=1)
    errors = OutputErrors()
    for start in range(0, 9, 4):
        errors.add(wanted[start : start + 4], found[start : start + 4])
    noise = np.square(found - wanted, dtype=np.float64).sum()
    assert errors.sqnr_db == pytest.approx(10 * math.log10(np.square(wanted).sum() / noise))
    a, b = wanted.reshape(9, -1), found.reshape(9, -1)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert errors.mean_cosine == pytest.approx(cosines.mean())
    assert errors.least == pytest.approx(cosines.min())
    assert errors.largest == pytest.approx(np.abs(found - wanted).max())
    half = 1.959964 * cosines.std(ddof=1) / 3
    low, high = errors.cosine_interval()
    assert (low, high) == pytest.approx((cosines.mean() - half, cosines.mean() + half), abs=1e-6)


def test_equal_and_empty_outputs():
    same = errors_of({"a": np.ones((2, 3), np.float32)}, {"a": np.ones((2, 3), np.float32)})["a"]
    assert (same.sqnr_db, same.mean_cosine, same.largest) == (None, pytest.approx(1.0), 0.0)
    zeros = errors_of({"a": np.zeros((2, 3))}, {"a": np.zeros((2, 3))})["a"]
    assert (zeros.sqnr_db, zeros.mean_cosine) == (None, 1.0)
    lost = errors_of({"a": np.ones((2, 3))}, {"a": np.zeros((2, 3))})["a"]
    assert (lost.sqnr_db, lost.mean_cosine) == (0.0, 0.0)
    with pytest.raises(ValueError, match="instead of"):
        OutputErrors().add(np.zeros((2, 3)), np.zeros((2, 4)))


def test_every_task_is_found_by_its_name():
    found = all_tasks()
    assert "features" in found
    assert set(found) <= set(TASKS)
    for name, task in found.items():
        assert task.name == name
        rows = task.metric(
            {**MODEL, "task": name, "num_classes": 3, "input_size": [3, 8, 8]}
        ).result()
        assert all(row.unit in UNITS for row in rows)


class Engine:
    """Gives prepared outputs, image by image."""

    def __init__(self, outputs):
        self.outputs, self.at = outputs, 0

    def run_all(self, images):
        self.at += len(images)
        return {k: v[self.at - len(images) : self.at] for k, v in self.outputs.items()}

    def run(self, images):
        return next(iter(self.run_all(images).values()))


def outputs(seed=0, noise=0.0):
    exact = {"a": normal(10, 4, 3, seed=seed), "b": normal(10, seed=seed + 1)}
    return {k: v + noise * normal(*v.shape, seed=9) for k, v in exact.items()}


def test_a_run_over_images_adds_up_the_task_in_the_same_pass():
    pixels = np.zeros((10, 2, 2, 3), np.uint8)
    batches = [
        (pixels[at : at + 4], np.zeros(len(pixels[at : at + 4]), int), []) for at in (0, 4, 8)
    ]
    task = started(MODEL)
    engines = {"fp32": Engine(outputs()), "engine": Engine(outputs(noise=0.01))}
    found = predict_all(
        engines, batches, lambda x: x.astype(np.float32), classifies=False, watch=task.add
    )
    assert found["engine"].top5.shape == (10, 0)
    assert not found["engine"].labelled
    content = task.to_dict()
    assert (content["name"], content["num_images"]) == ("features", 10)
    assert list(content["outputs"]) == ["a", "b"]
    assert 30 < content["outputs"]["a"]["sqnr_db"] < 50
    (main,) = (row for row in content["metrics"] if row["label"] == content["main"])
    assert main["engine"] == min(one["cosine"] for one in content["outputs"].values())
    assert main["low"] <= main["engine"] <= main["high"]


def golden_of(simulated, exact):
    golden = {"images": np.zeros((10, 2, 2, 3), np.uint8)}
    golden |= {f"simulated/{k}": v for k, v in simulated.items()}
    return golden | {f"fp32/{k}": v for k, v in exact.items()}


def checked(found, simulated, exact):
    return self_check(Engine(found), golden_of(simulated, exact), lambda x: x.astype(np.float32))


def test_the_engine_is_held_against_the_simulation_output_by_output():
    exact, simulated = outputs(), outputs(noise=0.05)
    same = checked(simulated, simulated, exact)
    assert (same.agreement_percent, same.identical_percent, same.max_error) == (None, 100, 0)
    assert [one["within"] for one in same.outputs.values()] == [True, True]
    assert same.outputs["a"]["sqnr_db"] is None
    assert same.outputs["a"]["fp32_sqnr_db"] == same.outputs["a"]["quantization_sqnr_db"]
    far = {**simulated, "b": simulated["b"] + np.float32(0.5)}
    other = checked(far, simulated, exact)
    assert [one["within"] for one in other.outputs.values()] == [True, False]
    assert other.outputs["b"]["sqnr_db"] < MIN_SQNR_DB
    assert other.identical_percent == 0
    with pytest.raises(DeviceError, match="EV711"):
        checked({"a": simulated["a"]}, simulated, exact)


def test_golden_arrays_of_named_outputs_come_back():
    golden = golden_of(outputs(noise=0.1), outputs())
    golden["simulated_fp16/a"] = golden["simulated/a"]
    back = golden_from_bytes(golden_bytes(golden), "golden.npz")
    assert set(back) == set(golden)
    assert list(simulated_of(back)) == list(fp32_of(back)) == ["a", "b"]
    assert list(simulated_of(back, "fp16")) == ["a"]
    assert simulated_of(back, "fp8") == {}


@pytest.mark.parametrize(
    "name", ["simulated/../a", "simulated/", "other/a", "simulated/a/b", "simulated/1", "fp32_x/a"]
)
def test_golden_names_are_a_closed_list(name):
    golden = golden_of(outputs(), outputs())
    with pytest.raises(UsageError, match="EV431"):
        golden_bytes({**golden, name: golden["simulated/a"]})


def test_golden_arrays_of_no_output_or_too_many_dimensions_are_refused():
    golden = golden_of(outputs(), outputs())
    with pytest.raises(UsageError, match="EV431"):
        golden_bytes({"images": golden["images"], "fp32/a": golden["fp32/a"]})
    with pytest.raises(UsageError, match="EV431"):
        golden_bytes({**golden, "simulated/a": np.zeros((10, 1, 1, 1, 1, 1, 1), np.float32)})
    with pytest.raises(BundleError, match="EV410"):
        golden_from_bytes(golden_bytes(golden), "golden.npz", limit_bytes=100)


@pytest.mark.parametrize(
    ("shape", "forms", "count"),
    [
        ((1000,), 6, 32),
        ((150, 128, 128), 6, 3),
        ((21, 512, 512), 4, 2),
        ((21, 512, 512), 6, 1),
        ((150, 512, 512), 2, 0),
    ],
)
def test_few_golden_images_are_kept_of_large_outputs(shape, forms, count):
    one = Output("a", shape)
    assert num_golden([one], 32, forms) == count
    assert count * forms * one.image_bytes < MAX_GOLDEN_BYTES
