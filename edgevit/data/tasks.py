"""Names of what a model can be for, and the outputs of each; the one list, boards read it too."""

from __future__ import annotations

from dataclasses import dataclass

CLASSIFY, EMBED, SEGMENT, DETECT, FEATURES = "classify", "embed", "segment", "detect", "features"
TASKS = (CLASSIFY, EMBED, SEGMENT, DETECT, FEATURES)
LOGITS = "logits"
"""The one output of a classifier, and what others give for each class."""
MAX_OUTPUTS, MAX_RANK = 64, 6
"""Most outputs of a model, and most dimensions of one with its batch."""


@dataclass(frozen=True)
class Wanted:
    """One output of a task.

    Args:
        keys: Names under which models return it, the first one of ours.
        rank: Its number of dimensions.
        shape: The same in words.
    """

    keys: tuple[str, ...]
    rank: int
    shape: str

    @property
    def name(self) -> str:
        """Our name for it."""
        return self.keys[0]


WANTED: dict[str, tuple[Wanted, ...]] = {
    CLASSIFY: (Wanted((LOGITS,), 2, "[B, classes]"),),
    EMBED: (Wanted(("embedding", "image_embeds", "pooler_output"), 2, "[B, channels]"),),
    SEGMENT: (Wanted((LOGITS, "out"), 4, "[B, classes, height, width]"),),
    DETECT: (
        Wanted((LOGITS,), 3, "[B, boxes, classes]"),
        Wanted(("boxes", "pred_boxes"), 3, "[B, boxes, 4]"),
    ),
}
"""The outputs of each task but "features", which takes any."""
