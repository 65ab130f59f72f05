"""Names of what a model can be for; the one list, which boards read as well."""

from __future__ import annotations

CLASSIFY, EMBED, SEGMENT, DETECT, FEATURES = "classify", "embed", "segment", "detect", "features"
TASKS = (CLASSIFY, EMBED, SEGMENT, DETECT, FEATURES)
