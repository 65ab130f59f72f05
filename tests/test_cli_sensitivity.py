"""`edgevit sensitivity` and the budgets of `edgevit quantize` on the command line."""

import csv
import json

import pytest
from click.testing import CliRunner

from edgevit import api
from edgevit.cli import main
from edgevit.zoo import reference_images

MODEL = ["--model", "vit_cifar10", "--num-calib", "4"]


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_table_and_plot(tmp_path):
    table, plot = tmp_path / "report.csv", tmp_path / "plot.png"
    data = ["--data", reference_images("test"), "--num", 10]
    result = run("sensitivity", *MODEL, "--bits", 3, "-o", table, "--plot", plot, *data)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 50
    assert all(float(row["fisher_error"]) > 0 for row in rows)
    assert all(float(row["kl_only"]) < float(row["kl_quantized"]) for row in rows)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "worst 20 of 50" in result.output


def test_without_labels_and_with_a_method():
    rows = api.sensitivity(
        "vit_cifar10",
        reference_images("calibration"),
        method="minmax",
        num_calib=4,
        weight_bits=3,
        act_bits=5,
        float_layers=("head",),
    )
    assert len(rows) == 49
    assert {row["right_bits"] for row in rows if row["kind"] == "linear"} == {3}
    assert {row["top1_only"] for row in rows} == {None}


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["sensitivity", "--plot", "x.txt", "-o", "x.csv"], 2, "EV215"),
        (["sensitivity", "--bits", "9", "-o", "x.csv"], 2, "EV201"),
        (["sensitivity", "--num-calib", "0", "-o", "x.csv"], 2, "EV204"),
        (["quantize", "--avg-bits", "1", "-o", "x"], 2, "EV221"),
        (["quantize", "--avg-bits", "4", "--allocation", "x", "-o", "x"], 2, "EV213"),
    ],
)
def test_what_can_not_be(arguments, status, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(arguments[0], "--model", "vit_cifar10", *arguments[1:])
    assert result.exit_code == status, result.output
    assert code in result.output
    assert "try:" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_mean_width(tmp_path):
    out, summary = tmp_path / "out", tmp_path / "summary.json"
    arguments = [*MODEL, "--method", "minmax", "--avg-bits", "3.5", "--json", summary]
    assert run("quantize", *arguments, "-o", out).exit_code == 0
    manifest = json.loads(summary.read_text())
    assert 3 < manifest["bits"]["weight_mean"] <= 3.5
    assert set(manifest["recipe"]["layer_bits"]) == {r["module"] for r in manifest["layers"]}
