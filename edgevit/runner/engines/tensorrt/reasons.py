"""Reasons why FP16 is not slower than an 8-bit engine, from the two engines in numbers.

Each reason is ranked by the milliseconds it costs, as far as the per-layer times tell.
"""

from __future__ import annotations

from edgevit.runner.engines.tensorrt.layer_table import EngineSummary

_MOST_REASONS = 3


def fp16_reasons(fp16: EngineSummary | None, other: EngineSummary | None) -> tuple[str, ...]:
    """Return why FP16 is not slower than the best 8-bit engine: up to three, costliest first.

    Args:
        fp16: The FP16 engine.
        other: The fastest usable engine with 8-bit products.
    """
    if fp16 is None or other is None:
        return ("The engines were not inspected, so the reason is not known.",)
    found = [*_moves(fp16, other), *_attention(fp16, other), *_missed(other)]
    found += [*_products(fp16, other), *_launches(fp16, other)]
    ordered = sorted(found, key=lambda item: -item[0])
    texts = tuple(text for _, text in ordered[:_MOST_REASONS])
    return texts or ("No single reason stands out in the per-layer times.",)


def _moves(fp16: EngineSummary, other: EngineSummary) -> list[tuple[float, str]]:
    if fp16.moves_ms is None or other.moves_ms is None or other.moves_ms <= fp16.moves_ms:
        return []
    cost = other.moves_ms - fp16.moves_ms
    text = (
        f"{other.moves} layers only convert or move data, {other.moves_ms:.3f} ms"
        f" ({fp16.moves} and {fp16.moves_ms:.3f} ms in FP16)."
    )
    return [(cost, text)]


def _attention(fp16: EngineSummary, other: EngineSummary) -> list[tuple[float, str]]:
    lost = fp16.attention - other.attention
    if lost <= 0:
        return []
    per_kernel = (fp16.attention_ms or 0.0) / max(fp16.attention, 1)
    text = (
        f"{lost} of {fp16.attention} attention blocks are no longer one fused kernel"
        f" ({per_kernel:.3f} ms each in FP16)."
    )
    return [(lost * per_kernel, text)]


def _missed(other: EngineSummary) -> list[tuple[float, str]]:
    missed = other.asked_low - other.got_low
    if not missed:
        return []
    shown = "" if other.missed_ms is None else f", {other.missed_ms:.3f} ms"
    text = f"{missed} of {other.asked_low} quantized products got no 8-bit kernel{shown}."
    return [(other.missed_ms or 0.0, text)]


def _products(fp16: EngineSummary, other: EngineSummary) -> list[tuple[float, str]]:
    if fp16.products_ms is None or other.products_ms is None or not fp16.total_ms:
        return []
    saved = fp16.products_ms - other.products_ms
    if saved >= fp16.products_ms / 3:
        return []  # 8 bits do pay here; the time is lost elsewhere
    share = 100 * fp16.products_ms / fp16.total_ms
    text = (
        f"Products are {share:.0f} % of the time and take {other.products_ms:.3f} ms in 8 bits,"
        f" {fp16.products_ms:.3f} ms in FP16: too small to gain."
    )
    return [(fp16.products_ms / 3 - saved, text)]


def _launches(fp16: EngineSummary, other: EngineSummary) -> list[tuple[float, str]]:
    more = other.kernels - fp16.kernels
    if more <= 0:
        return []
    cost_ms = 0.003 * more  # a few microseconds each; only ranks this reason among the others
    return [(cost_ms, f"It has {more} more kernels ({other.kernels} instead of {fp16.kernels}).")]
