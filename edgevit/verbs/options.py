"""Settles the options of `quantize`: the caller's, else those of a recipe, else defaults."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.bundle.naming import bundle_name, widths_named
from edgevit.errors import EdgeViTError, UsageError
from edgevit.recipe import DEFAULT_METHOD, DEFAULT_TARGET, digest_of, read_recipe

if TYPE_CHECKING:
    from torch import nn

    from edgevit.graph.model import Graph
    from edgevit.quantizers.spec import Placement
    from edgevit.zoo import LoadedModel
    from edgevit.zoo.class_names import ClassNames

DEFAULT_BITS = 6
SIMULATE = "`edgevit simulate`"
"""How errors advise simulation where they know neither model nor method."""
_OF_THE_MODEL = {
    "weights",
    "weights_key",
    "weights_sha256",
    "model_args",
    "preprocessing",
    "task",
    "classes",
    "class_order",
}
"""What a recipe says of its own model and of no other."""
_HASHES = {"weights_sha256": "weights", "images_sha256": "calibration images"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The choices of one run.

    Args:
        model, target, method, num_calib, seed, float_layers, layer_bits, pretrained, weights,
            weights_key, model_args, preprocessing, task, classes, class_order: As in
            `edgevit.quantize`; "" without a task.
        bits: Width of what the next two leave open.
        weight_bits, act_bits: Widths, None where `bits` holds.
        file: The recipe file, None without one.
        kept: Key -> value of all that the recipe says and the caller did not.
        widths_given: Whether the caller gave a width himself.
    """

    model: str | nn.Module
    target: str = DEFAULT_TARGET
    method: str = DEFAULT_METHOD
    num_calib: int | None = None
    seed: int = 0
    float_layers: tuple[str, ...] = ()
    layer_bits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    pretrained: bool = True
    weights: str | Path | None = None
    weights_key: str = ""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""
    classes: ClassNames = ()
    class_order: str = ""
    bits: int = DEFAULT_BITS
    weight_bits: int | None = None
    act_bits: int | None = None
    file: Path | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    widths_given: bool = False

    @property
    def fixed_layers(self) -> str:
        """Words for the option that fixes the widths of single layers; empty if nothing does."""
        if not self.layer_bits:
            return ""
        return f"layer_bits of {self.file}" if "layer_bits" in self.kept else "layer_bits"

    @property
    def checkpoint_name(self) -> str:
        """Return the name of a checkpoint file as a recipe keeps it: any encoding can write it."""
        if self.weights is None:
            return ""
        return Path(self.weights).name.encode("utf-8", "backslashreplace").decode()

    def bundle_name(self, avg_bits: float | None = None, max_size_mb: float | None = None) -> str:
        """Return the name of the bundle where the user gives none, such as ``swin_b_w6a6_cpu``."""
        bits = (self.bits if one is None else one for one in (self.weight_bits, self.act_bits))
        widths = widths_named(
            *bits, avg_bits=avg_bits, max_size_mb=max_size_mb, mixed=bool(self.layer_bits)
        )
        model = self.model if isinstance(self.model, str) else type(self.model).__name__
        return bundle_name(model, widths, self.target, self.method)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Let errors inside the block name the recipe's file, and commands in full."""
        try:
            yield
        except EdgeViTError as error:
            option = error.where.partition(" ")[0]
            key = option.lstrip("-").replace("-", "_").replace("float_layer", "float_layers")
            if key in self.kept:
                error.where = f"{self.file}: {error.where}"
            error.try_next = error.try_next.replace(SIMULATE, self._simulate_command())
            raise

    def _simulate_command(self) -> str:
        """Return the command that simulates what is asked for, in backquotes."""
        from edgevit.zoo import EMBEDDED_MODELS

        if not isinstance(self.model, str):
            return "`edgevit.verbs.simulate.compare_methods`"
        given = {
            "--recipe": self.file,
            "--model": self.model,
            "--weights": self.weights,
            "--bits": self.bits,
            "--weight-bits": self.weight_bits,
            "--act-bits": self.act_bits,
            "--method": self.method,
        }
        words = [str(word) for pair in given.items() if pair[1] is not None for word in pair]
        words += [] if self.pretrained else ["--no-pretrained"]
        words += [word for name in self.float_layers for word in ("--float-layer", name)]
        own = [] if self.model in EMBEDDED_MODELS else ["--calib", "DIR", "--data", "DIR"]
        return f"`edgevit simulate {shlex.join([*words, *own])}`"

    def check_widths_matter(self, graph: Graph, placement: Placement) -> None:
        """Refuse a width that no layer is left for.

        Raises:
            UsageError: The recipe gives every quantized product one of its own (EV214).
        """
        if not self.widths_given or "layer_bits" not in self.kept:
            return
        modules = {gemm.module for gemm in graph.gemms if gemm.left.name in placement.options}
        if modules <= set(self.layer_bits):
            raise UsageError(
                "EV214",
                "A width for all layers leaves nothing to choose here.",
                where="--bits, --weight-bits, --act-bits",
                why=f"{self.fixed_layers} gives each of the {len(modules)} layers its own.",
                try_next="Take layers out of [layer_bits], or leave out the width.",
            )

    @property
    def stated(self) -> tuple[ClassNames | None, str | None]:
        """The class names and the order of class folders that somebody stated; None for neither."""
        return self.classes or None, self.class_order or None

    def differences(self, loaded: LoadedModel, calibration: Mapping[str, Any]) -> list[str]:
        """Return a note for each thing that the recipe knows by hash and that is another here."""
        here = {
            "weights_sha256": loaded.weights_sha256,
            "images_sha256": digest_of(calibration["sha256"]),
        }
        found = {key: (self.kept.get(key, ""), here[key]) for key in _HASHES}
        return [
            f"the {_HASHES[key]} are not those of the recipe {self.file}: "
            f"SHA-256 {new[:12]} instead of {old[:12]}"
            for key, (old, new) in found.items()
            if old and old != new
        ]


def options_from(
    recipe: str | Path | None, *, budget: bool, trust_code: bool = False, **given: Any
) -> Asked:
    """Put together what the caller gives and what a recipe says.

    Args:
        recipe: A TOML file with some of the keys of `Recipe`, None for none.
        budget: A mean width is asked for, which stands for widths as `bits` does.
        trust_code: Whether a function that the recipe names may be imported.
        given: Fields of `Asked`, None for what the caller left open.

    Raises:
        UsageError: The recipe can't be read (EV210), nobody named a model (EV226), the recipe was
            made with a checkpoint file that is not given (EV225), or names code (EV171).
    """
    file = None if recipe is None else Path(recipe)
    given = {key: value for key, value in given.items() if value is not None}
    said = {} if file is None else read_recipe(file)
    if isinstance(given.get("model"), str) and given["model"] != said.get("model"):
        said = {key: value for key, value in said.items() if key not in _OF_THE_MODEL}
    given |= _together(said, given)
    kept = {key: value for key, value in said.items() if key not in given}
    if {"classes", "class_order"} & given.keys():  # two ways to state one thing
        kept = {k: v for k, v in kept.items() if k not in {"classes", "class_order"}}
    if "bits" in given or budget:
        kept = {k: v for k, v in kept.items() if k not in {"weight_bits", "act_bits"}}
    if "weights" not in given:
        kept = {key: value for key, value in kept.items() if key != "weights_key"}
        _check_key(given)
    _check_model(file, kept, given)
    _check_trusted(file, kept, trust_code)
    _check_checkpoint(file, kept, given)
    plain = {k: v for k, v in kept.items() if k not in {"weights", *_HASHES}}
    widths_given = bool(given.keys() & {"bits", "weight_bits", "act_bits"})
    return Asked(**plain, **given, file=file, kept=kept, widths_given=widths_given)


def _check_key(given: Mapping[str, Any]) -> None:
    """Refuse a key of a checkpoint where there is no checkpoint."""
    if given.get("weights_key"):
        raise UsageError(
            "EV178",
            "There is no checkpoint to take those weights from.",
            where=f"--weights-key {given['weights_key']}",
            why="It says which of the weights in a checkpoint file are meant.",
            try_next="--weights FILE beside it, or leave it out.",
        )


def _check_model(file: Path | None, kept: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    if "model" not in kept and "model" not in given:
        raise UsageError(
            "EV226",
            "No model to quantize is named.",
            where="--model",
            why="Neither an option nor a recipe names one."
            if file is None
            else f"{file} names no model.",
            try_next="--model NAME; `edgevit models` lists names.",
        )


def _check_trusted(file: Path | None, kept: Mapping[str, Any], trust_code: bool) -> None:
    """Refuse to import what a file names; a name that the caller typed is his own word."""
    name = kept.get("model", "")
    if ":" not in name or trust_code:
        return
    from edgevit.zoo.loading import is_code

    if is_code(name):
        raise UsageError(
            "EV171",
            "The recipe names code of its own, which is not run unasked.",
            where=f"{file}: model",
            why=f"{name} would be imported and called.",
            try_next=f"Read that code, then --trust-code; or name it yourself: --model {name}.",
        )


def _together(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return tables of which the recipe says one part and the caller another."""
    names = ("model_args", "preprocessing")
    said = {key: dict(recipe.get(key, {})) for key in names}
    if {"input_size", "crop_pct"} & given.get("preprocessing", {}).keys():
        said["preprocessing"].pop("resize_size", None)  # it is that of another size or share
    return {key: {**said[key], **given[key]} for key in names if key in given}


def _check_checkpoint(file: Path | None, kept: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse to take published weights where the recipe was made with others."""
    name = kept.get("weights")
    if name and "pretrained" not in given and isinstance(given.get("model", ""), str):
        raise UsageError(
            "EV225",
            f"The recipe was made with a checkpoint file, {name}.",
            where=f"{file}: weights",
            why="A recipe keeps the name and the hash of a checkpoint, not the weights.",
            try_next=f"--weights path/to/{name}; for the published weights --pretrained.",
        )
