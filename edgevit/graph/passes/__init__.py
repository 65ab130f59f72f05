"""Graph passes, one idea per file; each is a function ``GraphModule -> number of changes``.

A pass adds operators through `graph.rewrite` only, so that every node's "shape" and "dtype" are
those of the tensor it gives, after each pass and at every batch size.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.fx import GraphModule

from edgevit.graph.passes.attention import open_attention
from edgevit.graph.passes.batch_first import batch_first
from edgevit.graph.passes.batch_norm import batch_norm
from edgevit.graph.passes.broadcast import broadcast
from edgevit.graph.passes.class_token import class_token
from edgevit.graph.passes.dead_code import dead_code
from edgevit.graph.passes.decompose import decompose
from edgevit.graph.passes.drop_identities import drop_identities
from edgevit.graph.passes.fold_constants import fold_constants
from edgevit.graph.passes.fold_scale import fold_scale
from edgevit.graph.passes.folded_batch import folded_batch
from edgevit.graph.passes.layout import layout
from edgevit.graph.passes.linear import linear
from edgevit.graph.passes.masks import fill_masks, split_masks, window_masks
from edgevit.graph.passes.merge_adds import merge_adds
from edgevit.graph.passes.merge_layout import merge_layout
from edgevit.graph.passes.patchify import patchify
from edgevit.graph.passes.pooling import pooling
from edgevit.graph.passes.query_scale import query_scale
from edgevit.graph.passes.select_first import select_first
from edgevit.graph.passes.share_constants import share_constants
from edgevit.graph.passes.tidy import tidy

Pass = Callable[[GraphModule], int]

PASSES: tuple[Pass, ...] = (
    open_attention,
    split_masks,
    fold_constants,
    drop_identities,
    batch_norm,
    decompose,
    layout,
    broadcast,
    class_token,
    folded_batch,
    fill_masks,
    window_masks,
    linear,
    patchify,
    pooling,
    fold_constants,
    drop_identities,
    merge_adds,
    merge_layout,
    batch_first,
    select_first,
    merge_layout,
    query_scale,
    fold_scale,
    merge_layout,
    share_constants,
    tidy,
)


def canonicalise(module: GraphModule) -> None:
    """Run all passes in order, on a module made by `passes.intake`.

    Raises:
        UnsupportedError: EV303, EV304, EV316.
    """
    for each in PASSES:
        if each(module):
            dead_code(module)
    module.recompile()


def finish(module: GraphModule) -> None:
    """Drop what no output needs any more, and renumber what is left."""
    dead_code(module)
    tidy(module)
    module.recompile()
