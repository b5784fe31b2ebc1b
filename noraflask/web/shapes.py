"""Addresses that differ in their last segment alone, such as those of two blobs, mostly have the same route: they are of one shape.

A segment can lead to another route only where a rule names it, or looks into it. All others are alike to every rule: werkzeug tries the rules in an
order that does not depend on the address, and an argument that stands for a whole segment, or for a path, takes whatever is there.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from werkzeug.routing import BaseConverter, Map, PathConverter, Rule, UnicodeConverter
from werkzeug.routing.rules import parse_converter_args

_ARGUMENT = re.compile(r"<(?:(\w+)(?:\(([^<>]*)\))?:)?(\w+)>")
"""Name and arguments of its converter, where it has one of its own, and its own name."""
_ANY_SEGMENT = "[^/]{1,}"
"""What an argument without a converter of its own takes."""
_ALIKE = (_ANY_SEGMENT, PathConverter.regex, "[^/](?:.*[^/])?")
"""Arguments that take every segment that has no slash and no line break in it."""


class Shape(NamedTuple):
    """The route of all addresses that begin alike and end in a segment that no rule looks at."""

    rule: Rule
    arguments: dict[str, Any]
    last: str
    """The argument that the last segment is."""


def looked_at(url_map: Map) -> re.Pattern[str]:
    """Matches the segments that a rule of the map names or looks into, wherever that is, and those that `_ALIKE` does not speak of."""
    patterns = {"", r"[^\n]*\n(?s:.*)"}
    for rule in url_map.iter_rules():
        for segment in rule.rule.split("/"):
            texts = _ARGUMENT.split(segment)[:: _ARGUMENT.groups + 1]
            regexes = [_converter(rule, argument).regex for argument in _ARGUMENT.finditer(segment)]
            if len(regexes) != 1 or any(texts) or regexes[0] not in _ALIKE:
                ends = [*(f"(?:{regex})" for regex in regexes), ""]
                patterns.add("".join(re.escape(text) + end for text, end in zip(texts, ends, strict=True)))
    return re.compile("|".join(sorted(patterns)))


def shape_of(rule: Rule, arguments: dict[str, Any]) -> Shape | None:
    """None: the last segment of its addresses is no argument of its own."""
    found = _ARGUMENT.fullmatch(rule.rule.rpartition("/")[2])
    if found is None:
        return None
    converter = _converter(rule, found)
    if type(converter) is not UnicodeConverter or converter.regex != _ANY_SEGMENT:
        return None
    return Shape(rule, {name: value for name, value in arguments.items() if name != found[3]}, found[3])


def _converter(rule: Rule, argument: re.Match[str]) -> BaseConverter:
    """Of an argument of a rule that has its map."""
    name, arguments, variable = argument.groups()
    return rule.get_converter(variable, name or "default", *parse_converter_args(arguments or ""))
