"""Cells of the tables of methods: what identifies one, which are asked for, which are measured."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rows import read_rows
from subjects import CACHE

from edgevit.calibration.methods import METHODS, method_named

BITS = "8,6,4/8,4,3,2/4"
SEEDS = "0,1,2"
TABLES = ("methods", "real")
"""The small models with their twins, and a real DeiT-Tiny; results/NAME.csv of each."""
NUM_CALIB = 32
"""The number of calibration images that goes without saying."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a row of the table is identified by."""

    model: str
    twin: str
    method: str
    weight_bits: int
    act_bits: int
    num_calib: int
    seed: int

    @staticmethod
    def of(row: dict[str, str]) -> Cell:
        """Return the cell of a CSV row."""
        names = {name: row[name] for name in ("model", "twin", "method")}
        numbers = ("weight_bits", "act_bits", "num_calib", "seed")
        return Cell(**names, **{name: int(row[name]) for name in numbers})  # type: ignore[arg-type]

    @property
    def label(self) -> str:
        """The method, with the number of calibration images where that is unusual."""
        unusual = self.num_calib != NUM_CALIB
        return f"{self.method} ({self.num_calib})" if unusual else self.method

    def path(self, images: str) -> Path:
        """Return where its per-image results on these images are kept."""
        width = f"w{self.weight_bits}a{self.act_bits}"
        parts = (self.model, self.twin, self.method, width, f"n{self.num_calib}", f"s{self.seed}")
        return CACHE / "cells" / images / ("-".join(parts) + ".npz")


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """Yield the cells asked for, seed by seed: a complete table of one draw comes first."""
    for seed, model, twin, bits, method in itertools.product(
        map(int, (options.seeds or SEEDS).split(",")),
        options.models.split(","),
        options.twins.split(","),
        (options.bits or BITS).split(","),
        options.methods.split(",") if options.methods else METHODS,
    ):
        weight, _, act = bits.partition("/")
        own = method_named(method).num_images
        yield Cell(
            model=model,
            twin=twin,
            method=method,
            weight_bits=int(weight),
            act_bits=int(act or weight),
            num_calib=own if options.num_calib == "own" else int(options.num_calib),
            seed=seed,
        )


def is_done(cell: Cell, num_images: int | None, table: str) -> bool:
    """Whether a table has a row of this cell with the same --num-images."""
    asked = str(num_images or "all")
    return any(Cell.of(r) == cell and r["asked_images"] == asked for r in read_rows(table))


def latest_rows(table: str) -> list[dict[str, str]]:
    """Return the rows of a table; of a cell that was measured again, the last row counts."""
    rows = {(Cell.of(r), r["asked_images"]): r for r in read_rows(table)}
    return list(rows.values())


def order(label: str) -> tuple[int, str]:
    """Return where a label stands among all: as `edgevit methods` lists them, unknown ones last."""
    names = list(METHODS)
    name = label.split(" (")[0]
    return (names.index(name) if name in names else len(names), label)
