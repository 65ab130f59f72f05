"""A judge that all attacks share, and a fresh bundle for each."""

import sys

import pytest
from judging import Judge


@pytest.fixture(scope="session")
def judge(tmp_path_factory):
    """Return what opens bundles and says what came of it."""
    if not sys.platform.startswith("linux"):
        pytest.skip("limits and peak memory are those of Linux")
    with Judge(tmp_path_factory.mktemp("sandbox")) as one:
        yield one


@pytest.fixture
def folder(parts, tmp_path):
    """Return a bundle to be made hostile."""
    return parts.write(tmp_path / "bundle")
