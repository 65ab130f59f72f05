"""Lists the models that there are, without building one."""

from __future__ import annotations

import csv
import difflib
import fnmatch
from dataclasses import dataclass
from functools import cache

from edgevit.errors import UsageError
from edgevit.zoo.checkpoints import CHECKPOINTS
from edgevit.zoo.embedded import EMBEDDED_MODELS, asset, embedded_config


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One model in the list; what is not known without building it is None.

    Args:
        name: To be given as ``--model``.
        source: Library and checkpoint.
        input_size: (3, H, W).
        parameters: Number of parameters.
        flops: Multiply-adds per image, as the literature rounds them.
        note: Where its weights come from.
        proven: Targets on which a run of all families saw it work, see docs/families.md.
    """

    name: str
    source: str
    input_size: tuple[int, int, int] | None
    parameters: int | None
    flops: int | None
    note: str
    proven: str | None = None


def list_models(pattern: str = "") -> list[ModelRow]:
    """List short names and embedded models, and with a pattern timm's models too.

    Args:
        pattern: A shell pattern (``swin*``) or a part of the name; empty for all short names.
    """
    rows = [*_embedded_rows(), *_short_rows()]
    if not pattern:
        return rows
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    named = [row for row in rows if fnmatch.fnmatch(row.name, wanted)]
    return named + _timm_rows(wanted)


def proven_on(name: str) -> str | None:
    """Return the targets on which a model of timm was seen to work, None where none was tried."""
    found = _proven().get(name.partition(".")[0])
    return None if found is None else "cpu, jetson" if found == "yes" else "cpu"


@cache
def _proven() -> dict[str, str]:
    """Return the packaged list: architecture -> whether its export for a Jetson conforms."""
    with asset("proven_models.csv").open(newline="", encoding="utf-8") as file:
        return {row["model"]: row["jetson"] for row in csv.DictReader(file)}


def unknown_model(name: str) -> UsageError:
    """Return the error that names the models whose names are nearest (EV151)."""
    import timm

    known = [*CHECKPOINTS, *EMBEDDED_MODELS, *timm.list_models()]
    architecture, dot, _ = name.partition(".")
    if dot and timm.is_model(architecture):  # the tag is wrong
        known = timm.list_models(f"{architecture}.*", pretrained=True)
    near = difflib.get_close_matches(name, known, n=6, cutoff=0.5)
    return UsageError(
        "EV151",
        f"There is no model {name!r}.",
        where="--model",
        why=f"Nearest names: {', '.join(near)}." if near else "No name is near it.",
        try_next="`edgevit models PATTERN` lists names; torchvision:NAME, transformers:NAME, a "
        "folder with config.json and package.module:function are models too.",
    )


def _embedded_rows() -> list[ModelRow]:
    configs = {name: embedded_config(name) for name in EMBEDDED_MODELS}
    return [
        ModelRow(
            name=name,
            source=f"edgevit:{name}",
            input_size=tuple(config["input_size"]),
            parameters=config["parameters"],
            flops=config.get("flops"),
            note="installed with EdgeViT, CIFAR-10",
            proven="cpu, jetson",  # every test run quantizes them
        )
        for name, config in configs.items()
    ]


def _short_rows() -> list[ModelRow]:
    return [
        ModelRow(
            name=name,
            source=f"timm:{row.tag}",
            input_size=row.input_size,
            parameters=row.parameters,
            flops=row.flops,
            note="downloaded by timm on first use",
            proven=proven_on(row.tag),
        )
        for name, row in CHECKPOINTS.items()
    ]


def _timm_rows(pattern: str) -> list[ModelRow]:
    import timm
    from timm.models import get_pretrained_cfg

    trained = timm.list_models(pattern, pretrained=True)
    architectures = {name.split(".")[0] for name in trained}
    random = [name for name in timm.list_models(pattern) if name not in architectures]
    rows = []
    for name in sorted({*trained, *random}):
        config = get_pretrained_cfg(name)
        rows.append(
            ModelRow(
                name=name,
                source=f"timm:{name}",
                input_size=tuple(config.input_size) if config else None,
                parameters=None,
                flops=None,
                note="downloaded by timm on first use" if name in trained else "no trained weights",
                proven=proven_on(name),
            )
        )
    return rows
