"""Views that wait for their body: driven on this thread, and suspended by a server that can."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest

from noraflask import suspension
from noraflask.errors import ClientGone, TooLarge
from noraflask.services.upload import read_document
from noraflask.suspension import SUSPENDS, Later, NotYet, Steps, Suspended, drive, receive_now


class Trickle(io.RawIOBase):
    """A body that comes in pieces; between them nothing is there."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.is_whole = False
        self.asked = 0

    def read(self, size: int | None = -1) -> bytes:
        self.asked += 1
        if self.asked % 2:
            raise BlockingIOError
        return self.pieces.pop(0) if self.pieces else b""


def collect(pause: Suspended, body: Trickle) -> BaseException | None:
    """What the server does."""
    while True:
        try:
            if pause.reception.take(body):
                return None
        except BlockingIOError:
            continue
        except Exception as error:
            return error


def test_a_view_is_driven_to_its_end(tmp_path):
    def view() -> Steps[bytes]:
        first = yield from read_document(str(tmp_path), 100)
        yield Later()
        return first

    assert drive(view(), io.BytesIO(b"abc")) == b"abc"


def test_what_ends_a_body_is_raised_in_the_view(tmp_path):
    def view() -> Steps[str]:
        try:
            yield from read_document(str(tmp_path), 2)
        except TooLarge as problem:
            return f"refused: {problem.status}"
        return "taken"

    assert drive(view(), io.BytesIO(b"abc")) == "refused: 413"


def test_later_lasts_however_often_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked twice in a row when the body is there already: receive_now() looks, and then the server."""
    now = [100.0]
    monkeypatch.setattr(suspension.time, "monotonic", lambda: now[0])
    body, later = io.BytesIO(), Later()
    for _ in range(3):
        with pytest.raises(NotYet):
            later.take(body)
    now[0] += suspension.LATER_SECONDS
    assert later.take(body)


def test_only_a_body_that_is_in_memory_is_taken_at_once():
    with pytest.raises(BlockingIOError):
        receive_now(Later(), Trickle(b"x"))


def test_a_slow_document_leaves_memory(tmp_path):
    """2,000 clients that send 4 MB each, slowly, are not 8 GB."""
    steps = read_document(str(tmp_path), 1 << 20)
    document = next(steps)
    for _ in range(100):
        document.take(io.BytesIO(b"x" * 1000))
    assert document._file._rolled  # type: ignore[attr-defined]
    steps.close()


class Start:
    """start_response."""

    status = ""

    def __call__(self, status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], None]:
        self.status = status
        return lambda data: None


def environ_of(body: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "PUT",
        "PATH_INFO": "/v2/app/manifests/t",
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "QUERY_STRING": "",
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_HOST": "x",
        "SCRIPT_NAME": "",
        "CONTENT_LENGTH": "2",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        SUSPENDS: True,
        "CONTENT_TYPE": "application/json",
    }


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "metrics"))
    from noraflask.app import create_app
    from noraflask.config import load

    environ = {"NORA_STORAGE_PATH": str(tmp_path / "s"), "NORA_STAGING_PATH": str(tmp_path / "t"), "NORA_STATE_PATH": str(tmp_path / "n")}
    return create_app(load(environ=environ))


def test_a_request_goes_on_where_it_waited_on_another_thread(app):
    body, start = Trickle(b"{", b"}"), Start()
    with pytest.raises(Suspended) as caught:
        app.wsgi_app(environ_of(body), start)
    assert not start.status
    answers: list[bytes] = []

    def go_on() -> None:
        answers.append(b"".join(caught.value.resume(collect(caught.value, body), start)))

    thread = threading.Thread(target=go_on)
    thread.start()
    thread.join(10)
    assert start.status.startswith("400")
    assert b"MANIFEST_INVALID" in answers[0]
    assert body.pieces == []


def test_it_is_refused_before_its_body_is_asked_for(app):
    body, start = Trickle(b"{}"), Start()
    environ = environ_of(body) | {"PATH_INFO": "/v2/UPPER/manifests/t"}
    b"".join(app.wsgi_app(environ, start))
    assert start.status.startswith("400")
    assert body.asked == 0


def test_an_error_of_the_body_is_answered_in_the_format_of_the_request(app):
    body, start = Trickle(), Start()
    with pytest.raises(Suspended) as caught:
        app.wsgi_app(environ_of(body), start)
    answer = b"".join(caught.value.resume(ClientGone("gone"), start))
    assert start.status.startswith("400")
    assert b'"errors"' in answer


def test_a_suspended_request_counts_once(app):
    body, start = Trickle(b"{}"), Start()
    with pytest.raises(Suspended) as caught:
        app.wsgi_app(environ_of(body), start)
    answer = caught.value.resume(collect(caught.value, body), start)
    b"".join(answer)
    answer.close()  # type: ignore[attr-defined]
    with app.test_client() as client:
        lines = client.get("/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("nora_http_requests_total") and 'status="400"' in line and 'method="PUT"' in line]
    assert [line.rpartition(" ")[2] for line in counted if 'registry="docker"' in line] == ["1.0"]
