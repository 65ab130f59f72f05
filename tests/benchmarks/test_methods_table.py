"""The table of methods is measured once, can be stopped, and says what ran where."""

import argparse
import csv
import functools
from dataclasses import replace

import methods
import numpy as np
import pytest
import rows
import summary
from cells import Cell, latest_rows

from edgevit.calibration.methods import METHODS
from edgevit.errors import UnsupportedError
from edgevit.zoo import reference_images

pytestmark = pytest.mark.usefixtures("results")


@pytest.fixture(scope="module", autouse=True)
def _capture_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "subject", functools.cache(methods.subject))
        yield


def options(**changes):
    defaults = {
        "data": str(reference_images("test")),
        "calib": str(reference_images("calibration")),
        "models": "vit_cifar10",
        "twins": "plain",
        "bits": "4",
        "methods": "minmax,mse",
        "seeds": "0,1",
        "num_calib": "8",
        "num_images": 40,
        "threads": 1,
        "batch": 16,
        "redo": False,
        "table": "methods",
        "weights": None,
        "simulated": 1000,
    }
    return argparse.Namespace(**{**defaults, **changes})


def table():
    with (rows.RESULTS / "methods.csv").open() as file:
        return list(csv.DictReader(file))


def test_goes_on_where_it_was_stopped(monkeypatch, capsys):
    measure, measured = methods.measure, []

    def stopped_after_two(cell, *rest):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(cell)
        return measure(cell, *rest)

    monkeypatch.setattr(methods, "measure", stopped_after_two)
    with pytest.raises(KeyboardInterrupt):
        methods.run(options())
    assert [row["seed"] for row in table()] == ["0", "0"]

    monkeypatch.setattr(
        methods, "measure", lambda cell, *rest: measured.append(cell) or measure(cell, *rest)
    )
    assert methods.run(options()) == 0
    found = table()
    assert len(found) == len(measured) == len(set(measured)) == 4
    assert methods.run(options()) == 0
    assert table() == found
    assert methods.run(options(seeds="0", methods="minmax", num_images=50)) == 0
    assert len(table()) == 5  # other images are another row

    for row in found:
        assert row["runs_on"] == "engine"
        assert float(row["agreement_simulated"]) >= 97.5
        assert int(row["simulated_images"]) == int(row["images"]) == 40
        path = Cell.of(row).path(row["images_sha256"])
        with np.load(path) as kept:
            assert len(kept["kl"]) == 40
            assert kept["kl"].mean() == pytest.approx(float(row["kl_to_fp32"]), rel=1e-4)
            assert 100 * kept["agrees"].mean() == pytest.approx(float(row["agreement_fp32"]))

    capsys.readouterr()
    assert summary.main("mse (8)", "methods") == 0
    assert "mse (8) has" in capsys.readouterr().out
    with (rows.RESULTS / "methods_paired.csv").open() as file:
        paired = {row["method"]: row for row in csv.DictReader(file)}
    assert list(paired) == ["minmax (8)"]
    assert paired["minmax (8)"]["draws"] == "2"


def test_a_refused_method_is_simulated_and_says_so(monkeypatch):
    def calibrate(run):
        if run.placement.target == "cpu":
            raise UnsupportedError("EV999", "No such grid here.")
        return METHODS["minmax"].calibrate(run)

    refused = replace(METHODS["minmax"], calibrate=calibrate)
    monkeypatch.setitem(METHODS, "refused", replace(refused, name="refused"))
    assert methods.run(options(methods="refused,minmax", seeds="0")) == 0
    simulated, engine = table()
    assert (simulated["runs_on"], engine["runs_on"]) == ("simulation", "engine")
    assert simulated["refusal"] == "EV999 No such grid here."
    assert (simulated["agreement_simulated"], engine["refusal"]) == ("", "")
    assert 0.01 < float(simulated["kl_to_fp32"]) < 0.5


def test_a_defect_costs_one_row_only(monkeypatch, capsys):
    def calibrate(run):
        raise ValueError("a defect")

    monkeypatch.setitem(METHODS, "broken", replace(METHODS["minmax"], calibrate=calibrate))
    assert methods.run(options(methods="broken,minmax", seeds="0")) == 1
    assert [row["method"] for row in table()] == ["minmax"]
    assert "a defect" in capsys.readouterr().out


def test_measured_again_the_last_row_counts():
    methods.run(options(methods="minmax", seeds="0"))
    methods.run(options(methods="minmax", seeds="0", redo=True))
    assert len(table()) == 2
    assert latest_rows("methods") == table()[1:]


def test_kl_is_that_of_softmax():
    reference, other = np.float32([[2.0, 0.0, -1.0]]), np.float32([[1.0, 0.5, -3.0]])
    p, q = (
        np.exp(x[0].astype(float)) / np.exp(x[0].astype(float)).sum() for x in (reference, other)
    )
    slow = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
    found = methods.per_image(reference, other, np.array([0]))
    assert found["kl"][0] == pytest.approx(slow)
    assert found["agrees"].tolist() == found["right"].tolist() == [True]


def test_rows_keep_their_columns_and_no_folders(monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["/a/b.py", "--data", "/x/y/z.tar::test", "--calib=/x/c.zip", "4/8"]
    )
    rows.add_row("some", {"a": 1, "b": 0.000123456789})
    assert rows.read_rows("some")[0]["b"] == "0.000123457"
    command = rows.read_rows("some")[0]["command"]
    assert command == "python benchmarks/b.py --data z.tar::test --calib=c.zip 4/8"
    with pytest.raises(ValueError, match="columns"):
        rows.add_row("some", {"a": 1})


def test_figure_and_tables():
    pytest.importorskip("matplotlib")
    import matplotlib

    matplotlib.use("Agg")
    from methods_figure import figure, found, tables

    kl = {"edgevit": (0.02, 0.04), "minmax": (0.2, 0.3), "fq-vit": (0.1, 0.1)}
    made = [
        {
            "model": "vit_cifar10",
            "twin": twin,
            "method": method,
            "weight_bits": str(width),
            "act_bits": str(width),
            "num_calib": "32",
            "seed": str(seed),
            "images": "8000",
            "kl_to_fp32": str(value / width),
            "agreement_fp32": "93.5",
            "top1": "80",
            "runs_on": "simulation" if method == "fq-vit" else "engine",
        }
        for twin in ("plain", "hardened")
        for width in (4, 8)
        for method, values in kl.items()
        for seed, value in enumerate(values)
    ]
    points = found([*made, {**made[0], "images": "40", "kl_to_fp32": "9"}])
    drawn = figure(points)
    assert [axis.get_yscale() for axis in drawn.axes] == ["log", "log"]
    assert len(drawn.legends[0].get_texts()) == 3
    text = tables(points)
    assert text.count("| method | W8A8 | W4A4 |") == 2
    assert "| edgevit | **0.0037** (93.5) | **0.0075** (93.5) |" in text
    assert "| fq-vit | 0.013 (93.5)* | 0.025 (93.5)* |" in text
