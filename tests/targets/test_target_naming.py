"""A file that can't be read for its names is named in the error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgevit.calibration import naming as methods
from edgevit.targets import naming as targets


@pytest.mark.parametrize("read", [targets._names_in, methods._names])
def test_a_broken_file_is_named(read: Any, tmp_path: Path) -> None:
    file = tmp_path / "abacus.py"
    file.write_text("def (")
    with pytest.raises(SyntaxError, match=r"abacus\.py, line 1"):
        read(file)
