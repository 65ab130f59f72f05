"""Reasons why FP16 is not slower than an 8-bit engine, from the two engines in numbers.

Each reason is ranked by the milliseconds it costs, as far as the per-layer times tell; these are a
device's, or those that the cost model predicts.
"""

from __future__ import annotations

from edgevit.runner.engines.tensorrt.layer_table import EngineSummary
from edgevit.runner.measure.reason import Reason, costliest

_LAUNCH_MS = 0.003
"""A few microseconds for a kernel more, where nothing better is known."""


def fp16_reasons(fp16: EngineSummary | None, other: EngineSummary | None) -> tuple[str, ...]:
    """Return why FP16 is not slower than the best 8-bit engine: up to three, costliest first.

    Args:
        fp16: The FP16 engine.
        other: The fastest usable engine with 8-bit products.
    """
    if fp16 is None or other is None:
        return ("The engines were not inspected, so the reason is not known.",)
    texts = tuple(reason.text for reason in ranked_reasons(fp16, other))
    return texts or ("No single reason stands out in the per-layer times.",)


def ranked_reasons(
    fp16: EngineSummary,
    other: EngineSummary,
    *,
    launch_ms: float = _LAUNCH_MS,
    batches_help: bool = True,
) -> list[Reason]:
    """Return up to three reasons with what each costs and what to do, costliest first.

    Args:
        fp16: The FP16 engine.
        other: An engine with 8-bit products.
        launch_ms: What one kernel more costs beside what it computes.
        batches_help: Whether the 8-bit engine is faster at some larger batch, as far as is known.
    """
    larger = (
        "Run larger batches" if batches_help else "Try another variant: no batch makes up for it"
    )
    found = [*_moves(fp16, other), *_attention(fp16, other), *_missed(other)]
    found += [*_products(fp16, other, larger), *_pointwise(fp16, other)]
    return costliest([*found, *_launches(fp16, other, launch_ms, larger)])


def _moves(fp16: EngineSummary, other: EngineSummary) -> list[Reason]:
    if fp16.moves_ms is None or other.moves_ms is None or other.moves_ms <= fp16.moves_ms:
        return []
    text = (
        f"{other.moves} layers only convert or move data, {other.moves_ms:.3f} ms"
        f" ({fp16.moves} and {fp16.moves_ms:.3f} ms in FP16)."
    )
    remedy = "Try the variant int8_attention: it needs no copy behind the attention."
    return [Reason(other.moves_ms - fp16.moves_ms, text, remedy)]


def _attention(fp16: EngineSummary, other: EngineSummary) -> list[Reason]:
    lost = fp16.attention - other.attention
    if lost <= 0:
        return []
    per_kernel = (fp16.attention_ms or 0.0) / max(fp16.attention, 1)
    text = (
        f"{lost} of {fp16.attention} attention blocks are no longer one fused kernel"
        f" ({per_kernel:.3f} ms each in FP16)."
    )
    return [Reason(lost * per_kernel, text, "Keep the attention in FP16: the variant int8.")]


def _missed(other: EngineSummary) -> list[Reason]:
    missed = other.asked_low - other.got_low
    if not missed:
        return []
    shown = "" if other.missed_ms is None else f", {other.missed_ms:.3f} ms"
    text = f"{missed} of {other.asked_low} quantized products got no 8-bit kernel{shown}."
    remedy = "Leave them in float with --float-layer: they pay for codes that nothing multiplies."
    return [Reason(other.missed_ms or 0.0, text, remedy)]


def _products(fp16: EngineSummary, other: EngineSummary, larger: str) -> list[Reason]:
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
    remedy = f"{larger}, or leave the narrowest blocks in float with --float-layer."
    return [Reason(fp16.products_ms / 3 - saved, text, remedy)]


def _pointwise(fp16: EngineSummary, other: EngineSummary) -> list[Reason]:
    before, after = _beside_ms(fp16), _beside_ms(other)
    if before is None or after is None or after <= before:
        return []
    text = (
        f"Scales, biases, GELUs and roundings outside of products take {after:.3f} ms"
        f" ({before:.3f} ms in FP16)."
    )
    remedy = "Leave products too narrow to pay for their rounding in float with --float-layer."
    return [Reason(after - before, text, remedy)]


def _beside_ms(engine: EngineSummary) -> float | None:
    """Return the time of layers that hold no product and do more than move data."""
    if engine.total_ms is None or engine.products_ms is None or engine.moves_ms is None:
        return None
    return engine.total_ms - engine.products_ms - engine.moves_ms


def _launches(
    fp16: EngineSummary, other: EngineSummary, launch_ms: float, larger: str
) -> list[Reason]:
    more = other.kernels - fp16.kernels
    if more <= 0:
        return []
    text = f"It has {more} more kernels ({other.kernels} instead of {fp16.kernels})."
    return [Reason(launch_ms * more, text, f"{larger}; a launch costs the same at every batch.")]
