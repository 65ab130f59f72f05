"""The values of a bundle's graph and how many elements each has per image.

Whoever sees only the kernels that an engine made of a graph finds here how large a tensor is whose
first dimension the engine writes as -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Mapping

from edgevit.bundle.cost import add_output, inputs_of
from edgevit.bundle.graph import MAX_GRAPH_BYTES
from edgevit.bundle.manifest import GRAPH, MAIN_VARIANT
from edgevit.bundle.opening import _graphs, check_skeleton
from edgevit.bundle.shape_rules import Value, count
from edgevit.bundle.variants import variant_of

if TYPE_CHECKING:
    from edgevit.bundle.opening import Bundle


@dataclass(frozen=True)
class GraphValues:
    """A graph as far as sizes go; a node has the name of the value that it writes.

    Args:
        reads: Node -> the values that it reads, in the order in which the nodes are written.
        per_image: Value -> elements per image; those that do not depend on the image are left out.
        image: Name of the input.
        outputs: Names of the outputs.
    """

    reads: Mapping[str, tuple[str, ...]]
    per_image: Mapping[str, int]
    image: str
    outputs: frozenset[str]


def graph_values(bundle: Bundle, variant: str) -> GraphValues:
    """Return the values of one variant's graph.

    Raises:
        BundleError: A file changed since opening (EV405, EV408) or its shapes don't fit (EV419).
        UsageError: There is no such variant (EV416).
    """
    main = variant == MAIN_VARIANT
    name = GRAPH if main else variant_of(bundle.manifest, variant)["graph"]
    tensors = dict(_graphs(bundle))[name]
    graph = check_skeleton(bundle._read(name, MAX_GRAPH_BYTES), tensors, name)
    stored = {key: Value(one.shape, one.dtype, is_constant=True) for key, one in tensors.items()}
    values = inputs_of(graph, stored, name)
    for node in graph.nodes:
        add_output(node, values, name)
    counts = {key: count(value.shape) for key, value in values.items()}
    return GraphValues(
        reads={node.output: node.inputs for node in graph.nodes},
        per_image={key: -size for key, size in counts.items() if size < 0},
        image=graph.image[0],
        outputs=frozenset(graph.outputs),
    )
