"""The kernels of one engine as JSON, and what became of each product of a bundle in them.

A bundle keeps one table for each form that was compiled, in `kernels.json`; a board sends back the
same table of the engine that it built itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgevit.runner.engines.tensorrt.inspecting import EngineLayer, LayerOperand


@dataclass(frozen=True)
class KernelTable:
    """The kernels of one engine.

    Args:
        variant: Form of the model, such as "int8".
        engine: What made it, such as "tensorrt_rtx 1.7.1.116".
        capabilities: What it was compiled for, such as ("SM89",).
        max_batch: Largest batch of the engine; -1 in a shape stands for what follows the batch.
        layers: The kernels in the order in which they run.
        list_sha256: SHA-256 of the compiler's list; empty where it is from an inspector.
    """

    variant: str
    engine: str
    capabilities: tuple[str, ...]
    max_batch: int
    layers: tuple[EngineLayer, ...] = field(repr=False)
    list_sha256: str = ""

    @property
    def num_kernels(self) -> int:
        """Number of kernels that run."""
        return sum(layer.runs for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return asdict(self)


def kernel_table(content: Mapping[str, Any]) -> KernelTable:
    """Return the table that `KernelTable.to_dict` wrote.

    Raises:
        KeyError, TypeError, ValueError: It is not one.
    """
    layers = tuple(_layer(one) for one in content["layers"])
    return KernelTable(
        str(content["variant"]),
        str(content["engine"]),
        tuple(map(str, content["capabilities"])),
        int(content["max_batch"]),
        layers,
        str(content["list_sha256"]),
    )


def tables_for(contents: Iterable[Mapping[str, Any]], capability: str) -> dict[str, KernelTable]:
    """Return variant -> its kernels on a card; on the first card where there are none for it.

    Args:
        contents: What `KernelTable.to_dict` wrote, as a bundle keeps it.
        capability: The card, such as "SM89"; empty for any.
    """
    tables = [kernel_table(content) for content in contents]
    others_first = sorted(reversed(tables), key=lambda table: capability in table.capabilities)
    by_variant = {table.variant: table for table in others_first}
    return {table.variant: by_variant[table.variant] for table in tables}


def _layer(content: Mapping[str, Any]) -> EngineLayer:
    return EngineLayer(
        name=str(content["name"]),
        kind=str(content["kind"]),
        inputs=_operands(content["inputs"]),
        constants=_operands(content["constants"]),
        outputs=_operands(content["outputs"]),
        tactic=str(content["tactic"]),
        onnx_nodes=tuple(map(str, content["onnx_nodes"])),
    )


def _operands(content: Any) -> tuple[LayerOperand, ...]:
    return tuple(
        LayerOperand(str(one["name"]), str(one["precision"]), tuple(map(int, one["shape"])))
        for one in content
    )
