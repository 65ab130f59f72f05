"""`Graph`: the canonical ATen graph of a vision transformer with its gemms and sites.

It is what calibration, the quantized simulation and the lowering to ONNX all work on.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgevit.data.tasks import LOGITS
from edgevit.graph.outputs import output_nodes
from edgevit.graph.roles import Gemm, Kind, Role, Site
from edgevit.graph.shapes import Shape, shape_of
from edgevit.graph.sites import find_gemms
from edgevit.graph.window import kernels_of, rows_of

__all__ = ["Gemm", "Graph", "Kind", "Role", "Site"]


@dataclass(kw_only=True)
class Graph:
    """A canonical graph.

    Args:
        module: ATen operators only; constants are buffers reached by get_attr; one placeholder
            "image" float32 [B, 3, H, W]; one output, such as logits float32 [B, classes], or a
            tuple of several.
        input_size: (3, H, W).
        outputs: Names of the outputs; the first is the main one.
        notes: What the model returns beside them and why it was left out.
        gemms: All products in execution order; made by `refresh`.
        version: Grows with every rewrite; what was made from the graph before is stale then.
    """

    module: GraphModule
    input_size: tuple[int, int, int]
    outputs: tuple[str, ...] = (LOGITS,)
    notes: tuple[str, ...] = ()
    gemms: tuple[Gemm, ...] = field(init=False, default=())
    version: int = field(init=False, default=0, compare=False)

    def __post_init__(self) -> None:
        self.refresh()

    def forward(self, image: Tensor) -> Tensor:
        """Return the main output of images float32 [B, 3, H, W]: of classifiers the logits."""
        return self.forward_all(image)[self.outputs[0]]

    def forward_all(self, image: Tensor) -> dict[str, Tensor]:
        """Return every output, float32 [B, ...], by name."""
        found = self.module(image)
        values = (found,) if isinstance(found, Tensor) else found
        return dict(zip(self.outputs, values, strict=True))

    @property
    def output_shapes(self) -> dict[str, Shape]:
        """Name -> shape of every output, -1 for the batch in front."""
        nodes = output_nodes(self.module)
        return {name: shape_of(node) for name, node in zip(self.outputs, nodes, strict=True)}

    @property
    def is_classifier(self) -> bool:
        """Return whether its one output is logits [B, classes]."""
        return self.outputs == (LOGITS,) and len(self.output_shapes[LOGITS]) == 2

    def constant(self, name: str) -> Tensor:
        """Return a constant by its name (a get_attr node's target)."""
        return self.module.get_buffer(name)

    def weight(self, gemm: Gemm) -> Tensor:
        """Return the weight of a linear, float32 [out, in], or of a convolution [out, kh kw C].

        Raises:
            ValueError: It is a product of two activations.
        """
        if gemm.weight is None:
            raise ValueError(f"{gemm.module}: a product without a weight")
        weight = self.constant(gemm.weight)
        return weight if gemm.window is None else rows_of(weight)

    def bias(self, gemm: Gemm) -> Tensor:
        """Return the bias of a linear, float32 [out]; ValueError as for `weight`."""
        weight = self.weight(gemm)
        return weight.new_zeros(len(weight)) if gemm.bias is None else self.constant(gemm.bias)

    def stored(self, gemm: Gemm) -> Tensor | None:
        """Return the operand that is a constant: a linear's weight or another's table, or None."""
        if gemm.weight is not None or gemm.constant is None:
            return None if gemm.weight is None else self.constant(gemm.weight)
        producer = (gemm.left, gemm.right)[gemm.constant].producer
        node = next(node for node in self.module.graph.nodes if node.name == producer)
        return self.constant(str(node.target))

    def set_weight(self, gemm: Gemm, value: Tensor) -> None:
        """Replace the weight by another of the shape and dtype that `weight` returns."""
        if gemm.window is not None:
            value = kernels_of(value, tuple(self.constant(str(gemm.weight)).shape))
        self.set_constant(str(gemm.weight), value)

    def set_bias(self, gemm: Gemm, value: Tensor) -> None:
        """Replace the bias of a linear, which every canonical one has."""
        self.set_constant(str(gemm.bias), value)

    def set_constant(self, name: str, value: Tensor) -> None:
        """Replace a constant by another of the same shape and dtype."""
        old = self.module.get_buffer(name)
        if old.shape != value.shape or old.dtype != value.dtype:
            raise ValueError(
                f"{name}: {tuple(value.shape)} {value.dtype} can't replace "
                f"{tuple(old.shape)} {old.dtype}"
            )
        setattr(self.module, name, value.detach().to(old.device).contiguous())
        self.version += 1

    def gemm(self, name: str) -> Gemm:
        """Return the gemm of this fx node name; KeyError if there is none."""
        for gemm in self.gemms:
            if gemm.name == name:
                return gemm
        raise KeyError(name)

    def site(self, name: str) -> Site:
        """Return the site of this name; KeyError if there is none."""
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(name)

    @property
    def sites(self) -> tuple[Site, ...]:
        """All operands of all gemms in execution order."""
        return tuple(site for gemm in self.gemms for site in (gemm.left, gemm.right))

    def refresh(self) -> None:
        """Recompile the module and recompute gemms and sites after a rewrite."""
        self.module.eval()
        self.module.graph.lint()
        self.module.recompile()
        self.gemms = find_gemms(self.module)
        self.version += 1

    def clone(self) -> Graph:
        """Return a copy that can be rewritten without changing this graph.

        Constants are shared until `set_constant` replaces them; nobody changes them in place.
        """
        shared = {id(buffer): buffer for buffer in self.module.buffers()}
        with torch.no_grad():
            module = copy.deepcopy(self.module, shared)
        return Graph(
            module=module, input_size=self.input_size, outputs=self.outputs, notes=self.notes
        )
