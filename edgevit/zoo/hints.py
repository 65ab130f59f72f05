"""Names the architecture whose widths and depth a checkpoint's shapes show.

Sources: Dosovitskiy et al. (arXiv:2010.11929, Table 1), Touvron et al. (arXiv:2012.12877,
Table 1), Liu et al. (arXiv:2103.14030, section 3.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_VIT = {
    (192, 12): "tiny",
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1280, 32): "huge",
}
_SWIN = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base", (192, 18): "large"}


def hint(state: Mapping[str, Tensor]) -> str:
    """Return timm's name for the ViT, DeiT or Swin of these shapes, empty if it is none."""
    from timm.models import is_model

    name = _vit(state) or _swin(state)
    return name if name and is_model(name) else ""


def distilled_name(name: str) -> str:
    """Return the name of the same DeiT with a distillation token, empty if there is none."""
    from timm.models import is_model

    architecture = name.partition(".")[0].replace("_patch", "_distilled_patch")
    return architecture if "distilled" in architecture and is_model(architecture) else ""


def _vit(state: Mapping[str, Tensor]) -> str:
    patch, position = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if patch is None or position is None or patch.ndim != 4 or position.ndim != 3:
        return ""
    size = _VIT.get((int(patch.shape[0]), _depth(state, r"blocks\.(\d+)\.")))
    tokens, pixels = position.shape[1], patch.shape[-1]
    prefix = 2 if "dist_token" in state else 1
    side = round(max(tokens - prefix, 0) ** 0.5) * pixels
    family = f"deit_{size}_distilled" if "dist_token" in state else f"vit_{size}"
    return f"{family}_patch{pixels}_{side}" if size else ""


def _swin(state: Mapping[str, Tensor]) -> str:
    patch = state.get("patch_embed.proj.weight")
    table = state.get("layers.0.blocks.0.attn.relative_position_bias_table")
    if patch is None or table is None or patch.ndim != 4:
        return ""
    size = _SWIN.get((int(patch.shape[0]), _depth(state, r"layers\.2\.blocks\.(\d+)\.")))
    window = (round(table.shape[0] ** 0.5) + 1) // 2
    side = {7: 224, 12: 384}.get(window)
    return f"swin_{size}_patch4_window{window}_{side}" if size and side else ""


def _depth(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = [int(found[1]) for name in state if (found := re.match(pattern, name))]
    return max(numbers, default=-1) + 1
