"""The real bindings on their stub, prepared once; see bindings_stub.py."""

import os
from pathlib import Path

import bindings_stub
import pytest

NOT_TESTED = []
"""Why the bindings could not be prepared."""


def pytest_terminal_summary(terminalreporter):
    """Say it where nobody overlooks it: a run without them proves much less."""
    for reason in NOT_TESTED[:1]:
        line = f"TENSORRT BINDINGS ARE NOT TESTED: {reason.splitlines()[0]}"
        terminalreporter.write_line(line, red=True, bold=True)


@pytest.fixture(scope="session")
def stubs(request):
    """Folder with the three versions; EDGEVIT_TRT_STUBS names one that is kept between runs."""
    named = os.environ.get("EDGEVIT_TRT_STUBS")
    cache = request.config.cache.mkdir("tensorrt_bindings")
    folder = Path(named) if named else Path(cache)
    try:
        bindings_stub.prepare(folder)
    except bindings_stub.Unavailable as error:
        NOT_TESTED.append(str(error))
        pytest.skip(str(error))
    return folder


@pytest.fixture(scope="session", params=list(bindings_stub.WHEELS))
def version(request):
    """Each of the versions whose real bindings are used."""
    return request.param


@pytest.fixture(scope="session")
def recorded():
    """Return the text of a recording."""
    folder = Path(__file__).parent / "recorded"
    return lambda name: (folder / name).read_text()
