"""The end of a problem line: what was found instead, or which name was meant."""

from __future__ import annotations

import difflib
import re
from typing import Any

from noraflask.config.text_file import shown
from noraflask.settings import Bad, Choice, SettingType, Switch, WholeNumber

_SECRET = re.compile(r"password|secret|token|auth|(^|[._])key", re.IGNORECASE)


def got(value: Any, bad: Bad, type: SettingType, names: tuple[str, ...], of_variable: bool = False) -> str:
    """`, got …`, or nothing. A value that may be a secret, by the names of its setting or by its form, is not shown."""
    if not bad.show_value:
        return ""
    is_plain = isinstance(type, Switch | WholeNumber | Choice)  # nobody writes a password where auth.enabled wants true
    is_secret = not is_plain and any(_SECRET.search(name) for name in names)
    if is_secret or "@" in str(value):  # user:password@host
        return ", got a value that is not shown"
    if not isinstance(value, str):
        return f", got {described(value)}"
    if of_variable:
        return f", got {shown(value) if value else 'nothing'}"
    return f", got the string {shown(value)}"


def described(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}" if abs(value) < 1e18 else "a number far too large"
    if isinstance(value, list):
        return "an array of tables" if value and all(isinstance(v, dict) for v in value) else "an array"
    if isinstance(value, dict):
        return "a table"
    return "a string" if isinstance(value, str) else "a date or time"


def nearest(name: str, candidates: list[str], cutoff: float = 0.75) -> str | None:
    return next(iter(difflib.get_close_matches(name[:100], candidates, 1, cutoff)), None)
