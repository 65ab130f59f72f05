"""Tasks of transformers' checkpoints, and the class that loads one for each of them.

Both are read from transformers' own tables of models by task, a closed list; config.json's
``architectures`` only chooses among what is in them, and no code of a repository is run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from edgevit.data.tasks import CLASSIFY, DETECT, EMBED, FEATURES, SEGMENT

_HEADS = {
    CLASSIFY: ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", "AutoModelForImageClassification"),
    SEGMENT: ("MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES", "AutoModelForSemanticSegmentation"),
    DETECT: ("MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES", "AutoModelForObjectDetection"),
}
_FEATURES = ("MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES", "MODEL_FOR_BACKBONE_MAPPING_NAMES")
_BASES = "MODEL_FOR_IMAGE_MAPPING_NAMES"
_TOWER = "_vision_model"


def fitting_tasks(config: Any, *, by_head: bool = True) -> tuple[str, ...]:
    """Return the tasks that fit, those of the checkpoint's head alone where it has one.

    Args:
        config: A configuration of transformers.
        by_head: Ask the checkpoint's ``architectures``; else every head that the model can have.
    """
    names = set(config.architectures or ()) if by_head else set()
    heads = [task for task, (table, _) in _HEADS.items() if names & set(_all_names(table))]
    if heads:
        return tuple(heads)
    if names & {name for table in _FEATURES for name in _all_names(table)}:
        return (FEATURES,)
    if is_tower(config) or (names and _has_base(config)):
        return EMBED, FEATURES
    return tuple(task for task in possible_tasks(config) if task in _HEADS) or possible_tasks(
        config
    )


def possible_tasks(config: Any) -> tuple[str, ...]:
    """Return every task for which the model can be built, whatever its checkpoint's head is."""
    if is_tower(config):
        return EMBED, FEATURES
    kind = config.model_type
    found = [task for task, (table, _) in _HEADS.items() if kind in _table(table)]
    if _has_base(config):
        found.append(EMBED)
    if _has_base(config) or any(kind in _table(table) for table in _FEATURES):
        found.append(FEATURES)
    return tuple(found)


def is_tower(config: Any) -> bool:
    """Return whether the images of a model of images and text have a tower of their own."""
    return _tower_type(config).endswith(_TOWER)


def tower_config(config: Any) -> Any:
    """Return the configuration of the part that reads images."""
    if not is_tower(config) or not hasattr(config, "vision_config"):
        return config
    vision = copy.deepcopy(config.vision_config)
    if hasattr(vision, "projection_dim") and hasattr(config, "projection_dim"):
        vision.projection_dim = config.projection_dim
    return vision


def model_class(config: Any, task: str) -> Any:
    """Return the class of transformers that loads this model for a task."""
    import transformers

    if is_tower(config):
        name = _table("MODEL_MAPPING_NAMES")[_tower_type(config)]
        projected = f"{name}WithProjection" if task == EMBED else name
        return getattr(transformers, projected, getattr(transformers, name))
    if task in _HEADS:
        return getattr(transformers, _HEADS[task][1])
    names = set(config.architectures or ())
    for table in _FEATURES if task == FEATURES else ():
        if names & set(_all_names(table)) or not _has_base(config):
            return getattr(transformers, _table(table)[config.model_type])
    return transformers.AutoModel


def _tower_type(config: Any) -> str:
    vision = getattr(config, "vision_config", config)
    kind = str(getattr(vision, "model_type", ""))
    return kind if kind in _table("MODEL_MAPPING_NAMES") else ""


def _has_base(config: Any) -> bool:
    return config.model_type in _table(_BASES)


def _table(name: str) -> Mapping[str, Any]:
    from transformers.models.auto import modeling_auto

    table: Mapping[str, Any] = getattr(modeling_auto, name)
    return table


def _all_names(table: str) -> Iterable[str]:
    """Yield the classes in a table; a model may have several."""
    for names in _table(table).values():
        yield from (names,) if isinstance(names, str) else names
