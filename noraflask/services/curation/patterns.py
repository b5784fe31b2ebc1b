"""Globs over names and versions, in linear time.

`*` all, also the empty text · `X.**` X itself, `X.…` and `X:…` (groups) · `X/**` X itself and `X/…` (scopes, folders) · `X-**` X itself and
`X-…` (`X.**` where . and - are one) · stars anywhere else: any run of characters, `/` included · `./X` as X, over names without a `/` only (what
`library/…` becomes where it is left out) · no star: equal. Nothing but the star is special. Case counts: ecosystems/ brings both sides to one form.
"""

from __future__ import annotations

from dataclasses import dataclass

from noraflask.ecosystems import FLAT

MAX_LENGTH = 512
_TREES = {".**": (".", ":"), "/**": ("/",), "-**": ("-",)}
_FOREIGN = frozenset('?[]{}()|\\<>^$,"`')
"""Characters that mean something in other pattern and range languages, and are in no name or version."""


@dataclass(frozen=True, slots=True)
class Pattern:
    text: str
    kind: str
    """all, equal, prefix, suffix, tree or glob."""
    literal: str | None
    """The one text that matches, when there is just one."""
    prefix: str
    """What every match begins with; empty when nothing is known."""
    flat: bool
    """Texts with a `/` do not match."""
    ways: tuple[tuple[str, ...], ...]
    """Each a way to match: the pieces between its stars."""

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Takes every text, also a bad one: ask problem() before."""
        flat = text.startswith(FLAT) and len(text) > len(FLAT)
        ways = _ways(text[len(FLAT) :] if flat else text)
        kind = _kind(ways)
        return cls(text, kind, ways[0][0] if kind == "equal" else None, ways[0][0], flat, ways)

    @property
    def is_all(self) -> bool:
        return self.kind == "all" and not self.flat

    def matches(self, text: str) -> bool:
        if self.flat and "/" in text:
            return False
        match self.kind:
            case "all":
                return True
            case "equal":
                return text == self.literal
            case "prefix":
                return text.startswith(self.prefix)
            case "suffix":
                return text.endswith(self.ways[0][1])
            case _:
                return any(_matches(way, text) for way in self.ways)


def _ways(text: str) -> tuple[tuple[str, ...], ...]:
    body, joints = text[:-3], _TREES.get(text[-3:], ())
    if not joints or not body:
        return (_pieces(text),)
    ways = (_pieces(body), *(_pieces(f"{body}{joint}*") for joint in joints))
    return ways[:1] if ways[0] == ("", "") else ways


def _pieces(text: str) -> tuple[str, ...]:
    """Runs of stars count as one: `a**b` has the pieces a and b."""
    first, *rest = text.split("*")
    if not rest:
        return (first,)
    return (first, *filter(None, rest[:-1]), rest[-1])


def _kind(ways: tuple[tuple[str, ...], ...]) -> str:
    if len(ways) > 1:
        return "tree"
    match ways[0]:
        case (_,):
            return "equal"
        case ("", ""):
            return "all"
        case (_, ""):
            return "prefix"
        case ("", _):
            return "suffix"
    return "glob"


def _matches(pieces: tuple[str, ...], text: str) -> bool:
    """The leftmost place for each piece is as good as any other, so nothing is ever tried twice."""
    if len(pieces) == 1:
        return text == pieces[0]
    first, last = pieces[0], pieces[-1]
    end = len(text) - len(last)
    at = len(first)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in pieces[1:-1]:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def problem(text: str) -> str | None:
    """Why the pattern must not or need not be in a rule file; None when it is fine. invalid() are mistakes, dead() is worth a warning."""
    return invalid(text) or dead(text)


def invalid(text: str) -> str | None:
    if not text:
        return 'is empty; write "*" for everything'
    if len(text) > MAX_LENGTH:
        return f"has {len(text)} characters; at most {MAX_LENGTH} are allowed"
    if any(not char.isprintable() for char in text):
        return "holds a control or invisible character; remove it"
    return None


def dead(text: str) -> str | None:
    """Shapes that match no name and no version."""
    if text != text.strip():
        return "begins or ends with a blank and so matches nothing; remove it"
    if text.startswith("/") or text.endswith("/") or "//" in text:
        return 'matches nothing: names neither begin nor end with "/" and hold no "//"'
    foreign = sorted(_FOREIGN.intersection(text))
    if foreign:
        return f"matches nothing: {' '.join(foreign)} is in no name or version and only * is special; ranges go into the field range"
    return None
