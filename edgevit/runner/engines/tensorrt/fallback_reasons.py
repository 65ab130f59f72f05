"""The known reasons for which a product that asks for 8 bits gets no such kernel, and their mends.

Each pattern is what NVIDIA's compiler makes of a graph that was built wrongly on purpose, read from
its kernels alone, so that a board's engine tells the same: see test_fallbacks_compiled.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable

from edgevit.runner.engines.tensorrt.inspecting import CODES, EngineLayer, LayerOperand

_FLOATS = {"fp16", "bf16", "fp32"}


@dataclass(frozen=True)
class Evidence:
    """An engine's kernels around one product that is not as asked.

    Args:
        asked: Precision the graph asks for: "int8" or "fp8".
        layer: The kernel that computes it; None if no kernel names it.
        before: The kernels whose results it reads.
    """

    asked: str
    layer: EngineLayer | None
    before: tuple[EngineLayer, ...] = ()

    @property
    def chosen(self) -> str:
        """The precision it is computed in; empty where that is not told."""
        return self.layer.precision if self.layer else ""

    @property
    def inputs(self) -> tuple[LayerOperand, ...]:
        """Operands that enter the kernel, the weights stored in it left out."""
        return () if self.layer is None else self.layer.inputs

    @property
    def read(self) -> set[str]:
        """Precisions of the matrices that enter the kernel."""
        return _precisions(self.inputs)

    @property
    def stored(self) -> set[str]:
        """Precisions of the matrices that are stored in the kernel."""
        return set() if self.layer is None else _precisions(self.layer.constants)

    @property
    def weight_makers(self) -> list[EngineLayer]:
        """Kernels in front that make floats of stored codes: its weight, dequantized there."""
        makers = [one for one in self.before if _precisions(one.constants) & CODES]
        return [one for one in makers if not one.holds_product]


@dataclass(frozen=True)
class Pattern:
    """A known cause.

    Args:
        name: A word or two for it.
        holds: Whether an engine shows it.
        why: The cause; {asked} and {chosen} stand for precisions.
        mend: What to do about it; empty where nobody knows.
    """

    name: str
    holds: Callable[[Evidence], bool]
    why: str
    mend: str

    def text(self, found: Evidence) -> str:
        """Return cause and mend in two sentences."""
        why = self.why.format(asked=found.asked, chosen=found.chosen or "float")
        return f"{why}. {self.mend}." if self.mend else why


PATTERNS = (
    Pattern(
        "fused away",
        lambda found: found.layer is None,
        "fused away: no kernel of the engine names it",
        "",
    ),
    Pattern(
        "another width",
        lambda found: found.chosen in CODES,
        "runs in {chosen}",
        "",
    ),
    Pattern(
        "not told",
        lambda found: not found.chosen,
        "the engine does not tell its precision (built without detailed verbosity)",
        "",
    ),
    Pattern(
        "scales inside the sum",
        lambda found: bool(found.read and found.stored) and found.read | found.stored <= CODES,
        "its codes are dequantized inside the kernel: a scale differs along the axis that is summed"
        " over",
        "One scale for the whole activation, one per output channel of the weight (axis 1 of"
        " [in, out])",
    ),
    Pattern(
        "weight rearranged",
        lambda found: any(not one.inputs for one in found.weight_makers),
        "a kernel of its own dequantizes and rearranges its weight in front of the product, as"
        " where its output is cut apart",
        "Cut the output along whole heads ([B, N, 3 H, D], axis 2), or give every part a product"
        " and a weight of its own behind one shared Q/DQ",
    ),
    Pattern(
        "weight computed",
        lambda found: bool(found.weight_makers),
        "its weight is not constant: a kernel multiplies it by something computed from the image",
        "Keep weight and scales constant, and multiply the product's result instead",
    ),
    Pattern(
        "weight in float",
        lambda found: found.read <= CODES and bool(found.read and found.stored & _FLOATS),
        "its weight is stored in {chosen}, only its input has codes",
        "Store the weight as codes with a DequantizeLinear directly in front of the product",
    ),
    Pattern(
        "input changed behind its DQ",
        lambda found: bool(found.stored & CODES) and any(_rounds(one) for one in found.before),
        "something stands between the DequantizeLinear of its input and the product",
        "Put it in front of the QuantizeLinear, as clipping is, or behind the product",
    ),
    Pattern(
        "input in float",
        lambda found: bool(found.stored & CODES and found.read & _FLOATS),
        "its input arrives as {chosen}: no QuantizeLinear and DequantizeLinear stand directly in"
        " front of it",
        "Round the input too, or leave the weight in float",
    ),
    Pattern(
        "one operand in float",
        lambda found: bool(found.read & CODES and found.read & _FLOATS),
        "one of its two operands has codes, the other arrives as {chosen}",
        "Put a QuantizeLinear and a DequantizeLinear in front of both, or of none",
    ),
    Pattern(
        "reformat",
        lambda found: any(one.only_moves for one in found.before),
        "reformat: its input is converted to {chosen} first",
        "",
    ),
    Pattern(
        "no kernel",
        lambda found: any(one.precision in CODES for one in found.inputs),
        "no kernel: {asked} input, but TensorRT chose one for {chosen}",
        "",
    ),
    Pattern(
        "not fused",
        lambda found: True,
        "its input stays {chosen}: the Q/DQ around it did not fuse",
        "",
    ),
)
"""The first that holds is the reason; the last one always does."""


def reason_for(found: Evidence) -> str:
    """Return why a product is not as asked, and what to do about it where that is known."""
    return next(pattern.text(found) for pattern in PATTERNS if pattern.holds(found))


def _precisions(operands: Iterable[LayerOperand]) -> set[str]:
    """Return the precisions of what is more than a scale or a bias."""
    return {one.precision for one in operands if one.is_matrix}


def _rounds(layer: EngineLayer) -> bool:
    """Return whether a kernel rounds a tensor and writes it as floats again."""
    return "Roun" in layer.name and not {one.precision for one in layer.outputs} & CODES
