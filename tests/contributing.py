"""The examples of CONTRIBUTING.md, which the tests use as they stand there."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"


def example(path):
    """Return the Python that the page has for a new file, by the file's path."""
    found = re.search(
        rf"^`{re.escape(path)}`:\n\n```python\n(.*?)^```", PAGE.read_text(), re.M | re.S
    )
    assert found, f"CONTRIBUTING.md has no {path}"
    return found[1]
