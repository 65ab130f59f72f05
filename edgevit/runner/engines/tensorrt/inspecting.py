"""Reads what TensorRT tells of an engine: the inspector's JSON and per-layer times.

Spellings changed over the versions: "Bindings" became "I/O Tensors", data types are "Half" or
"Row major linear FP16 format", an engine built without detailed verbosity lists only names, and
Myelin, TensorRT's fuser, names its layers after the operations in them
("__myl_AddCastMean_myl0_8") and after ONNX nodes with "." replaced by "_".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from edgevit.errors import DeviceError

_PRECISIONS = (  # tried in this order: "FP8" must not be taken for "FP16" and so on
    ("fp8", r"fp8|e4m3"),
    ("fp4", r"fp4|e2m1"),
    ("int8", r"int8"),
    ("bf16", r"bf16|bfloat16"),
    ("fp16", r"fp16|half"),
    ("fp32", r"fp32|float|tf32"),
    ("int64", r"int64"),
    ("int32", r"int32"),
    ("bool", r"bool"),
)
_TACTIC_PRECISIONS = (
    ("fp8", r"e4m3|fp8"),
    ("int8", r"i8i8|int8|imma|s8s8"),
    ("bf16", r"bf16"),
    ("fp16", r"f16f16|h16816|h884|fp16"),
    ("fp32", r"f32f32|sgemm|tf32"),
)
_PRODUCTS = {"Fc", "Conv", "Matm", "Gemm"}
CODES = frozenset({"int8", "fp8", "fp4"})
"""Precisions of codes; a kernel computes in them or dequantizes them first."""
_NOT_KERNELS = ("constant", "noop", "signal", "wait")
_NARROWEST_FIRST = ("fp4", "int8", "fp8", "fp16", "bf16", "fp32")
ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_HASH = re.compile(r"_0x[0-9a-f]+")  # its digits may spell "bf16"
_MYELIN = re.compile(r"__myl_((?:[A-Z][a-z0-9]*)+)")
_MOVING = {"Cast", "Move", "Resh", "Tran", "Conc", "Repl", "Slic", "Copy", "Quan", "Dequ"}
_ATTENTION_NAME = re.compile(r"_*(?:gemm_|kgen_)?f?mha", re.IGNORECASE)  # not "layers/mha/query"
_ATTENTION_TACTIC = re.compile(r"mha", re.IGNORECASE)


@dataclass(frozen=True)
class LayerOperand:
    """A tensor that enters or leaves a layer.

    Args:
        name: Its name in the engine.
        precision: Such as "int8", "fp16"; empty if it is not told.
        shape: Its size; empty if it is not told.
    """

    name: str
    precision: str
    shape: tuple[int, ...]

    @property
    def is_matrix(self) -> bool:
        """Return whether it is more than a scale or a bias."""
        return sum(size != 1 for size in self.shape) > 1


@dataclass(frozen=True)
class EngineLayer:
    """One kernel (or group of them) of an engine.

    Args:
        name: Its name, the same as in a profile.
        kind: TensorRT's layer type such as "gemm", "kgen", "Reformat"; empty if not told.
        inputs: What enters it; weights are often left out.
        constants: Its weights, scales and other constants, as far as they are told.
        outputs: What leaves it.
        tactic: Name of the chosen kernel.
        onnx_nodes: Names of the ONNX nodes that became part of it.
    """

    name: str
    kind: str = ""
    inputs: tuple[LayerOperand, ...] = ()
    constants: tuple[LayerOperand, ...] = ()
    outputs: tuple[LayerOperand, ...] = ()
    tactic: str = ""
    onnx_nodes: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """The precision it computes in: its kernel's, else that of what it multiplies or reads."""
        told = _first_match(_TACTIC_PRECISIONS, _HASH.sub("", self.tactic))
        if told:
            return told
        if self._dequantizes_first:
            return _narrowest(one.precision for one in self.outputs if one.precision not in CODES)
        found = self._matrices if self.holds_product else []
        if len(found) > 1:
            return _multiplied_in(found)
        return _narrowest({operand.precision for operand in self.inputs})

    @property
    def _dequantizes_first(self) -> bool:
        """Return whether codes are turned into floats inside it before they are multiplied.

        "CastMulCastMulCastFc" reads two matrices of codes and multiplies two of floats.
        """
        before = list(takewhile(lambda part: part not in _PRODUCTS, self._parts))
        return len(before) < len(self._parts) and "Cast" in before and "Mul" in before

    @property
    def _matrices(self) -> list[str]:
        """The precisions of its operands that are more than scales and biases."""
        operands = [*self.inputs, *self.constants]
        return [one.precision for one in operands if one.is_matrix]

    @property
    def holds_product(self) -> bool:
        """Return whether a matrix product or a convolution is computed in it."""
        if self.kind.lower() in ("gemm", "runtime_fusion", "correlation") or self.is_attention:
            return True
        return any(part in _PRODUCTS for part in self._parts)

    @property
    def only_moves(self) -> bool:
        """Return whether it computes nothing: reformats, casts, (de)quantizes or rearranges."""
        if self.kind.lower() in ("reformat", "shuffle", "noop") or "CopyNode" in self.name:
            return True
        return bool(self._parts) and all(part[:4] in _MOVING for part in self._parts)

    @property
    def _parts(self) -> list[str]:
        """The operations in Myelin's name of it: Fc, Cast for "__myl_FcCast_myl0_17"."""
        found = _MYELIN.search(self.name)
        return re.findall(r"[A-Z][a-z0-9]*", found.group(1)) if found else []

    @property
    def runs(self) -> bool:
        """Return whether it is a kernel, not a constant or a signal between streams."""
        return self.kind.lower() not in _NOT_KERNELS

    @property
    def is_attention(self) -> bool:
        """Return whether it is a fused attention kernel (both products and the softmax in one)."""
        return bool(_ATTENTION_NAME.match(self.name) or _ATTENTION_TACTIC.search(self.tactic))


def layers_from_inspector(text: str) -> tuple[EngineLayer, ...]:
    """Return the layers of an engine.

    Args:
        text: What `TensorRTSession.inspect` gives.

    Raises:
        DeviceError: It is not such a text (EV765).
    """
    try:
        content = json.loads(text)
        layers = content.get("Layers", content.get("layers"))
        return tuple(_layer(layer) for layer in layers)
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise unreadable_error(
            "the engine inspector's JSON", f"{type(error).__name__}: {error}"
        ) from error


def _narrowest(precisions: Iterable[str]) -> str:
    found = set(precisions)
    return next((name for name in _NARROWEST_FIRST if name in found), "")


def _multiplied_in(matrices: Sequence[str]) -> str:
    """Return the narrowest precision that two operands share; codes beside floats become floats."""
    shared = _narrowest(name for name in matrices if matrices.count(name) > 1)
    return shared or _narrowest(name for name in matrices if name not in CODES)


def precision_from_format(text: str) -> str:
    """Return "int8" for "Four wide channel vectorized row major Int8 format", "" if unknown."""
    return _first_match(_PRECISIONS, text)


def attention_kernels(layers: Iterable[EngineLayer]) -> int:
    """Return how many fused attention kernels there are."""
    return sum(layer.is_attention for layer in layers)


def _layer(content: Any) -> EngineLayer:
    if isinstance(content, str):  # built without detailed verbosity
        return EngineLayer(content, onnx_nodes=_nodes_from_name(content))
    metadata = str(content.get("Metadata", ""))
    nodes = tuple(dict.fromkeys(ONNX_NODE.findall(metadata)))
    name = str(content["Name"])
    return EngineLayer(
        name=name,
        kind=str(content.get("LayerType", "")),
        inputs=tuple(_operand(item) for item in content.get("Inputs", ())),
        constants=tuple(_operand(item) for item in content.get("Constants", ())),
        outputs=tuple(_operand(item) for item in content.get("Outputs", ())),
        tactic=str(content.get("TacticName", "")),
        onnx_nodes=nodes or _nodes_from_name(name),
    )


def _operand(content: Mapping[str, Any]) -> LayerOperand:
    shape = content.get("Dimensions", ())
    told = str(content.get("Format/Datatype", content.get("Datatype", "")))
    name = str(content.get("Name", ""))
    return LayerOperand(name, precision_from_format(told), tuple(int(size) for size in shape))


def _nodes_from_name(name: str) -> tuple[str, ...]:
    """Return node names from a fused layer's name, "a + b" or Myelin's "a+b_myl0_7"."""
    bare = re.sub(r"_myl\d+_\d+$", "", name)
    if bare.startswith(("__my", "{ForeignNode", "Reformatting CopyNode")):
        return ()
    return tuple(part for part in (piece.strip() for piece in bare.split("+")) if part)


def _first_match(table: tuple[tuple[str, str], ...], text: str) -> str:
    lowered = text.lower()
    return next((name for name, pattern in table if re.search(pattern, lowered)), "")


def unreadable_error(what: str, why: str) -> DeviceError:
    """Return the error for a text that is not what an engine tells of itself (EV765)."""
    return DeviceError(
        "EV765",
        f"This is not {what}.",
        why=why[:300],
        try_next="Export or build it again; it may have been cut off. Else report it with the"
        " engine's version.",
    )
