"""What a process remembers is bounded by bytes; what was not asked for longest goes first."""

from __future__ import annotations

from noraflask.services.bounded_memory import ENTRY_BYTES, BoundedMemory


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
