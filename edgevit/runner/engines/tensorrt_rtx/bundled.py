"""The engines that a bundle holds of its variants, as `edgevit build` put them there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.runner.engines.tensorrt.library import BundledEngine

if TYPE_CHECKING:
    from edgevit.bundle import Bundle


def bundled_engine(bundle: Bundle, variant: str, wanted: tuple[str, ...]) -> BundledEngine | None:
    """Return an engine of a variant, the one for a card if there is one; None if there is none.

    Nothing of it is run, nor read yet: whether it may be is decided by who opens it
    (`edgevit.runner.engines.tensorrt.sources`).

    Args:
        bundle: An opened bundle.
        variant: One of its variants.
        wanted: What the card is, such as ("SM89",).
    """
    rows = bundle.engines() if bundle.manifest.get("engines") else []
    rows = [row for row in rows if (row["variant"], row["engine"]) == (variant, "tensorrt_rtx")]
    if not rows:
        return None
    fitting = [row for row in rows if set(wanted) <= set(row["capabilities"])]
    row = (fitting or rows)[0]
    capabilities = tuple(row["capabilities"])

    def read() -> bytes:
        return bytes(bundle.compiled_engine(variant, capabilities[0]))

    return BundledEngine(
        version=row["version"],
        capabilities=capabilities,
        max_batch=row["batches"][2],
        read=read,
    )
