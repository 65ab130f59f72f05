"""`graph_from_module`: from any torch vision transformer to its canonical graph.

`torch.export` records the model once with a symbolic batch; the passes of `graph.passes` then
bring what timm, torchvision and transformers write differently to one form.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._decomp import get_decompositions
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from edgevit.errors import UnsupportedError
from edgevit.graph.model import Graph
from edgevit.graph.operators import aten
from edgevit.graph.outputs import Asked, Outputs, Selection, keep_outputs, output_nodes
from edgevit.graph.passes import canonicalise, finish
from edgevit.graph.passes.intake import module_from_program
from edgevit.graph.verify import check_against, check_operators

_TRACE_BATCH = 2  # 0 and 1 are sizes torch.export specialises on


def graph_from_module(
    model: nn.Module,
    input_size: tuple[int, int, int],
    *,
    check: bool = True,
    outputs: Asked = None,
) -> Graph:
    """Return the canonical graph of `model`, which is left as it was.

    Args:
        model: Takes float32 images [B, 3, H, W]; returns logits [B, classes], or float tensors of
            any shape with the batch in front, alone or in a tuple, dict or ModelOutput.
        input_size: (3, H, W).
        check: Compare the graph's outputs with the model's at batches 1 and 7.
        outputs: Names of what to keep of what the model returns (see `graph.outputs`), the main
            one first; "all"; left out, the logits [B, classes] if it returns some, by that name or
            first, and otherwise all.

    Raises:
        UnsupportedError: The model can't be captured (EV301), returns no output (EV302) or not
            those asked for (EV350), mixes the batch with something else (EV303), contains an
            operator without a canonical form (EV304, EV316), its graph computes something else
            (EV305), or its outputs are not finite (EV309).
    """
    model = _float32_on_cpu(model)
    with _evaluate(model), torch.no_grad():
        wrapped = Outputs(model, Selection(asked=outputs))
        program = _export(wrapped, input_size)
        module = module_from_program(program, prefix="model")
        canonicalise(module)
        _drop_constant(module, wrapped.selection)
        check_operators(module)
        selection = wrapped.selection
        graph = Graph(
            module=module,
            input_size=input_size,
            outputs=selection.names,
            notes=tuple(selection.notes),
        )
        if check:
            check_against(graph, wrapped)
    return graph


def _drop_constant(module: GraphModule, selection: Selection) -> None:
    """Leave out what is the same for every image, which is folded into a constant."""
    nodes = output_nodes(module)
    constant = [at for at, node in enumerate(nodes) if node.op == "get_attr"]
    if constant:
        selection.drop(constant, "does not depend on the image")
        keep_outputs(module, [at for at in range(len(nodes)) if at not in constant])
        finish(module)


def _float32_on_cpu(model: nn.Module) -> nn.Module:
    """Return the model itself, or a float32 copy on the CPU if it is anything else."""
    tensors = [*model.parameters(), *model.buffers()]
    fits = all(
        t.device.type == "cpu" and (not t.is_floating_point() or t.dtype == torch.float32)
        for t in tensors
    )
    return model if fits else copy.deepcopy(model).cpu().float()


@contextmanager
def _evaluate(model: nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode and restore the modes afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


_DECOMPOSED = (
    aten.einsum.default,
    aten.square.default,
    aten.addcmul.default,
    aten.baddbmm.default,
    aten.repeat_interleave.self_int,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.glu.default,
    aten.mish.default,
)
"""Operators that torch writes with others that have a canonical form."""


def _decompositions() -> dict[Any, Any]:
    known = {**get_decompositions(_DECOMPOSED), **torch.export.default_decompositions()}
    return {each: known[each] for each in _DECOMPOSED}


def _export(model: nn.Module, input_size: tuple[int, int, int]) -> ExportedProgram:
    image = torch.zeros(_TRACE_BATCH, *input_size)  # [B, 3, H, W]
    shapes = ({0: Dim("batch")},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about its own internals
            program = torch.export.export(model, (image,), dynamic_shapes=shapes, strict=False)
            functional: ExportedProgram = program.run_decompositions(_decompositions())
            return functional
    except UnsupportedError:
        raise
    except Exception as cause:  # torch.export raises a dozen unrelated classes
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise UnsupportedError(
            "EV301",
            "torch.export can't capture this model.",
            where=type(model.model).__name__,
            why=f"{type(cause).__name__}: {lines[0]}",
            try_next=f"Check that it takes images of size {input_size} at any batch size, and "
            "that its control flow doesn't depend on the values of tensors.",
        ) from cause
