"""A headless browser of a person, driven over WebDriver (W3C) by chromedriver."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.client.tools import clean_environment, tool
from tests.server import free_port, wait_until

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The name under which WebDriver gives an element."""


class Browser:
    def __init__(self, session: str) -> None:
        self._session = session

    def go(self, url: str) -> None:
        self._ask("POST", "url", {"url": url})

    def click(self, text: str) -> None:
        """On a link."""
        found = self._ask("POST", "element", {"using": "link text", "value": text})
        self._ask("POST", f"element/{found[ELEMENT]}/click", {})

    @property
    def url(self) -> str:
        return str(self._ask("GET", "url"))

    @property
    def title(self) -> str:
        return str(self._ask("GET", "title"))

    @property
    def links(self) -> list[str]:
        """Texts of all."""
        found = self._ask("POST", "elements", {"using": "css selector", "value": "a"})
        return [str(self._ask("GET", f"element/{element[ELEMENT]}/text")) for element in found]

    @property
    def text(self) -> str:
        """Of the page, as it is shown."""
        found = self._ask("POST", "element", {"using": "css selector", "value": "body"})
        return str(self._ask("GET", f"element/{found[ELEMENT]}/text"))

    def run(self, script: str, *arguments: Any) -> Any:
        """The body of an asynchronous function, as the page's own; what it returns. What it throws is the text of that."""
        code = f"const done = arguments[arguments.length - 1]; (async () => {{{script}}})().then(done, problem => done(String(problem)))"
        return self._ask("POST", "execute/async", {"script": code, "args": list(arguments)})

    def _ask(self, method: str, path: str, members: Any = None) -> Any:
        return ask(method, f"{self._session}/{path}", members)


def ask(method: str, url: str, members: Any = None) -> Any:
    body = None if members is None else json.dumps(members).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return json.load(answer)["value"]


@contextlib.contextmanager
def browser(downloads: Path, *options: str) -> Iterator[Browser]:
    """Saves what it is sent for saving in `downloads`. `options`: more of the program."""
    path, driver = tool("chromium"), tool("chromedriver")
    home = Path(tempfile.mkdtemp(prefix="nf-", dir="/var/tmp"))  # not below pytest's folder: its socket's path must be short
    try:
        with _driven(home, path, driver, downloads, options) as person:
            yield person
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _driven(home: Path, path: str, driver_path: str, downloads: Path, more: tuple[str, ...]) -> Iterator[Browser]:
    port = free_port()
    driver = subprocess.Popen([driver_path, f"--port={port}"], env=clean_environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        base = f"http://127.0.0.1:{port}"
        wait_until(lambda: _is_ready(base), 30, "chromedriver to be ready")
        arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={home / 'profile'}", *more]
        options = {
            "binary": path,
            "args": arguments + (["--no-sandbox"] if os.geteuid() == 0 else []),
            "prefs": {"download.default_directory": str(downloads), "download.prompt_for_download": False},
        }
        made = ask("POST", f"{base}/session", {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}})
        session = f"{base}/session/{made['sessionId']}"
        try:
            yield Browser(session)
        finally:
            ask("DELETE", session)
    finally:
        driver.terminate()
        driver.wait(30)


def _is_ready(base: str) -> bool:
    try:
        return bool(ask("GET", f"{base}/status")["ready"])
    except OSError:
        return False
