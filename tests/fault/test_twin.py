"""A server with plans and one without are asked the same in the same order, while what they serve, and to whom, changes all the time: each answer,
each line of the log, of the audit log and of the ledger, and the metrics are equal.

NORAFLASK_TWIN_SEED and NORAFLASK_TWIN_REQUESTS take the place of chance and of the usual number; a failure names its seed. Not compared are times
that are measured, and what storage was asked, since to ask it less is what plans are for.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from .twin.pair import PLANS_EXIST, Differs, Pair
from .twin.spoils import SPOILS
from .twin.story import Story
from .twin.world import Settings

ORDINARY, LONG = 100_000, 1_000_000
USUAL = ("stale_answers", "stale_policy", "lost_line", "lost_ledger_line", "wrong_metric")
"""Of the faults of spoils.py, those that each run tries."""
ENOUGH = 40_000
"""Requests within which each of them shows."""
EXPECTED = {200, 201, 202, 204, 206, 304, 400, 401, 403, 404, 412, 416, 429}
"""Statuses that a story of usual length must have seen; with fewer of them it has left something out."""


def tell(folder: Path, requests: int, seed: int, spoil: str = "") -> Story:
    settings = Settings()

    def write_files(own: Path) -> str:
        settings.write_users(own)
        return settings.write(own)

    with Pair(folder / "twins", write_files, spoil) as pair:
        story = Story(pair, settings, seed)
        try:
            story.tell(requests)
        except AssertionError as problem:
            raise type(problem)(f"NORAFLASK_TWIN_SEED={seed} NORAFLASK_TWIN_REQUESTS={pair.asked + 1}: {problem}") from None
        assert [fault for twin in pair.twins for fault in twin.log_faults()] == []
        planned = [twin.planned for twin in pair.twins]
    print(f"seed {seed}: {story.operations} operations, {dict(sorted(pair.statuses.items()))}, {story.hot_asked} repeated, planned {planned}")
    assert story.hot_asked > requests / 2
    if PLANS_EXIST:
        assert planned[0] > requests / 10, "too few requests were answered by plans for this to prove anything"
        assert not planned[1]
    return story


def chosen(usual: int) -> tuple[int, int]:
    """How many requests, and which seed."""
    return int(os.environ.get("NORAFLASK_TWIN_REQUESTS", usual)), int(os.environ.get("NORAFLASK_TWIN_SEED", random.randrange(1 << 32)))


@pytest.mark.slow
def test_twins_say_and_write_the_same(folder: Path) -> None:
    requests, seed = chosen(ORDINARY)
    story = tell(folder, requests, seed)
    assert requests < ORDINARY or set(story.pair.statuses) >= EXPECTED


@pytest.mark.soak
def test_twins_say_and_write_the_same_for_long(folder: Path) -> None:
    tell(folder, *chosen(LONG))


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [pytest.param(spoil, marks=[] if spoil in USUAL else pytest.mark.soak) for spoil in SPOILS])
def test_each_fault_that_a_plan_could_have_is_noticed(spoil: str, folder: Path) -> None:
    with pytest.raises(Differs):
        tell(folder, ENOUGH, 1, spoil)
