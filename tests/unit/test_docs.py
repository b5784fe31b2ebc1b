"""What the pages show is what the server takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from noraflask.config import load

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in sorted(DOCS.glob("*.md"))
    for number, block in enumerate(re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
]


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_configuration(example, tmp_path):
    file = tmp_path / "config.toml"
    if "provider =" in example and "[[auth.oidc.providers]]" not in example:
        example += '\n[[auth.oidc.providers]]\nname = "ci"\nissuer = "https://ci.example.com"\naudience = "r"\n'
    file.write_text(example, encoding="utf-8")
    load(file, {})
