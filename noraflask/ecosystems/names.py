"""Names of packages: one spelling each, and the same for patterns over them.

`same_name` brings any text to the one spelling of all that the ecosystem holds for equal; it is total, for rules, ledgers and old data. `parse` is
for what a client sends: it refuses what the ecosystem's grammar does not have, and bounds a text before it looks into it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from noraflask.ecosystems.versions import as_written
from noraflask.errors import InvalidName

FLAT = "./"
"""In front of a pattern of rules: names without a slash alone."""
LONGEST = 512
"""Characters of a name, where an ecosystem says nothing of its own."""
SHOWN = 255
"""Characters of a bad name that an answer repeats."""
_NEVER = re.compile(r"(?!)")


@dataclass(frozen=True)
class Names:
    rule: str = "names have no control characters, no star and no empty part between slashes"
    """What names are, for people."""
    strangers: re.Pattern[str] = _NEVER
    """A character that no canonical name has. The star is none of them: it is in patterns."""
    same: Callable[[str], str] = as_written
    """The one spelling; letters are small already where `folds_case`."""
    folds_case: bool = False
    """Names, and so namespaces, are the same in any letter case."""
    read: Callable[[str], str] | None = None
    """In place of parse()."""
    pattern: Callable[[str], str] | None = None
    """In place of pattern_of(), for texts with a star."""
    access: Callable[[str], tuple[str, ...]] | None = None
    """In place of access_patterns()."""

    def same_name(self, text: str) -> str:
        return self.same(text.lower() if self.folds_case else text)

    def parse(self, text: str) -> str:
        """The canonical name. Raises InvalidName."""
        if self.read is not None:
            return self.read(text)
        if not 0 < len(text) <= LONGEST:
            raise refusal(text, f"a name has 1 to {LONGEST} characters")
        name = self.same_name(text)
        parts = name.split("/")
        if "*" in name or not name.isprintable() or self.strangers.search(name) or not {"", ".", ".."}.isdisjoint(parts):
            raise refusal(text, self.rule)
        return name

    def pattern_of(self, text: str) -> str:
        """A pattern of rules with its literal pieces in canonical form; without a star it is a name."""
        if "*" not in text:
            return self.same_name(text)
        return self.pattern(text) if self.pattern else "*".join(map(self.same_name, text.split("*")))

    def access_patterns(self, text: str) -> tuple[str, ...]:
        """Patterns of access rules and scopes, parted at slashes, that mean of canonical names what this one means of any spelling.

        Placeholders such as {user} are filled in before.
        """
        return self.access(text) if self.access else ("*".join(map(self.same_name, text.split("*"))),)


def refusal(text: str, rule: str) -> InvalidName:
    return InvalidName(f"the name is not valid: {rule}", detail={"name": text[:SHOWN]})
