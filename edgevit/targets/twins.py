"""Finds sites that may have twin uniform grids, and says what is missing where a target runs none.

Source: Yuan et al., "PTQ4ViT" (arXiv 2111.12293): behind a softmax and behind a GELU.
"""

from __future__ import annotations

from edgevit.graph.sites import Role, Site
from edgevit.quantizers.spec import GridSpec, Kind, Missing
from edgevit.quantizers.twin import largest_ratio_log2

TWINS: dict[Role, Kind] = {Role.SOFTMAX_OUT: "twin-softmax", Role.GELU_OUT: "twin-gelu"}
OPERAND_MAX = (1 << 11) - 1
"""Largest twin operand: with 8-bit partners, int32 sums hold for up to 8,192 products."""


def wide_twin(role: Role, bits: int) -> GridSpec:
    """Return the twin grid with the largest ratio whose sums still fit int32."""
    kind = TWINS[role]
    ratio = largest_ratio_log2(kind, bits, carrier_max=OPERAND_MAX)
    return GridSpec(kind=kind, bits=bits, max_ratio_log2=ratio)


def missing_twin(
    site: Site, bits: int, offered: tuple[GridSpec, ...], why: str
) -> dict[str, Missing]:
    """Return site name -> the twin grid it has not, nothing where it has one or needs none.

    Args:
        offered: The grids that the target runs there.
        why: Why it runs no twin grid there, as in ``"they need more than 8 bits"``.
    """
    if site.role not in TWINS or any(spec.kind in TWINS.values() for spec in offered):
        return {}
    return {site.name: Missing(spec=wide_twin(site.role, bits), why=why)}
