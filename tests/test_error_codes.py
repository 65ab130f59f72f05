"""Every error code means one thing, and docs/errors.md says which."""

import re
from collections.abc import Iterator

import error_codes
import pytest
from error_source import CODE, ROOT, Source
from test_docstrings import RIDDLES


@pytest.fixture(scope="module")
def source():
    return Source()


@pytest.fixture(scope="module")
def known(source):
    return error_codes.by_code(source.raised())


def test_every_code_means_one_thing(source):
    assert error_codes.several(source.raised()) == {}


def test_the_page_is_what_the_source_says(source):
    said = error_codes.PAGE.read_text(encoding="utf-8")
    assert said == error_codes.page(source), "python tests/error_codes.py writes it"


def test_no_row_of_the_page_says_nothing(source):
    rows = [line for line in error_codes.page(source).splitlines() if line.startswith("| EV")]
    assert len(rows) > 200
    assert [row for row in rows if "| — | — |" in row and "it is a note" not in row] == []


def test_every_code_that_is_named_exists(known):
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("edgevit/**/*.py")]
    texts = (
        re.sub(r"^```python\n.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
        for page in pages
    )
    named = {code for text in texts for code in CODE.findall(text)}
    assert named - set(known) == set()


def test_every_code_of_a_docstring_exists_and_has_the_class_it_says(source, known):
    wrong = []
    for module, text in source.docstrings:
        wrong += [f"{module}: {code}" for code in CODE.findall(text) if code not in known]
        for kind, code in said_to_raise(text):
            if code in known and kind not in ("EdgeViTError", known[code][0].kind):
                wrong.append(f"{module}: {kind} {code}")
    assert wrong == []


def said_to_raise(text: str) -> Iterator[tuple[str, str]]:
    """Yield (class, code) of the entries below Raises: and Returns:, of one line or several."""
    for kind, said in re.findall(r"^ +(\w+Error_?): (.*(?:\n {8}.*)*)", text, re.MULTILINE):
        yield from ((kind, code) for code in CODE.findall(said))


MADE_UP = """
from edgevit.errors import DataError, UsageError


def one(name):
    raise DataError("EV001", f"There is no {name!r}.", why="It is a secret.")


def same(other, *, text):
    raise DataError("EV001", f"There is no {other}.", try_next="Give another.")


def helper(code, what, why):
    error = UsageError(code, what, why=why)
    raise error


def callers(size):
    reason = "It is small." if size else "It is " + "empty."
    helper("EV002", "Too little.", reason)
    helper("EV003", "Too much.", why=f"It has {len(size)} bytes of {size.most_bytes}.")
    return f"EV006: {reason} was left out."
"""


@pytest.fixture
def made_up(tmp_path):
    """Make a package of one module, with more lines behind it, and return its source."""

    def make(more=""):
        (tmp_path / "edgevit").mkdir(exist_ok=True)
        (tmp_path / "edgevit" / "errors.py").write_text(
            "class EdgeViTError(Exception):\n    exit_status = 1\n"
            "class UsageError(EdgeViTError):\n    exit_status = 2\n"
            "class DataError(EdgeViTError):\n    exit_status = 9\n"
        )
        (tmp_path / "edgevit" / "module.py").write_text(MADE_UP + more)
        return Source(tmp_path)

    return make


def test_one_sentence_in_two_places_is_one_meaning(made_up):
    assert error_codes.several(made_up().raised()) == {}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('DataError("EV001", "Something else.")', "EV001"),
        ('UsageError("EV001", f"There is no {name!r}.")', "EV001"),  # another class
        ('helper("EV002", "Too much.", "")', "EV002"),  # through a function
        ('DataError("EV004", "One." if name else "Another.")', "EV004"),
        ('DataError("EV004" if name else "EV005", "One." if name else "Another.")', "EV005"),
        ('DataError(name, "A code that can\'t be read.")', "«name»"),
        ('DataError("EV004", "")', "EV004"),  # none at all
        ('kind = DataError if name else UsageError\n    kind("EV001", "Another.")', "EV001"),
        ('type(name)("EV001", "Another.")', "EV001"),
    ],
)
def test_a_second_meaning_is_found(made_up, line, code):
    found = error_codes.several(made_up(f"\n\ndef more(name):\n    {line}\n").raised())
    assert code in found


def test_texts_are_followed_to_where_they_are_said(made_up):
    rows = error_codes.page(made_up()).splitlines()[-4:]
    assert rows == [
        "| EV001 | 9 | There is no `<name>`. | It is a secret. | Give another. |",
        "| EV002 | 2 | Too little. | It is small.<br>It is empty. | — |",
        "| EV003 | 2 | Too much. | It has `<number of size>` bytes of `<most bytes>`. | — |",
        "| EV006 | none, it is a note | `<reason>` was left out. | — | — |",
    ]


def test_no_error_begins_with_a_riddle(known):
    sentences = [text for places in known.values() for one in places for text in one.what]
    assert [text for text in sentences if text.split(" ")[0] in RIDDLES] == []
