"""The README and the docs are executed: their commands run, their Python works, links exist."""

import re
import shlex
import shutil
from pathlib import Path

import doc_tables
import families_table
import pytest
from click.testing import CliRunner

from edgevit.cli import main
from edgevit.zoo.listing import proven_on

ROOT = Path(__file__).parent.parent
BUNDLES = {
    "my_bundle": "",
    "my_tower": "--task embed --bits 8",
    "rtx_bundle": "--target rtx-ada --bits 8",
}
"""Bundles that pages speak of, and what makes them."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKING = [
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks" / "README.md",
]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def commands():
    """Every `edgevit ...` line of a sh block that can run here: the embedded models only."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("edgevit "):
                    yield pytest.param(line, id=f"{page.name}: {line[:60]}")


def run(words, folder):
    """Run `edgevit words` in a folder; in this process, which has torch imported already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(main, words)


@pytest.fixture(scope="module")
def earlier_bundles(tmp_path_factory):
    """What earlier commands of a page would have left."""
    folder = tmp_path_factory.mktemp("docs")
    for name, more in BUNDLES.items():
        quick = f"quantize --model vit_cifar10 --method minmax --num-calib 8 {more} -o {name}"
        made = run(quick.split(), folder)
        assert made.exit_code == 0, made.output
    return folder


def quicker(words, page):
    """The words with fewer calibration images, where the page is not the README and names none."""
    calibrates = words[1] in {"quantize", "sensitivity", "simulate"}
    if page == "README.md" or not calibrates or "--num-calib" in words or "--recipe" in words:
        return words
    return [*words, "--num-calib", "8"]


@pytest.mark.parametrize("line", commands())
def test_commands(line, tmp_path, request):
    """Run from an empty folder, with the bundle that an earlier command made."""
    page = request.node.callspec.id.split(":")[0]
    words = quicker(shlex.split(line, comments=True), page)
    for index, word in enumerate(words):
        if word == "test.zip":
            from edgevit.zoo import reference_images

            words[index] = str(reference_images("test"))
    if words[1] == "build":
        pytest.importorskip("tensorrt_rtx")
    for name in BUNDLES:
        made_before = name in words and "quantize" not in words
        if made_before or f"{name}/recipe.toml" in words:
            earlier = request.getfixturevalue("earlier_bundles") / name
            shutil.copytree(earlier, tmp_path / name)
    result = run(words[1:], tmp_path)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), {"__name__": "__main__"})


def test_recipes_are_recipes(tmp_path):
    """Every TOML block can be given to --recipe, and its layers are layers of its model."""
    from edgevit.recipe import read_recipe
    from edgevit.targets.widths import is_asked_in_float
    from edgevit.zoo.loading import load_model

    found = [block for page in PAGES for block in blocks(page, "toml")]
    assert found
    for block in found:
        (tmp_path / "recipe.toml").write_text(block)
        recipe = read_recipe(tmp_path / "recipe.toml")
        modules = [name for name, _ in load_model(recipe["model"]).model.named_modules()]
        assert set(recipe["layer_bits"]) <= set(modules)
        for pattern in recipe["float_layers"]:
            assert any(is_asked_in_float(name, (pattern,)) for name in modules)


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links(page):
    for target, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]*))?\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors_of(linked.read_text()), f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("page", doc_tables.TABLES)
def test_tables_are_what_methods_and_targets_say_of_themselves(page):
    """After a change: python tests/doc_tables.py."""
    text = (ROOT / "docs" / page).read_text()
    assert text == doc_tables.written(page, text)
    spoiled = text.replace("| `cpu` |", "| `abacus` |").replace("| 32 |", "| 33 |")
    assert doc_tables.written(page, spoiled.replace("| 8.7 |", "| 8.8 |")) == text


def test_the_packaged_list_of_models_is_what_the_coverage_run_saw():
    """After a change: python tests/doc_tables.py."""
    assert families_table.PROVEN.read_text(encoding="utf-8") == families_table.proven()
    rows = {row["model"]: row for row in families_table.family_rows()}
    for model, row in rows.items():
        assert (proven_on(model) is not None) == (row["on_cpu"] == "yes")


def anchors_of(text):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_test_command_is_the_one_ci_runs():
    readme = (ROOT / "README.md").read_text()
    lines = [line for line in readme.splitlines() if line.startswith("python3 -m venv ")]
    assert len(lines) == 2
    assert lines[0].endswith("edgevit demo")
    assert lines[1].endswith("pytest")
