"""What a check has found: one line, and for what is wrong the one line to change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

OK, WARNING, WRONG = "ok", "warning", "wrong"
NAME = "nora-doctor"
"""What everything that the doctor makes is named after."""
SIGNS = {OK: "✓", WARNING: "!", WRONG: "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    verdict: str
    text: str
    remedy: tuple[str, ...] = ()
    """Lines to change, each with where it goes in front; one of them will do."""

    def lines(self) -> Iterator[str]:
        yield f"{SIGNS[self.verdict]} {self.check}: {printable(self.text)}"
        for line in self.remedy:
            yield f"    {printable(line)}"


Run = Callable[[], Iterable[Finding]]


def ok(check: str, text: str) -> Finding:
    return Finding(check, OK, text)


def warning(check: str, text: str, *remedy: str) -> Finding:
    return Finding(check, WARNING, text, remedy)


def wrong(check: str, text: str, *remedy: str) -> Finding:
    return Finding(check, WRONG, text, remedy)


def run(checks: Iterable[tuple[str, Run]]) -> Iterator[Finding]:
    """The findings of all, in order. A check that stumbles is itself a finding, whatever it has stumbled over."""
    for name, check in checks:
        try:
            yield from check()
        except Exception as problem:
            place = getattr(problem, "filename", None)
            said = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
            yield wrong(name, f"cannot be checked: {f'{place}: ' if place else ''}{said}")


def printable(text: str) -> str:
    """What others wrote must not move the cursor of a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)
