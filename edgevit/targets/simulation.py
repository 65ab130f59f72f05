"""The `simulation` target: every grid there is, for comparing methods; it can't be deployed.

Published methods use grids that no integer kernel here runs: logarithmic softmax, asymmetric
weights, twin steps of any ratio. This target offers them next to all that `cpu` offers, in `cpu`'s
order of preference, so that such methods can be judged on the same graph, sites and images.
"""

from __future__ import annotations

from dataclasses import replace

from edgevit.errors import UnsupportedError
from edgevit.graph.model import Graph
from edgevit.graph.sites import Role
from edgevit.quantizers.base import Grid, grid_classes
from edgevit.quantizers.quantized_graph import QuantizedGraph
from edgevit.quantizers.spec import MAX_BITS, GridSpec, Placement
from edgevit.quantizers.uniform import UniformGrid
from edgevit.targets.base import Lowered
from edgevit.targets.cpu.target import CpuTarget
from edgevit.targets.widths import NO_LAYER_BITS, LayerBits

NAMES = ("simulation",)


def _is_offered(grid: type[Grid]) -> bool:
    return any(grid.specs_at(role, MAX_BITS) for role in Role)


class SimulationTarget:
    """All grids, no device."""

    name = "simulation"
    widths = CpuTarget.widths
    engine = "torch"
    precisions: tuple[str, ...] = ()
    computed_bits = 0
    seen_to_run = "runs wherever torch does"
    description = "Every grid, simulated in torch; for comparing methods, can't be deployed"

    def __init__(self) -> None:
        self._cpu = CpuTarget()
        more = (kind for kind, grid in grid_classes().items() if _is_offered(grid))
        self.grids: tuple[str, ...] = tuple(dict.fromkeys((*CpuTarget.grids, *more)))

    def prepare(self, graph: Graph) -> Graph:
        """Return the graph as the cpu target prefers it, so that both quantize the same sites."""
        return self._cpu.prepare(graph)

    def check_graph(self, graph: Graph) -> None:
        """Do nothing: torch runs every graph."""

    def place(
        self,
        graph: Graph,
        *,
        weight_bits: int,
        act_bits: int,
        float_layers: tuple[str, ...] = (),
        layer_bits: LayerBits = NO_LAYER_BITS,
    ) -> Placement:
        """Offer what cpu offers, and after it everything that only a simulation runs."""
        placement = self._cpu.place(
            graph,
            weight_bits=weight_bits,
            act_bits=act_bits,
            float_layers=float_layers,
            layer_bits=layer_bits,
        )
        roles = {site.name: site.role for site in graph.sites}
        options = {
            name: _extend(roles[name], offered) for name, offered in placement.options.items()
        }
        return replace(placement, target=self.name, options=options, missing={}, float_parts=None)

    def variants(self, graph: Graph, placement: Placement) -> dict[str, Placement]:
        """Return none: there is one form."""
        return {}

    def same_integers(self, quantized: QuantizedGraph) -> dict[str, QuantizedGraph]:
        """Return none: one is enough."""
        return {}

    def check_deployable(self) -> None:
        """Refuse before any work: there is no device.

        Raises:
            UnsupportedError: Always (EV308).
        """
        raise _no_device()

    def lower(self, quantized: QuantizedGraph) -> Lowered:
        """Refuse: there is no device.

        Raises:
            UnsupportedError: Always (EV308).
        """
        raise _no_device()

    def with_kernels(self, lowered: Lowered, variant: str) -> Lowered:
        """Refuse: there is no device.

        Raises:
            UnsupportedError: Always (EV308).
        """
        raise _no_device()

    def reference(self, graph: Graph) -> Lowered:
        """Refuse: there is no device.

        Raises:
            UnsupportedError: Always (EV308).
        """
        raise _no_device()


TARGETS = (SimulationTarget(),)


def _extend(role: Role, offered: tuple[GridSpec, ...]) -> tuple[GridSpec, ...]:
    """Return the grids of a site: cpu's, uneven ones in their widest form, and all others."""
    grids, bits = dict.fromkeys(grid_classes().values()), offered[0].bits
    more = [spec for grid in grids for spec in grid.specs_at(role, bits)]
    uniform = [spec for spec in offered if spec.kind in UniformGrid.kinds]
    known = set(CpuTarget.grids).difference(UniformGrid.kinds)
    wider = [spec for spec in more if spec.kind in known]
    kinds = {spec.kind for spec in (*uniform, *wider)}
    rest = [spec for spec in offered if spec.kind not in kinds]
    return (*uniform, *wider, *rest, *(spec for spec in more if spec.kind not in known))


def _no_device() -> UnsupportedError:
    return UnsupportedError(
        "EV308",
        "Target 'simulation' can't be deployed.",
        where="--target simulation",
        why="It is for comparing methods in simulation only; some of its grids run nowhere.",
        try_next="`edgevit simulate` measures it; to deploy, --target cpu and a method that has no "
        "need of other grids.",
    )
