"""The benchmark scripts are no package: their folder is put on the path, their files elsewhere."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Empty folders for rows and for the cache; returns that of the rows."""
    import agreement
    import cells
    import rows
    import subjects
    import summary

    for module in (rows, summary):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    for module in (subjects, cells, agreement):
        monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    return tmp_path / "results"
