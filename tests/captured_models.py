"""Captured graphs, kept: a module that equals an earlier one in everything has the same graph.

The verbs load and capture the same embedded models some hundred times in these tests, and torch's
export takes most of that time.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import torch
from torch import nn

Capture = Callable[..., Any]


class _Everything(pickle.Pickler):
    """Pickles a module with the bytes of its tensors, and with which of them are one."""

    def persistent_id(self, value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return None
        self.seen = getattr(self, "seen", {})
        which = self.seen.setdefault(id(value), len(self.seen))
        content = value.detach().numpy().tobytes()
        return which, type(value), value.dtype, value.shape, value.stride(), content


def _key(model: nn.Module, input_size: tuple[int, int, int]) -> bytes | None:
    """Return what two equal modules share; None if there is no telling."""
    file = io.BytesIO()
    try:
        _Everything(file).dump((model, input_size))
    except (AttributeError, TypeError, RuntimeError, pickle.PicklingError):
        return None
    return sha256(file.getbuffer()).digest()


class CapturedModels:
    """A function like `graph_from_module` that does its work once for each different module."""

    def __init__(self) -> None:
        self._graphs: dict[bytes, Any] = {}

    def of(self, capture: Capture) -> Capture:
        """Return `capture` with its results kept; each caller gets a copy."""

        def captured(model: nn.Module, input_size: tuple[int, int, int], **options: Any) -> Any:
            key = None if options else _key(model, input_size)
            if key is None:
                return capture(model, input_size, **options)
            if key not in self._graphs:
                self._graphs[key] = capture(model, input_size)
            return self._graphs[key].clone()

        return captured
