"""What NVIDIA's compiler makes of a graph: refused, or which products and attentions are lost."""

from dataclasses import dataclass

from edgevit.errors import EdgeViTError
from edgevit.runner.engines.tensorrt.inspecting import attention_kernels
from edgevit.runner.engines.tensorrt_rtx.compiling import compiled_from_onnx
from edgevit.targets.tensorrt.conformance.attention import attentions
from edgevit.targets.tensorrt.conformance.operands import products
from edgevit.targets.tensorrt.conformance.view import GraphView

LOW = ("int8", "fp8")


@dataclass(frozen=True)
class Verdict:
    """
    Args:
        refused: Code of the error; empty if there is an engine.
        in_float: Names of products with a dequantized operand whose kernel multiplies floats.
        unfused: Quantized attentions that are not one kernel.
        kernels: How many kernels the engine has.
    """

    refused: str = ""
    in_float: tuple[str, ...] = ()
    unfused: int = 0
    kernels: int = 0

    @property
    def is_fault(self):
        return bool(self.refused or self.in_float or self.unfused)


def verdict(model, capability):
    try:
        layers = compiled_from_onnx(model.SerializeToString(), (capability,)).layers
    except EdgeViTError as error:
        return Verdict(refused=error.code)
    view = GraphView(model)
    by_node = {}
    for layer in sorted(layers, key=lambda layer: layer.holds_product):
        by_node |= dict.fromkeys(layer.onnx_nodes, layer)
    asked = [one for one in products(view) if any(x.dequantizer for x in one.operands)]
    kernels = {one.node.name: by_node.get(one.node.name) for one in asked}
    in_float = tuple(name for name, kernel in kernels.items() if _multiplies_floats(kernel))
    quantized = sum(bool(found.code_types) for found in attentions(view))
    whole = sum(1 for _ in attentions(view))
    unfused = min(quantized, whole - attention_kernels(layers))
    return Verdict(in_float=in_float, unfused=unfused, kernels=len(layers))


def _multiplies_floats(kernel):
    """None: an equal product is computed elsewhere."""
    return kernel is not None and kernel.precision not in LOW
