"""The tables of scripts/bench: which ratio is told, and what counts as reached."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.server import ROOT


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import bench_oci_table

    return bench_oci_table


def rendered(table: ModuleType, row: Any, figures: dict[str, list[float]], cost: float | None = None) -> str:
    """The row's line."""
    import bench_peers

    results = table.Results({(row.name, name): [table.Found(value, cost) for value in values] for name, values in figures.items()})
    servers = [bench_peers.Server(name, name, lambda folder, port: ([], {})) for name in figures]
    found: str = table.render_table(results, [row], servers).splitlines()[-1]
    return found


@pytest.mark.parametrize(
    ("row", "figures", "says"),
    [
        ({"ratio": 4}, {"ours": [40, 42, 44], "one": [9], "two": [10]}, "4.20x |  | ≥ 4x | reached"),
        ({"ratio": 4}, {"ours": [39], "one": [9], "two": [10]}, "3.90x |  | ≥ 4x | **missed**"),
        ({"ratio": 4}, {"ours": [40]}, "|  |  | ≥ 4x | "),
        ({"most": 50, "smaller_is_better": True}, {"ours": [49], "one": [20], "two": [10]}, "4.90x |  | ≤ 50 MB | reached"),
        ({"most": 50, "smaller_is_better": True}, {"ours": [51], "one": [20]}, "2.55x |  | ≤ 50 MB | **missed**"),
        # of each round, as the whole machine may have been slow in one
        (
            {"ratio": 1.3, "beside": "before"},
            {"ours": [10, 20, 30], "before": [5, 10, 30], "one": [1]},
            "20.00x | 2.00x before | ≥ 1.3x ourselves | reached",
        ),
        ({"ratio": 1, "beside": "variant"}, {"ours": [9], "off": [10]}, "|  | 0.90x off | ≥ 1x ourselves | **missed**"),
        ({"ratio": 1, "beside": "variant"}, {"ours": [9], "off": [8], "before": [10]}, "0.90x before | ≥ 1x ourselves | **missed**"),
        ({"beside": "variant"}, {"ours": [9], "off": [10], "one": [3]}, "3.00x | 0.90x off |  | "),
    ],
)
def test_a_row_tells_its_ratio_and_whether_its_target_is_reached(
    table: ModuleType, row: dict[str, Any], figures: dict[str, list[float]], says: str
) -> None:
    assert says in rendered(table, table.Row("name", "title", "MB", **row), figures).replace("\u00d7", "x")


def test_processor_time_stands_beside_the_rate(table: ModuleType) -> None:
    assert "| 5.00 (4.00 to 6.00); 32 µs |" in rendered(table, table.Row("name", "title", "/s", cost="µs"), {"ours": [4, 5, 6]}, cost=32)


def test_no_two_rows_have_one_name(table: ModuleType) -> None:
    names = [row.name for row in table.rows(512 << 20)]
    assert len(names) == len(set(names))


def test_only_what_stands_between_the_markers_is_written(table: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write_page(page, "new")
    assert page.read_text() == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
