"""The server with a tiny application instead of the registry: `python -m tests.fault.bare_server '{"port": 4100, "workers": 1}'`.

The argument is a ServerConfig as JSON, with `folder` for the files that the application serves and waits for.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from noraflask.config import Config, LoggingConfig, ServerConfig
from noraflask.serve import run
from noraflask.suspension import SUSPENDS, NotYet, Suspended, receive_now

MIB = 1024 * 1024
TEXT = [("Content-Type", "text/plain")]


class Application:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self.running = 0
        self.closed: list[str] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        name = environ["PATH_INFO"].strip("/").replace("-", "_") or "small"
        return getattr(self, name, self.unknown)(environ, start)

    def text(self, start: Callable[..., Any], text: str, status: str = "200 OK") -> list[bytes]:
        body = text.encode()
        start(status, [*TEXT, ("Content-Length", str(len(body)))])
        return [body]

    def unknown(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        return self.text(start, "unknown", "404 Not Found")

    def health(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        return self.text(start, "well")

    def small(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        return self.text(start, "x" * 700)

    def pid(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        return self.text(start, str(os.getpid()))

    def environ(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        return self.text(start, json.dumps({key: value for key, value in environ.items() if isinstance(value, str)}))

    def descriptors(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        return self.text(start, str(len(os.listdir("/proc/self/fd"))))

    def busy(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """Holds its thread until the file `go` exists."""
        with self.lock:
            self.running += 1
            (self.folder / f"busy-{os.getpid()}-{self.running}").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.02)
        return self.text(start, "done")

    def body(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """Takes the body in pieces; tells its length, or what went wrong."""
        taken = Taken()

        def go_on(error: BaseException | None, start: Callable[..., Any]) -> Any:
            if isinstance(error, OSError):
                (self.folder / "error").write_text(f"{type(error).__name__} {error.status} {taken.size}")  # type: ignore[attr-defined]
                return self.text(start, type(error).__name__, f"{error.status} Failed")  # type: ignore[attr-defined]
            return self.text(start, str(taken.size))

        return waited(environ, start, taken, go_on)

    def raw_body(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """Does not catch anything."""
        taken = Taken()

        def go_on(error: BaseException | None, start: Callable[..., Any]) -> Any:
            if error:
                raise error
            return self.text(start, str(taken.size))

        return waited(environ, start, taken, go_on)

    def later(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """Has no body, and waits until the file `go` exists."""
        go = Awaited(self.folder / "go")
        if SUSPENDS in environ:
            raise Suspended(go, lambda problem, start: self.text(start, type(problem).__name__, "503 Failed" if problem else "200 OK"))
        while not go.path.exists():
            time.sleep(0.02)
        return self.text(start, "waited on the thread")

    def early(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """Answers without reading the body."""
        return self.text(start, "no", "401 Unauthorized")

    def big(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        return self.file(environ, start, "big", (self.folder / "big").stat().st_size)

    def short(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """A large file that is shorter than its Content-Length."""
        return self.file(environ, start, "big", (self.folder / "big").stat().st_size + 1)

    def short_small(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        return self.file(environ, start, "little", (self.folder / "little").stat().st_size + 1)

    def part(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """Bytes 3 to 5 of a file."""
        return self.file(environ, start, "little", 3, seek=3)

    def file(self, environ: dict[str, Any], start: Callable[..., Any], name: str, size: int, seek: int = 0) -> Any:
        file = open(self.folder / name, "rb")  # noqa: SIM115
        file.seek(seek)
        start("200 OK", [("Content-Length", str(size))])
        wrapper = environ["wsgi.file_wrapper"](file)
        close = wrapper.close

        def note() -> None:
            close()
            self.note(environ)

        wrapper.close = note
        return wrapper

    def stream(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """No length: chunked for HTTP/1.1, the end of the connection for HTTP/1.0."""
        start("200 OK", TEXT)
        return Noted((b"chunk %d\n" % number for number in range(1000)), lambda: self.note(environ))

    def endless(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        start("200 OK", TEXT)
        return Noted(iter(lambda: b"x" * MIB, b""), lambda: self.note(environ))

    steady = endless

    def long_list(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        start("200 OK", [*TEXT, ("Content-Length", "4")])
        return [b"ab", b"cd", b"ef"]

    def crash(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        raise RuntimeError("crash as asked")

    def crash_late(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        def body() -> Iterator[bytes]:
            yield b"first"
            raise RuntimeError("late crash as asked")

        start("200 OK", [*TEXT, ("Content-Length", "100")])
        return Noted(body(), lambda: self.note(environ))

    def exits(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        raise SystemExit(3)

    def split(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        start("200 OK", [("X-Split", "a\r\nSet-Cookie: b")])
        return [b"x"]

    def nothing(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        start("204 No Content", [("Content-Length", "5")])
        return [b"xxxxx"]

    def nested(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """Deep recursion in C and Python on a request thread."""
        try:
            json.loads("[" * 100_000)
        except RecursionError:
            return self.text(start, "RecursionError")
        return self.text(start, "parsed")

    def note(self, environ: dict[str, Any]) -> None:
        self.closed.append(f"{environ['PATH_INFO']} {environ.get('nora.cut', 'sent')}")

    def closes(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        return self.text(start, json.dumps(self.closed))


class Taken:
    """Counts a body."""

    size = 0

    def take(self, body: Any, /) -> bool:
        data = body.read(MIB)
        self.size += len(data)
        return not data


class Awaited:
    """Waits for a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, body: Any, /) -> bool:
        if not self.path.exists():
            raise NotYet
        return True


def waited(environ: dict[str, Any], start: Callable[..., Any], taken: Taken, go_on: Callable[..., Any]) -> Any:
    """What noraflask/web/flask_app.py does for a view."""
    try:
        problem = receive_now(taken, environ["wsgi.input"])
    except BlockingIOError:
        raise Suspended(taken, go_on) from None
    return go_on(problem, start)


class Noted:
    def __init__(self, chunks: Iterator[bytes], close: Callable[[], None]) -> None:
        self._chunks, self.close = chunks, close

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    folder = Path(settings.pop("folder"))
    run(Config(server=ServerConfig(**settings), logging=LoggingConfig(format="text", level="info")), lambda: Application(folder))
