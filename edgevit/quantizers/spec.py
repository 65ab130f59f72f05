"""Grid specifications, and the Placement a target offers: what may be quantized and how.

A `Placement` is the language calibration and targets share: for every site the grids that the
target runs exactly, best first. Calibration picks one of them; it can't pick anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgevit.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from edgevit.graph.interpret import Parts
    from edgevit.graph.model import Graph

Kind = str
"""Name of a kind of grid, one of `edgevit.quantizers.base.grid_classes`."""
FloatType = Literal["float32", "float16"]
FloatParts = Callable[["Graph", Mapping[str, Any]], "Parts"]
"""Gives what an engine runs in float, computed as it does: (graph, name -> layer) -> parts."""
Granularity = Literal["tensor", "channel"]
MIN_BITS, MAX_BITS = 2, 8


def check_bits(bits: int, where: str) -> int:
    """Return `bits` when it is a width EdgeViT has grids for (2 to 8).

    Raises:
        UsageError: Otherwise (EV201).
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise UsageError(
            "EV201",
            f"{bits!r} bits is not a width EdgeViT quantizes to.",
            where=where,
            why=f"Grids exist for whole numbers from {MIN_BITS} to {MAX_BITS}.",
            try_next="--bits 8 is the safest, --bits 6 the default, --bits 4 the smallest useful.",
        )
    return bits


@dataclass(frozen=True, kw_only=True)
class GridSpec:
    """One kind of number grid, before calibration gives it a scale.

    Args:
        kind: "uniform", one of the two twin uniform grids of PTQ4ViT, a codebook on an 8-bit
            uniform grid, a logarithmic grid, or the 8-bit floating point numbers E4M3 times a
            scale.
        bits: Width k of a code; the grid has at most 2^k levels.
        signed: Codes in [-2^(k-1), 2^(k-1)-1] (carried in s8), else in [0, 2^k-1] (in u8).
        symmetric: The zero point is fixed: 0 if signed, 2^(k-1) if not.
        zero_at_bottom: The zero point is fixed at 0 although codes are unsigned (softmax).
        granularity: One scale per tensor or per channel along axis 0.
        max_ratio_log2: Twin grids: the largest m of the step ratio 2^m the target can carry.
        narrow: Signed codes leave out -2^(k-1), so that both signs reach equally far.
        fixed_top: The scale is not calibrated: the largest code stands for this value.
        level_bits: Codebooks: levels are codes of this width, of 8 at most.
    """

    kind: Kind = "uniform"
    bits: int
    signed: bool = False
    symmetric: bool = False
    zero_at_bottom: bool = False
    granularity: Granularity = "tensor"
    max_ratio_log2: int = 0
    narrow: bool = False
    fixed_top: float | None = None
    level_bits: int = MAX_BITS

    def __post_init__(self) -> None:
        check_bits(self.bits, "GridSpec.bits")

    @property
    def qmin(self) -> int:
        """Smallest code."""
        if not self.signed:
            return 0
        return -(1 << (self.bits - 1)) + int(self.narrow)

    @property
    def qmax(self) -> int:
        """Largest code."""
        return (1 << (self.bits - int(self.signed))) - 1

    @property
    def carrier(self) -> str:
        """The 8-bit integers that hold a code at run time."""
        return "s8" if self.signed else "u8"

    @property
    def fixed_zero_point(self) -> int | None:
        """The zero point where the specification fixes it, else None."""
        if self.signed or self.zero_at_bottom:
            return 0
        return 1 << (self.bits - 1) if self.symmetric else None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)

    def label(self) -> str:
        """Return a short name for tables, such as ``asymmetric`` or ``twin 2^3``."""
        if self.kind != "uniform":
            return self.kind
        if self.fixed_zero_point is None:
            return "asymmetric"
        return "unsigned" if self.zero_at_bottom else "symmetric"


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A grid that some methods would use at a site if the target ran it there.

    Args:
        spec: The grid.
        why: Why the target does not run it, as the end of a sentence.
    """

    spec: GridSpec
    why: str


@dataclass(kw_only=True)
class Placement:
    """The sites that get a grid on a target, and the grids it offers for each.

    Args:
        target: Name of the target that made it.
        weight_bits, act_bits: The widths asked for.
        options: Site name -> the grids the target runs exactly there, preferred first.
        skipped: Site name -> why it stays in float.
        missing: Site name -> a grid not offered that some methods would use there.
        notes: Counted warnings that go into the report.
        float_type: Type of everything between the products. With "float16" scales are float16
            numbers too, and what would leave its range stays in float32.
        float_parts: What computes everything between the products as the target's engine does;
            None leaves it to torch, whose last bits are others.
    """

    target: str
    weight_bits: int
    act_bits: int
    options: dict[str, tuple[GridSpec, ...]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: dict[str, Missing] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    float_type: FloatType = "float32"
    float_parts: FloatParts | None = None

    def offers(self, site: str, kind: Kind) -> GridSpec | None:
        """Return the first grid of this kind offered for the site, or None."""
        return next((spec for spec in self.options.get(site, ()) if spec.kind == kind), None)

    def require(self, site: str, wanted: Callable[[GridSpec], bool], what: str) -> GridSpec:
        """Return the first grid offered for the site that is wanted.

        A method that can't do with less asks before it looks at any image.

        Args:
            site: Name of a site that is not left in float.
            wanted: Whether a grid will do.
            what: The method and the grid in words, as in ``"repq-vit needs a log-sqrt2 grid"``.

        Raises:
            UnsupportedError: The target runs no such grid exactly there (EV306).
        """
        offered = self.options.get(site, ())
        for spec in offered:
            if wanted(spec):
                return spec
        listed = ", ".join(spec.label() for spec in offered) or "nothing"
        raise UnsupportedError(
            "EV306",
            f"{what}, which target {self.target!r} does not run.",
            where=site,
            why=f"Grids that run exactly there on {self.target!r}: {listed}.",
            try_next="`edgevit simulate` measures it without a device; to deploy, take another "
            "method (`edgevit methods` lists them).",
        )
