"""The scanner that tells the lines of a TOML text reads what tomllib reads, and what TOML 1.1 takes in inline tables besides."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noraflask.config.text_file import FileProblem
from noraflask.config.toml_lines import MAX_DEPTH, parse, scan

WORDS = [
    "a",
    "b",
    "c1",
    "x-y",
    '"q.r"',
    "'l'",
    '""',
    '"\\u0041"',
    ".",
    " . ",
    " = ",
    "=",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    ",",
    "\n",
    "\r\n",
    " ",
    "\t",
]
VALUES = [
    "1",
    "1.5",
    "true",
    "1979-05-27",
    "2026-02-31",
    "07:32:00",
    "inf",
    "0x_",
    '"s"',
    '"\\"',
    "'s'",
    '"""',
    "'''",
    '""""',
    '"\\\n"',
    "#",
    "# c\n",
]
SIGNS = ["{", "}", ",", "#"]
LINES = ["a = 1\n", "[t]\n", "[[u]]\n", "[t.v]\n", "b = [1, 2]\n", "c = { d = 1 }\n", 'e = """x"""\n', "a.b = 2\n"]
PIECES = st.sampled_from([*WORDS, *SIGNS, *VALUES, *LINES, "\\", "\x00", "\ufeff", "é", "\r"])


@settings(max_examples=1500, deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join))
@example('a = 1 # c\n[t . \'u\']\nb = [ # x ]\n {c = \'\'\'\n\'\'\'}, ]\n[[v]]\n[[v]]\nd.e = """"x"""""\n')
@example('a = """\\\n   x"""\n')
def test_what_tomllib_reads_is_read_the_same_and_has_its_lines(text):
    try:
        wanted = tomllib.loads(text)
    except ValueError:
        wanted = None
    blanks: list[tuple[int, int]] = []
    statements, stop = scan(text, blanks)
    if wanted is None:
        if not blanks:
            with pytest.raises(FileProblem):
                parse(text)
        return
    assert (stop, blanks) == (None, [])
    values, again = parse(text)
    assert (repr(values), again) == (repr(wanted), statements)
    for statement in statements:
        assert text.split("\n")[statement.line - 1].lstrip(" \t\r").startswith(("[", '"', "'", statement.key[0][:1]))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a = {\n  b = 1,\n  c = 2,\n}", {"b": 1, "c": 2}),
        ("a = { # one\r\n  b = [\n 1, { d = 2 },\n ], # two\r\n}", {"b": [1, {"d": 2}]}),
        ('a = { b = "x, }",\n}', {"b": "x, }"}),
        ("a = {\n}", {}),
    ],
)
def test_an_inline_table_over_several_lines(text, value):
    assert parse(text)[0] == {"a": value}


@pytest.mark.parametrize("text", ["a = {\n b = 1\n c = 2\n}", "a = {,}", "a = {\n b = 1,,\n}", "a = { b = 1, , }", "a = {\n b = }"])
def test_an_inline_table_that_is_none(text):
    with pytest.raises(FileProblem, match=r"^:[0-9]+:[0-9]+: not valid TOML: "):
        parse(text)


def test_depth():
    at_most = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse(f"a = {at_most}")
    assert parse(".".join("a" * MAX_DEPTH) + " = 1")
    for text in (f"a = [{at_most}]", "a = " + "{a=" * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), ".".join("a" * (MAX_DEPTH + 1)) + " = 1"):
        with pytest.raises(FileProblem, match=f"more than {MAX_DEPTH}"):
            parse(text)
