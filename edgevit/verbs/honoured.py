"""Decides what becomes of a form of the model whose products a compiler does not run as asked.

The main form is what was asked for: if the device's own compiler does not honour it, quantization
fails. A further form is an offer for the device to measure, and is left out with a warning. What
another device's compiler makes of it is evidence only, and never more than a warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgevit.bundle.manifest import MAIN_VARIANT
from edgevit.bundle.variants import golden_key
from edgevit.errors import UnsupportedError
from edgevit.report.compiled import compiler_text
from edgevit.runner.engines.tensorrt.layer_table import product_rows

if TYPE_CHECKING:
    from edgevit.runner.engines.tensorrt.kernel_table import KernelTable
    from edgevit.runner.engines.tensorrt.layer_table import ProductRow
    from edgevit.targets.base import Lowered
    from edgevit.verbs.artefact import Artefact

    Rows = Sequence[ProductRow]

_NAMED_MODULES, _NAMED_REASONS = 3, 3


def with_judged_kernels(artefact: Artefact, *, allow_fallback: bool = False) -> Artefact:
    """Return the forms that stay, with a warning for each whose products are not run as asked.

    Args:
        artefact: With the kernels of its forms, as far as they were compiled.
        allow_fallback: Keep forms of which products run otherwise than asked.

    Raises:
        UnsupportedError: The main form is compiled by the engine that will run it, and has
            quantized products without a kernel of the precision asked (EV318).
    """
    forms = {MAIN_VARIANT: artefact.lowered}
    forms |= {name: variant.lowered for name, variant in artefact.variants.items()}
    unchecked = dict.fromkeys(form.unchecked for form in forms.values() if form.unchecked)
    notes, left_out = [*unchecked], set()
    for name, form in forms.items():
        missed = _missed(form)
        if form.kernels is None or not missed:
            continue
        binds = _is_own(form.kernels, artefact.engine) and not allow_fallback
        if binds and name == MAIN_VARIANT:
            raise _not_honoured(len(_quantized(form)), missed, form.kernels)
        if binds:
            left_out.add(name)
        notes.append(_note(f"{name} is left out" if binds else name, form, missed, artefact.engine))
    artefact.quantized.notes += notes
    return _without(artefact, left_out)


def _quantized(form: Lowered) -> Rows:
    """Return the quantized products and their kernels; none if these are not known."""
    rows = [] if form.kernels is None else product_rows(form.layers, form.kernels.layers)
    return [row for row in rows if row.asked != "float"]


def _missed(form: Lowered) -> Rows:
    """Return the quantized products that are not computed as asked."""
    return [row for row in _quantized(form) if row.reason]


def _without(artefact: Artefact, names: set[str]) -> Artefact:
    """Return the artefact without some of its further forms."""
    unread = {golden_key(name) for name in names}
    return replace(
        artefact,
        variants={k: v for k, v in artefact.variants.items() if k not in names},
        golden={key: array for key, array in artefact.golden.items() if key not in unread},
    )


def _is_own(table: KernelTable, engine: str) -> bool:
    """Return whether a table is of the engine that will run the bundle."""
    return table.engine.partition(" ")[0] == engine


def _note(name: str, form: Lowered, missed: Rows, engine: str) -> str:
    assert form.kernels is not None
    own = _is_own(form.kernels, engine)
    builder = "" if own else " The device builds an engine of its own, which may differ."
    return (
        f"{name}: {len(missed)} of {len(_quantized(form))} quantized products got no kernel of"
        f" their precision ({compiler_text(form.kernels.engine, form.kernels.capabilities)}),"
        f" first {_modules_text(missed)}. {_reasons_text(missed)}{builder}"
    )


def _not_honoured(asked: int, missed: Rows, table: KernelTable) -> UnsupportedError:
    return UnsupportedError(
        "EV318",
        f"{len(missed)} of {asked} quantized products got no kernel of their precision.",
        where=f"{_modules_text(missed)}; {compiler_text(table.engine, table.capabilities)}",
        why=_reasons_text(missed),
        try_next="Mend the model as said there, or leave these layers in float (--float-layer);"
        " --allow-fallback takes them as they are, with a warning in the report.",
    )


def _modules_text(missed: Rows) -> str:
    names = [row.module or row.name for row in missed]
    more = len(names) - _NAMED_MODULES
    return ", ".join(names[:_NAMED_MODULES]) + (f" and {more} more" if more > 0 else "")


def _reasons_text(missed: Rows) -> str:
    """Return the commonest reasons, each with its number of products."""
    found = Counter(row.reason for row in missed).most_common(_NAMED_REASONS)
    return " ".join(f"({count}) {reason.rstrip('.')}." for reason, count in found)
