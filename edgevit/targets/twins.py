"""The twin uniform grid (`quantizers.twin`) that a site goes without where a target runs none."""

from __future__ import annotations

from edgevit.graph.sites import Site
from edgevit.quantizers.spec import GridSpec, Missing
from edgevit.quantizers.twin import TwinGrid


def missing_twin(
    site: Site, bits: int, offered: tuple[GridSpec, ...], why: str
) -> dict[str, Missing]:
    """Return site name -> the twin grid it has not, nothing where it has one or needs none.

    Args:
        offered: The grids that the target runs there.
        why: Why it runs no twin grid there, as in ``"they need more than 8 bits"``.
    """
    wanted = TwinGrid.specs_at(site.role, bits)
    if not wanted or any(spec.kind in TwinGrid.kinds for spec in offered):
        return {}
    return {site.name: Missing(spec=wanted[0], why=why)}
