"""compile(): a rule set as the bytes that policy.py describes, made once, in the master."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from itertools import accumulate
from typing import Any
from zlib import crc32

from noraflask.ecosystems import ECOSYSTEMS, FLAT
from noraflask.services.curation.model import Kind, Rule, RuleSet
from noraflask.services.curation.patterns import Pattern
from noraflask.services.curation.policy import ANY, MAGIC, OWN, Settings, hash_of, seed_of

AT_ONCE = 10_000
"""Rules that are encoded by one call."""


def compile(settings: Settings, ruleset: RuleSet) -> bytes:
    """The bytes of the policy; the same input gives the same bytes in every process."""
    names = _Names()
    for number, rule in enumerate(ruleset.rules):
        names.add(number, rule.format, rule.name)
    for number, own in enumerate(ruleset.namespaces, len(ruleset.rules)):
        names.add(number, own.format, own.pattern)
    records = _records(ruleset)
    sections = {
        "records": b"".join(records),
        "offsets": array("Q", accumulate(map(len, records), initial=0)).tobytes(),
        **_index("exact", *names.exact, 64),
        **_index("affix", *names.affixes, 32),
        "expiries": array("d", sorted({rule.expires for rule in ruleset.rules if rule.expires is not None} | _bypass_ends(ruleset))).tobytes(),
        "warnings": json.dumps(ruleset.warnings).encode(),
    }
    head = {
        "settings": asdict(settings),
        "bypasses": [[own.name, own.sha256.lower(), own.expires, own.place] for own in ruleset.bypasses],
        "has_allowlist": ruleset.has_allowlist,
        "counts": _counts(ruleset),
        "slots": names.slots(),
        "sections": _places(sections),
    }
    packed = json.dumps(head).encode()
    body = len(packed).to_bytes(8, "little") + packed + bytes(-len(packed) % 8) + b"".join(part + bytes(-len(part) % 8) for part in sections.values())
    return MAGIC + sha256(body).digest() + body


def _records(ruleset: RuleSet) -> list[bytes]:
    found: list[bytes] = []
    for start in range(0, len(ruleset.rules), AT_ONCE):
        found += _encoded([_row(rule) for rule in ruleset.rules[start : start + AT_ONCE]])
    return found + _encoded([[own.pattern, OWN, own.format, own.pattern, ANY, "", ANY, "", own.place] for own in ruleset.namespaces])


def _encoded(rows: list[list[Any]]) -> list[bytes]:
    """By one call of the encoder, as calls are the greater part of the time. No string of JSON has a line end in it, so none looks like a border."""
    text = json.dumps(rows, separators=(",\n", ":"))
    return [b"[%b]" % row for row in text[2:-2].encode().split(b"],\n[")] if rows else []


def _row(rule: Rule) -> list[Any]:
    row: list[Any] = [rule.id, rule.kind._value_, rule.format, rule.name, rule.version, rule.range, rule.repository, rule.reason, rule.place]
    rest = (rule.audit_only, rule.expires, rule.owner, rule.ticket, " ".join(rule.integrity), rule.min_age)
    return row if rest == (False, None, "", "", "", None) else [*row, *rest]


def _bypass_ends(ruleset: RuleSet) -> set[float]:
    return {own.expires for own in ruleset.bypasses if own.expires is not None}


def _counts(ruleset: RuleSet) -> dict[str, int]:
    counts = {kind.value: 0 for kind in Kind}
    for rule in ruleset.rules:
        counts[rule.kind._value_] += 1
    return {**counts, "namespace": len(ruleset.namespaces), "bypass": len(ruleset.bypasses)}


class _Names:
    """Sorts the names of rules by how they are found again."""

    def __init__(self) -> None:
        self.exact: tuple[list[int], list[int]] = [], []
        """Keys, and the number of the rule of each."""
        self.affixes: tuple[list[int], list[int]] = [], []
        self._slots: dict[str, tuple[set[int], set[int], list[int]]] = {}

    def add(self, number: int, format: str, name: str) -> None:
        for slot, text in ((format, name),) if format != ANY else _spread(name):
            prefixes, suffixes, bare = self._slots.setdefault(slot, (set(), set(), []))
            if ANY not in text and not text.startswith(FLAT):
                _put(self.exact, hash_of(slot, text.encode("utf-8", "surrogatepass")), number)
            elif prefix := Pattern.parse(text).prefix.encode("utf-8", "surrogatepass"):
                prefixes.add(len(prefix))
                _put(self.affixes, crc32(prefix, seed_of(slot, b"<")), number)
            elif suffix := text.rpartition(ANY)[2].encode("utf-8", "surrogatepass")[::-1]:
                suffixes.add(len(suffix))
                _put(self.affixes, crc32(suffix, seed_of(slot, b">")), number)
            else:
                bare.append(number)

    def slots(self) -> dict[str, list[list[int]]]:
        return {slot: [sorted(prefixes), sorted(suffixes), bare] for slot, (prefixes, suffixes, bare) in sorted(self._slots.items())}


def _put(index: tuple[list[int], list[int]], key: int, number: int) -> None:
    index[0].append(key)
    index[1].append(number)


def _spread(name: str) -> Sequence[tuple[str, str]]:
    """A name for all formats, as written: in the form of each of them, or in one place when they agree."""
    if name == ANY:
        return ((ANY, name),)
    forms = [(format, ecosystem.name_pattern(name)) for format, ecosystem in ECOSYSTEMS.items()]
    return ((ANY, name),) if all(form == name for _, form in forms) else forms


def _index(name: str, keys: list[int], numbers: list[int], width: int) -> dict[str, bytes]:
    """Sorted keys, equal ones in file order, and where those begin that share their first bits; there are at least as many beginnings as keys."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    shift = width - max(1, len(keys).bit_length())
    sizes = [0] * (1 << (width - shift))
    for key in keys:
        sizes[key >> shift] += 1
    code = "Q" if width == 64 else "I"
    return {
        f"{name}-keys": array(code, map(keys.__getitem__, order)).tobytes(),
        f"{name}-starts": array("I", accumulate(sizes, initial=0)).tobytes(),
        f"{name}-numbers": array("I", map(numbers.__getitem__, order)).tobytes(),
    }


def _places(sections: dict[str, bytes]) -> dict[str, tuple[int, int]]:
    ends = accumulate((len(part) + -len(part) % 8 for part in sections.values()), initial=0)
    return {name: (start, len(part)) for (name, part), start in zip(sections.items(), ends, strict=False)}
