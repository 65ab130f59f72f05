"""The sensitivity report: CSV reads back, the table fits, the plot is a picture."""

import csv
import io
import sys

import pytest
from rich.console import Console

from edgevit.errors import EdgeViTError
from edgevit.report.sensitivity import csv_from_rows, sensitivity_table, worst_first
from edgevit.report.sensitivity_plot import check_plot, write_plot


def row(module, cost, labelled=True):
    measured = {
        f"{key}_{end}": (cost if key == "kl" else 80.0) if labelled else None
        for key in ("top1", "kl")
        for end in ("only", "all_but", "float32", "quantized")
    }
    return {
        "module": module,
        "left_bits": 4,
        "right_bits": 4,
        "left_sqnr_db": None,
        "right_sqnr_db": 20.0,
        "fisher_error": 1 / (1 + cost),
        **measured,
    }


ROWS = [row("blocks.10.attn.qkv.[q]", 0.25), row("head", 3.0), row("patch_embed.proj", 0.0)]


def test_csv_reads_back():
    read = list(csv.DictReader(io.StringIO(csv_from_rows(ROWS))))
    assert [r["module"] for r in read] == [r["module"] for r in ROWS]
    assert float(read[1]["kl_only"]) == 3.0
    assert read[0]["left_sqnr_db"] == ""
    assert csv_from_rows([]).strip() == ""


def test_worst_first():
    assert next(r["module"] for r in worst_first(ROWS)) == "head"
    unlabelled = [row(r["module"], r["kl_only"], labelled=False) for r in ROWS]
    assert next(r["module"] for r in worst_first(unlabelled)) == "patch_embed.proj"


@pytest.mark.parametrize("labelled", [True, False])
def test_the_table_fits_80_columns(labelled):
    console = Console(width=80, file=io.StringIO())
    console.print(sensitivity_table([row(r["module"], r["kl_only"], labelled) for r in ROWS], 2))
    text = console.file.getvalue()
    assert "blocks.10.attn.qkv.[q]" in text or not labelled
    assert "worst 2 of 3" in text
    assert ("KL rest" in text) == labelled


@pytest.mark.parametrize(("form", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
@pytest.mark.parametrize("labelled", [True, False])
def test_the_plot_is_a_picture(tmp_path, form, start, labelled):
    path = tmp_path / f"plot.{form}"
    check_plot(path)
    write_plot([row(r["module"], r["kl_only"], labelled) for r in ROWS], path, form)
    assert path.read_bytes().startswith(start)


def test_a_plot_that_can_not_be(monkeypatch):
    with pytest.raises(EdgeViTError, match="EV215"):
        check_plot("plot.txt")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(EdgeViTError, match="EV209") as error:
        check_plot("plot.png")
    assert error.value.exit_status == 3
    assert "edgevit[plot]" in error.value.try_next
