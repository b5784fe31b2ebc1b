"""Globs of rules: NORA's shapes and ours, and that hostile ones cost no more than their length."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.services.curation.patterns import Pattern, dead, invalid, problem


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("*", ["", "a", "a/b:c"], []),
        ("**", ["", "a", "a/b:c"], []),
        ("***", ["", "a/b"], []),
        ("lodash", ["lodash"], ["", "lodas", "lodash2", "Lodash"]),
        ("com.corp.**", ["com.corp", "com.corp.x", "com.corp:lib", "com.corp.x:lib"], ["com.corporation", "com.corp-x", "com.cor", "xcom.corp"]),
        ("@corp/**", ["@corp", "@corp/a", "@corp/a/b"], ["@corporation/a", "@corp:x", "corp/a"]),
        ("corp-**", ["corp", "corp-a"], ["corporation", "corp.a"]),
        ("corp*", ["corp", "corporation", "corp/x"], ["cor", "xcorp"]),
        ("*-internal", ["-internal", "a-internal"], ["a-internal-x", "internal"]),
        ("a*b", ["ab", "a/x/b", "abb", "axb"], ["a", "b", "ba", "abc"]),
        ("*evil*", ["evil", "an-evil-one", "eevil"], ["evi", "e-vil", ""]),
        ("a**b", ["ab", "axb"], ["a", "axbx"]),
        ("aba*aba", ["abaaba", "abaxaba"], ["aba", "ababa"]),
        ("a*b*c*d", ["abcd", "a-b-c-d", "abbccd"], ["acbd", "abcdx", "abd"]),
        ("*/corp/**", ["x/corp", "x/corp/a"], ["corp", "x/corporation"]),
        ("com.*.internal.**", ["com.x.internal", "com.x.internal:a", "com.x.y.internal.b"], ["com.internal", "com.x.internals"]),
        ("*.**", ["", "a", "a.b"], []),
        ("./*", ["nginx", ""], ["corp/nginx"]),
        ("./ngin*", ["nginx"], ["nginx/a", "x"]),
        ("./", ["./"], ["", "a"]),
        (".**", [".a", "."], ["a", ":a"]),
        ("1.*", ["1.0", "1."], ["1", "10"]),
    ],
)
def test_what_a_pattern_matches(pattern, inside, outside):
    parsed = Pattern.parse(pattern)
    assert [text for text in inside if not parsed.matches(text)] == []
    assert [text for text in outside if parsed.matches(text)] == []
    assert all(text.startswith(parsed.prefix) for text in inside)


@pytest.mark.parametrize(
    ("pattern", "kind", "literal", "prefix", "is_all"),
    [
        ("*", "all", None, "", True),
        ("**", "all", None, "", True),
        ("*.**", "all", None, "", True),
        ("./*", "all", None, "", False),
        ("lodash", "equal", "lodash", "lodash", False),
        ("./nginx", "equal", "nginx", "nginx", False),
        ("", "equal", "", "", False),
        ("@corp/**", "tree", None, "@corp", False),
        ("com.*.x.**", "tree", None, "com.", False),
        ("corp*", "prefix", None, "corp", False),
        ("*corp", "suffix", None, "", False),
        ("a*b", "glob", None, "a", False),
        ("*a*", "glob", None, "", False),
    ],
)
def test_what_an_index_needs_to_know(pattern, kind, literal, prefix, is_all):
    parsed = Pattern.parse(pattern)
    assert (parsed.kind, parsed.literal, parsed.prefix, parsed.is_all) == (kind, literal, prefix, is_all)


@given(st.text("ab*", max_size=12).filter(lambda text: not text.endswith(("/**", ".**", "-**"))), st.text("ab", max_size=12))
def test_stars_mean_what_they_mean_to_a_regular_expression(pattern, text):
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    assert Pattern.parse(pattern).matches(text) == expected


def test_a_pattern_made_to_backtrack_does_not():
    pattern = Pattern.parse("*a" * 255 + "*b")
    began = time.process_time()
    assert not pattern.matches("a" * 100_000)
    assert Pattern.parse("a.**" * 5_000).matches("x") is False
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "empty"),
        ("a" * 513, "512"),
        ("a\nb", "control"),
        ("a\x00", "control"),
        ("a\u200bb", "invisible"),
        (" a", "blank"),
        ("a ", "blank"),
        ("/a", "neither begin"),
        ("a/", "neither begin"),
        ("a//b", "neither begin"),
        ("^lodash$", "only * is special"),
        ("lodash?", "only * is special"),
        ("{a,b}", "only * is special"),
        (">=1.0", "range"),
    ],
)
def test_problems_say_what_to_do(pattern, words):
    assert words in (problem(pattern) or "")


def test_mistakes_and_doubts_are_told_apart():
    assert invalid("lodash?") is None
    assert dead("lodash?")
    assert invalid("")


@pytest.mark.parametrize("pattern", ["*", "**", "@corp/**", "com.corp.**", "a*b", "x" * 512, "1:2.0~rc1-1", "v1.2.3+incompatible", "Größe"])
def test_good_patterns_have_none(pattern):
    assert problem(pattern) is None
