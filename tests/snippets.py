"""Commands of the guides in docs/, extracted and run, so that what an operator copies works.

In the Markdown, the line above a fence says what becomes of it; without one it is an error, so that nothing is left out by accident:

    <!-- run -->               ```sh     is run with `bash -eu`, and must succeed
    <!-- run: fails -->        ```sh     must fail
    <!-- run: PROGRAM … -->    ```sh     is run where these programs are (tests/client/tools.py says what becomes of it elsewhere)
    <!-- not run: WHY -->      ```sh     is only read; WHY is a reason, not a formality
    <!-- output -->            ```text   is what the run above has printed, standard error included
    <!-- seen: COMMAND -->     ```text   is what COMMAND prints, which the page does not show

In ```text, `…` stands for anything within a line, and lines may be left out between those that are shown.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
_FENCE = re.compile(r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>sh|text)\n(?P<body>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"(?P<word>run|not run|output|seen)(?:: (?P<rest>.+))?\Z")


@dataclass(frozen=True)
class Snippet:
    page: str
    line: int
    language: str
    word: str
    """run, not run, output, seen"""
    rest: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def must_fail(self) -> bool:
        return "fails" in self.rest.split()

    @property
    def programs(self) -> list[str]:
        return [word for word in self.rest.split() if word != "fails"] if self.word == "run" else []


def snippets(page: Path) -> list[Snippet]:
    """Of a page, in order. AssertionError for a fence whose mark is missing or unknown."""
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start("language")) + 1
        mark = _MARK.match(fence["mark"] or "")
        if fence["language"] == "text" and fence["mark"] is None:
            continue  # a drawing, a file's line
        assert mark, f"{page.name}:{line}: say above the fence whether it is run, as tests/snippets.py tells"
        assert (mark["word"] in ("run", "not run")) == (fence["language"] == "sh"), (
            f"{page.name}:{line}: {mark['word']} is not for {fence['language']}"
        )
        assert mark["rest"] or mark["word"] not in ("not run", "seen"), f"{page.name}:{line}: {mark['word']} without a reason or a command"
        body = re.sub(rf"^{fence['indent']}", "", fence["body"], flags=re.MULTILINE)
        found.append(Snippet(page.name, line, fence["language"], mark["word"], mark["rest"] or "", body))
    return found


class Shell:
    """Runs snippets in one folder. `names`: what stands in the page and what it is here, such as registry.example.com and localhost:38231."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], names: Mapping[str, str], need: Callable[[str], object] = lambda name: None
    ) -> None:
        """`need` is called with each program that a snippet wants, and skips or fails where it is absent."""
        self._folder, self._environment, self._need = folder, dict(environment), need
        self._names = sorted(names.items(), key=lambda pair: -len(pair[0]))
        self._printed = ""

    def here(self, text: str) -> str:
        for name, own in self._names:
            text = text.replace(name, own)
        return text

    def go(self, snippet: Snippet) -> None:
        """Run or compare. AssertionError with the output when it is not as the page says."""
        if snippet.word == "run":
            for program in snippet.programs:
                self._need(program)
            self._run(snippet, snippet.text, fails=snippet.must_fail)
        elif snippet.word == "seen":
            self._run(snippet, snippet.rest, fails=None)
            self._compare(snippet)
        elif snippet.word == "output":
            self._compare(snippet)

    def _run(self, snippet: Snippet, text: str, fails: bool | None) -> None:
        """`fails` None: either will do."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(text)],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
        )
        self._printed = done.stdout.decode(errors="replace")
        assert fails is None or bool(done.returncode) is fails, f"{snippet} ended with {done.returncode}\n{self.here(text)}\n{self._printed}"

    def _compare(self, snippet: Snippet) -> None:
        lines = [line for line in self.here(snippet.text).splitlines() if line.strip() not in ("", "…")]
        wanted = r"[\s\S]*?".join(r"[^\n]*?".join(map(re.escape, line.strip().split("…"))) for line in lines)
        assert re.search(wanted, self._printed), f"{snippet} shows\n{self.here(snippet.text)}\nand this came:\n{self._printed}"
