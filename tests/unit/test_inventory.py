"""What is stored, counted by one worker for all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from noraflask.keys import Key
from noraflask.services import inventory as module
from noraflask.services.inventory import Inventory, Totals
from noraflask.services.metrics.counting import NullMetrics
from noraflask.storage.memory import MemoryStorage

NOW = 1_000_000.0


@pytest.fixture
def storage() -> MemoryStorage:
    found = MemoryStorage()
    for number in range(5):
        found.create(Key.trusted(f"blobs/sha256/0{number}/{number}"), b"x" * 10 * number)
    found.create(Key.trusted("docker/app/tags/1"), b"not content")
    return found


def inventory_of(storage: MemoryStorage, folder: Path, names: Callable[[], Iterable[tuple[str, Iterable[str]]]] = lambda: ()) -> Inventory:
    expiries = (NOW - 1, NOW + 86400, NOW + 30 * 86400)
    return Inventory(storage, folder, names, lambda: expiries, NullMetrics(), lambda: NOW)


def test_bytes_objects_and_tokens(storage, tmp_path):
    inventory = inventory_of(storage, tmp_path)
    assert inventory.current() == Totals()
    taken = inventory.take()
    assert (taken.bytes, taken.objects, taken.tokens, taken.tokens_expiring, taken.counted_at) == (100, 5, 2, 1, NOW)
    assert inventory_of(storage, tmp_path).current() == taken, "another worker reads what one has counted"


def test_each_of_200_repositories_has_its_names_counted(storage, tmp_path):
    repositories = {f"team-{number}": number for number in range(200)}
    inventory = inventory_of(storage, tmp_path, lambda: ((name, (f"app-{turn}" for turn in range(many))) for name, many in repositories.items()))
    assert inventory.take().artifacts == repositories
    del repositories["team-7"]
    repositories["new"] = 3
    assert inventory.take().artifacts == repositories, "repositories come and go by reloads"


def test_names_are_read_one_after_another(storage, tmp_path, monkeypatch):
    """However many there are, other threads have their turn, and nothing keeps them all."""
    breaths, held = [], 0
    monkeypatch.setattr(module.time, "sleep", breaths.append)

    class Name:
        def __init__(self) -> None:
            nonlocal held
            held += 1
            assert held < 5

        def __del__(self) -> None:
            nonlocal held
            held -= 1

    inventory = inventory_of(storage, tmp_path, lambda: [("docker", (Name() for _ in range(20 * module.BREATH)))])
    assert inventory.take().artifacts == {"docker": 20 * module.BREATH}
    assert len(breaths) == 20


def test_one_worker_counts_at_a_time(storage, tmp_path):
    entered, go_on = threading.Event(), threading.Event()

    def names() -> Iterable[tuple[str, Iterable[str]]]:
        entered.set()
        go_on.wait(10)
        return ()

    first = threading.Thread(target=inventory_of(storage, tmp_path, names)._in_turn)
    first.start()
    assert entered.wait(10)
    with pytest.raises(BlockingIOError):
        inventory_of(storage, tmp_path)._in_turn()
    go_on.set()
    first.join()
    assert inventory_of(storage, tmp_path)._in_turn() == 0.0, "it was counted a moment ago"


def test_totals_of_another_version_are_none(storage, tmp_path):
    (tmp_path / "inventory.json").write_text(json.dumps({"unheard": 1}))
    assert inventory_of(storage, tmp_path).current() == Totals()
