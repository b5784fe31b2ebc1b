"""Waiting without a thread: what a view yields."""

from __future__ import annotations

import io

import pytest

from noraflask import suspension
from noraflask.suspension import Later, NotYet, receive_now


class Whole(io.BytesIO):
    """A body that is in memory already."""

    is_whole = True


def test_a_moment_lasts_however_often_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for twice in a row when the body is there: receive_now() looks, and then the server."""
    now = [100.0]
    monkeypatch.setattr(suspension.time, "monotonic", lambda: now[0])
    moment = Later()
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            receive_now(moment, Whole())
        with pytest.raises(NotYet):
            moment.take(Whole())
    now[0] += suspension.LATER_SECONDS
    assert moment.take(Whole())
    assert receive_now(moment, Whole()) is None
