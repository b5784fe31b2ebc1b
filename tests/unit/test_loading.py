"""From the configuration to a policy that has passed its own tests, and the guard against a file that blocks too much of what is in use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from noraflask.config import ConfigError, CurationConfig
from noraflask.services.curation import loading
from noraflask.services.curation.deciding import decide
from noraflask.services.curation.ledger import Entry
from noraflask.services.curation.loading import check_flips, load_policy
from noraflask.services.curation.model import Package, RuleSet
from noraflask.services.curation.policy import Policy

NOW = 1_800_000_000.0
DAY = 86400
LATER, EARLIER = "2027-06-01T00:00:00Z", "2026-06-01T00:00:00Z"
"""Of NOW."""
BLOCK = '[[block]]\nid = "no-evil"\nformat = "npm"\nname = "evil*"\nreason = "bad"\n'
OWN = 'internal_namespaces = ["npm:@own/*"]\n'


def load(folder: Path, text: str, **settings: object) -> tuple[Policy, RuleSet]:
    path = folder / "rules.toml"
    path.write_text(text or "# no rules\n")
    data, rules = load_policy(CurationConfig(rules_path=path, **{"mode": "enforce", **settings}), NOW)
    return Policy.from_buffer(data), rules


def problems(folder: Path, text: str, **settings: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **settings)
    return caught.value.problems


def expect(name: str, version: str = "1.0.0", result: str = "block", **more: object) -> str:
    rest = "".join(f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n" for key, value in more.items())
    return f'[[expect]]\nformat = "npm"\nname = "{name}"\nversion = "{version}"\nresult = "{result}"\n{rest}'


def test_what_is_loaded_decides(tmp_path: Path) -> None:
    policy, rules = load(tmp_path, BLOCK)
    assert len(rules.rules) == len(policy) == 1
    assert not decide(policy, Package("npm", "evil-one", "1.0.0"), NOW).allowed
    assert decide(policy, Package("npm", "good", "1.0.0"), NOW).allowed


def test_the_same_files_give_the_same_fingerprint(tmp_path: Path) -> None:
    first, _ = load(tmp_path, BLOCK)
    again, _ = load(tmp_path, BLOCK)
    other, _ = load(tmp_path, BLOCK, mode="audit")
    assert first.fingerprint == again.fingerprint != other.fingerprint


# Tests that a rule file carries.

HOLD = {
    "a block": (BLOCK, expect("evil")),
    "spelled otherwise": (BLOCK, expect("evil", "v1.0.0")),
    "no block": (BLOCK, expect("good", result="allow", age="30d")),
    "young": ("", expect("x", age="1h")),
    "ripe": ("", expect("x", result="allow", age="8d")),
    "of unknown age": ("", expect("x")),
    "published here": ("", expect("x", result="allow", hosted=True)),
    "an exception": (BLOCK + '[[except]]\nname = "evil-but-good"\nowner = "me"\n', expect("evil-but-good", result="allow")),
    "expired": (BLOCK.replace("reason", f"expires = {EARLIER}\nreason"), expect("evil", result="allow", hosted=True)),
    "not yet expired": (BLOCK.replace("reason", f"expires = {LATER}\nreason"), expect("evil", hosted=True)),
    "an own name from outside": (OWN, expect("@own/thing")),
    "an own name published here": (OWN, expect("@own/thing", result="allow", hosted=True)),
}


@pytest.mark.parametrize("mode", ["enforce", "audit"])
@pytest.mark.parametrize(("rules", "test"), HOLD.values(), ids=HOLD)
def test_tests_that_hold(rules: str, test: str, mode: str, tmp_path: Path) -> None:
    """They ask what the rules say: also where audit lets everything pass."""
    _, found = load(tmp_path, rules + test, mode=mode, min_release_age=7.0 * DAY)
    assert len(found.expects) == 1


@pytest.mark.parametrize("mode", ["enforce", "audit"])
def test_a_test_that_fails_names_its_line_and_the_rule_in_its_way(mode: str, tmp_path: Path) -> None:
    text = BLOCK + expect("evil-two", result="allow") + expect("good")
    allowed, blocked = problems(tmp_path, text, mode=mode)
    assert allowed == "rules.toml:6: expect: npm:evil-two@1.0.0 was to be allowed, and blocklist no-evil (rules.toml:1) blocks it: bad"
    assert "rules.toml:11: expect: npm:good@1.0.0 was to be blocked, and nothing blocks it" in blocked


def test_with_the_mode_off_tests_ask_what_it_would_be_if_it_were_on(tmp_path: Path) -> None:
    policy, _ = load(tmp_path, BLOCK + expect("evil"), mode="off")
    assert decide(policy, Package("npm", "evil", "1.0.0"), NOW).allowed
    assert len(problems(tmp_path, BLOCK + expect("good"), mode="off")) == 1


def test_a_ledger_that_cannot_be_read_refuses_the_policy(tmp_path: Path) -> None:
    policy, rules = load(tmp_path, "")

    def unreadable() -> Iterator[Entry]:
        yield served(1)[0]
        raise PermissionError(13, "Permission denied")

    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        check_flips(CurationConfig(flip_guard_percent=10), rules, policy, policy, unreadable(), NOW)


def test_so_many_failures_are_told(tmp_path: Path) -> None:
    assert len(problems(tmp_path, "".join(expect(f"x{number}") for number in range(100)))) == loading.MOST_FAILED


def test_broken_rules_are_told_before_tests_are_made(tmp_path: Path) -> None:
    assert all("expect:" not in line for line in problems(tmp_path, '[[block]]\nformat = "floppy"\nname = "x"\n' + expect("good")))


# The flip guard.


def served(count: int, name: str = "used-{}", when: float = NOW - DAY) -> list[Entry]:
    return [Entry(int(when), "npm", "npm", name.format(number), "1.0.0", "", "ann", "password") for number in range(count)]


def guard(folder: Path, new: str, entries: list[Entry], percent: int = 10, old: str = "", **settings: object) -> str:
    """What it says; empty: nothing."""
    before, _ = load(folder, old)
    after, rules = load(folder, new, **settings)
    config = CurationConfig(mode="enforce", flip_guard_percent=percent)
    try:
        check_flips(config, rules, before, after, iter(entries), NOW)
    except ConfigError as error:
        (line,) = error.problems
        return line
    return ""


def blocking(*names: str) -> str:
    return "".join(f'[[block]]\nformat = "npm"\nname = "{name}"\n' for name in names)


TEN_OF_100 = [f"used-{number}" for number in range(10)]


def test_a_policy_that_blocks_too_much_is_refused_and_told_in_numbers(tmp_path: Path) -> None:
    told = guard(tmp_path, blocking("used-*"), served(50))
    assert "blocks 50 of the 50 coordinates served in the last 7 days, more than 10 %" in told
    assert "nora curation replay" in told
    assert "flip_until" in told


@pytest.mark.parametrize(
    ("new", "options", "refused"),
    [
        (blocking(*TEN_OF_100), {}, False),
        (blocking(*TEN_OF_100, "used-10"), {}, True),
        (blocking("used-*"), {"percent": 0}, False),
        (blocking("used-*"), {"percent": 99}, True),
        (blocking("used-*"), {"percent": 100}, False),
        (blocking("used-*"), {"old": blocking("used-*")}, False),
        (blocking("used-*"), {"mode": "audit"}, False),
        (blocking("used-*"), {"mode": "off"}, False),
        (blocking("other"), {}, False),
        (f"flip_until = {LATER}\n" + blocking("used-*"), {}, False),
        (f"flip_until = {EARLIER}\n" + blocking("used-*"), {}, True),
    ],
)
def test_when_the_guard_refuses(new: str, options: dict[str, object], refused: bool, tmp_path: Path) -> None:
    assert bool(guard(tmp_path, new, served(100), **options)) is refused


@pytest.mark.parametrize(("count", "refused"), [(0, False), (loading.FLIP_LEAST - 1, False), (loading.FLIP_LEAST, True)])
def test_few_coordinates_say_nothing(count: int, refused: bool, tmp_path: Path) -> None:
    """However often each of them was served."""
    assert bool(guard(tmp_path, blocking("used-*"), served(count) * 50)) is refused


def test_nothing_is_read_of_the_ledger_where_nothing_is_guarded(tmp_path: Path) -> None:
    policy, rules = load(tmp_path, blocking("*"))

    def never() -> object:
        raise AssertionError
        yield

    for config, found in ((CurationConfig(mode="enforce"), policy), (CurationConfig(flip_guard_percent=5), load(tmp_path, "", mode="audit")[0])):
        check_flips(config, rules, policy, found, never(), NOW)  # type: ignore[arg-type]
