"""The engines of a bundle's manifest, as they are found for a card."""

from types import SimpleNamespace

from edgevit.runner.engines.tensorrt_rtx.bundled import bundled_engine


def row(variant, *capabilities, engine="tensorrt_rtx"):
    found = {"variant": variant, "capabilities": list(capabilities), "engine": engine}
    return {**found, "version": "1.7.1.116", "batches": [1, 8, 16]}


def holder(*rows):
    """A bundle with compiled engines; each reads as its variant and its first card."""
    return SimpleNamespace(
        manifest={"engines": list(rows)},
        engines=lambda: list(rows),
        compiled_engine=lambda variant, capability: f"{variant} {capability}".encode(),
    )


def test_the_engine_for_the_card_is_taken():
    bundle = holder(row("int8", "SM86"), row("int8", "SM89", "SM120"), row("fp16", "SM120"))
    found = bundled_engine(bundle, "int8", ("SM120",))
    assert found.capabilities == ("SM89", "SM120")
    assert (found.version, found.max_batch, found.read()) == ("1.7.1.116", 16, b"int8 SM89")


def test_one_for_another_card_is_found_so_that_it_can_be_said():
    found = bundled_engine(holder(row("int8", "SM86")), "int8", ("SM89",))
    assert found.capabilities == ("SM86",)


def test_none_is_found_where_there_is_none():
    other = row("int8", "SM89", engine="another")
    assert bundled_engine(holder(other), "int8", ("SM89",)) is None
    assert bundled_engine(holder(row("fp16", "SM89")), "int8", ("SM89",)) is None
    assert bundled_engine(SimpleNamespace(manifest={}), "int8", ("SM89",)) is None
