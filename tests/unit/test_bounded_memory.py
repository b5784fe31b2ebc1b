"""What a process remembers is bounded by bytes; what was not asked for longest goes first."""

from __future__ import annotations

from noraflask.services.bounded_memory import ENTRY_BYTES, BoundedMemory, bytes_of


def test_what_was_not_asked_for_longest_goes_first():
    memory: BoundedMemory[str, int] = BoundedMemory(3 * (100 + ENTRY_BYTES))
    for number, key in enumerate("abc"):
        memory.put(key, number, 100)
    assert memory.get("a") == 0
    memory.put("d", 3, 100)
    assert [memory.get(key) for key in "abcd"] == [0, None, 2, 3]
    assert memory.bytes == 3 * (100 + ENTRY_BYTES)


def test_what_is_put_again_counts_once():
    memory: BoundedMemory[str, int] = BoundedMemory(10_000)
    for size in (100, 5000, 7):
        memory.put("a", size, size)
    assert (memory.get("a"), memory.bytes) == (7, 7 + ENTRY_BYTES)


def test_one_large_thing_does_not_drive_out_all_others():
    memory: BoundedMemory[str, int] = BoundedMemory(10_000, share_bytes=1000)
    memory.put("a", 1, 100)
    memory.put("large", 2, 5000)
    assert (memory.get("a"), memory.get("large"), len(memory)) == (1, None, 1)
    memory.put("a", 3, 5000)
    assert (memory.get("a"), memory.bytes) == (None, 0), "and what it was before is not told any more"


def test_what_is_forgotten_counts_no_more():
    memory: BoundedMemory[str, int] = BoundedMemory(10_000)
    memory.put("a", 1, 100)
    memory.put("b", 2, 200)
    memory.forget("a")
    memory.forget("nothing")
    assert (memory.get("a"), memory.bytes) == (None, 200 + ENTRY_BYTES)
    memory.clear()
    assert (len(memory), memory.bytes) == (0, 0)


def test_texts_count_for_what_they_take():
    assert bytes_of("a" * 1000, None, b"b" * 500) > 1500
    assert bytes_of("\U0001f600" * 1000) > 4000
