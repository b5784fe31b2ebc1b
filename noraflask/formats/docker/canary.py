"""A canary image, pushed and pulled through the real front as a client would, with a look at each thing that proxies get wrong.

It lives in a name of its own, is removed whatever happens, and its bytes are the same for each run, so that what storage keeps of them until a
garbage collection is there once. Sections named are those of the OCI distribution-spec.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from noraflask.formats.docker.canary_answers import judge_location, judge_pull, missing_headers, remedy_of_413
from noraflask.services.doctor import remedies
from noraflask.services.doctor.findings import NAME, Finding, ok, warning, wrong
from noraflask.services.doctor.front import Answer, Exchange, Front, NoAnswer
from noraflask.services.doctor.machine import MIB, size_text

ANNOUNCED_BYTES = 5 * 1024 * MIB
"""As large as layers get: what a limit of the proxy says to that is asked by announcing it, not by sending it."""
EARLY_SECONDS = 2.0
"""A proxy that refuses a length says so at once."""
HELD_BYTES = 8 * MIB
"""Of the body that is held half-way; the registry takes bodies in pieces of 1 MiB."""
SEEN_SECONDS = 5.0
POLL_SECONDS = 0.1
BROKEN = (400, 408, 499, 502, 503, 504)
"""What proxies, and the registry, say of a body that did not come in time; 499 is nginx's and Caddy's own."""
SMALL_BYTES = 256 * 1024
"""Instead of the wanted size, behind a proxy that refuses that."""
PIECE_BYTES = 64 * 1024
OCTETS: Mapping[str, str] = {"Content-Type": "application/octet-stream"}
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'


@dataclass(frozen=True)
class Layer:
    """Bytes that no proxy can compress, the same for the same size and name."""

    name: str
    size: int

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """In `PIECE_BYTES`; `start` and `stop` are multiples of that, or the size."""
        block = random.Random(self.name).randbytes(PIECE_BYTES)
        for offset in range(start, self.size if stop is None else stop, PIECE_BYTES):
            numbered = offset.to_bytes(8, "big") + block[8:]
            yield numbered[: min(PIECE_BYTES, self.size - offset)]

    @property
    def digest(self) -> str:
        return hash_of(self.pieces())


def hash_of(pieces: Iterable[bytes]) -> str:
    hashed = hashlib.sha256()
    for piece in pieces:
        hashed.update(piece)
    return f"sha256:{hashed.hexdigest()}"


class Stop(Exception):
    """What comes next makes no sense any more; the finding says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


@dataclass
class Canary:
    front: Front
    size: int = HELD_BYTES
    pause_seconds: float = 5.0
    name: str = field(default_factory=lambda: f"{NAME}/{secrets.token_hex(6)}")
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    paths: list[str] = field(default_factory=list)
    """What must be deleted at the end, the last first."""
    blobs: dict[str, int] = field(default_factory=dict)
    """Sizes of what was pushed, by digest."""
    is_limited: bool = False
    """A body limit stands in the way of the checks that need a large body."""

    def run(self) -> Iterator[Finding]:
        """Every finding. Whoever ends the iteration early, or is interrupted, has the canary removed as well."""
        try:
            try:
                for step in (
                    self.body_limit,
                    self.push_at_once,
                    self.push_in_pieces,
                    self.push_image,
                    self.pull,
                    self.accel,
                    self.range,
                    self.manifest,
                ):
                    yield from step()
            except Stop as stop:
                yield stop.finding
            except NoAnswer as problem:
                yield wrong("canary", f"the connection broke: {problem}", *remedies.TIMEOUT)
        finally:
            left = self.clean_up()
        yield left

    # Pushing.

    def body_limit(self) -> Iterator[Finding]:
        """Announce a layer of 5 GiB: a proxy with a smaller limit refuses it before the first byte."""
        check = "body limit"
        session = self._begin(check, None)
        exchange = self.front.begin("PUT", f"{session}?digest=sha256:{'0' * 64}", OCTETS, ANNOUNCED_BYTES, timeout=EARLY_SECONDS)
        exchange.send(b"\0")
        answer = exchange.early_answer()
        exchange.close()
        self._cancel(session)
        if answer is None:
            yield ok(check, f"a layer of {size_text(ANNOUNCED_BYTES)} may come")
        elif answer.status == 413 and answer.is_ours:
            yield warning(check, f"the registry itself takes no layer of {size_text(ANNOUNCED_BYTES)}", "docker.max_upload_session_size_mb = 20480")
        elif answer.status == 413:
            self.is_limited = True
            yield wrong(check, f"the proxy takes no layer of {size_text(ANNOUNCED_BYTES)}: {answer.told()}", *remedies.BODY_LIMIT)
        else:
            yield wrong(check, f"a layer of {size_text(ANNOUNCED_BYTES)} is refused before it came: {answer.told()}", *remedies.BODY_LIMIT)

    def push_at_once(self) -> Iterator[Finding]:
        """ "Single POST" apart, the usual way of one body of known length: POST, PUT."""
        layer = Layer("at once", self.size)
        problems: list[Finding] = []
        session = self._begin("Location", problems)
        yield from problems or [ok("Location", f"leads to {self.front.target.base}")]
        answer = self.front.ask("PUT", f"{session}?digest={layer.digest}", layer.pieces(), OCTETS, length=layer.size)
        if answer.status == 413 and layer.size > SMALL_BYTES:
            self.is_limited = True
            yield wrong("push", f"a layer of {size_text(layer.size)} is refused: {answer.told()}", *remedy_of_413(answer))
            layer = Layer("at once", SMALL_BYTES)
            session = self._begin("push", None)
            answer = self.front.ask("PUT", f"{session}?digest={layer.digest}", layer.pieces(), OCTETS, length=layer.size)
        self._expect("push", answer, 201, f"a layer of {size_text(layer.size)}")
        self._pushed(layer.digest, layer.size)
        yield ok("push", f"a layer of {size_text(layer.size)} in one body")

    def push_in_pieces(self) -> Iterator[Finding]:
        """As docker does: one PATCH of unknown length. It is held half-way, and a second connection asks what the registry has seen by then.

        The last piece comes in a PATCH of its own, as from a client that goes on after a broken connection.
        """
        if self.is_limited:
            yield warning("request buffering", "not tried: the body limit comes first")
            return
        layer = Layer("in pieces", max(self.size - self.size % (2 * PIECE_BYTES), HELD_BYTES))
        session, half = self._begin("request buffering", None), layer.size // 2 // PIECE_BYTES * PIECE_BYTES
        exchange = self.front.begin("PATCH", session, OCTETS, None, timeout=self.pause_seconds + 60)
        try:
            sent = all(exchange.send(piece) for piece in layer.pieces(0, half))
            seen = sent and self._is_seen(session)
            if sent and not seen:
                yield wrong(
                    "request buffering",
                    f"after {size_text(half)} of a layer the registry has seen none of it: the proxy keeps uploads until they are complete",
                    *remedies.REQUEST_BUFFERING,
                )
            elif sent:
                yield ok("request buffering", "none: what a client sends reaches the registry at once")
            yield from self._second_half(exchange, layer, session, half)
        finally:
            exchange.close()

    def _second_half(self, exchange: Exchange, layer: Layer, session: str, half: int) -> Iterator[Finding]:
        if self.pause_seconds:
            self.sleep(self.pause_seconds)
        last = layer.size - PIECE_BYTES
        for piece in layer.pieces(half, last):
            if not exchange.send(piece):
                break
        what = f"a pause of {self.pause_seconds:g} s within a layer"
        try:
            answer = exchange.finish()
        except NoAnswer as problem:
            self._cancel(session)
            yield wrong("pause", f"{what} is not survived: {problem}", *remedies.TIMEOUT)
            return
        if answer.status == 413:
            self._cancel(session)
            yield wrong("body limit", f"a layer of unknown length is refused: {answer.told()}", *remedy_of_413(answer))
            return
        if answer.status in BROKEN:
            self._cancel(session)
            yield wrong("pause", f"{what} is not survived: {answer.told()}", *remedies.TIMEOUT)
            return
        self._expect("chunked push", answer, 202, "a layer in chunks")
        goes_on = {**OCTETS, "Content-Range": f"{last}-{layer.size - 1}"}
        answer = self.front.ask("PATCH", session, layer.pieces(last), goes_on, length=PIECE_BYTES)
        self._expect("chunked push", answer, 202, "a chunk with Content-Range")
        done = self.front.ask("PUT", f"{session}?digest={layer.digest}", headers=OCTETS)
        self._expect("chunked push", done, 201, "the end of a layer in chunks")
        self._pushed(layer.digest, layer.size)
        yield ok("chunked push", f"a layer of {size_text(layer.size)} in chunks, with {what}")

    def _is_seen(self, session: str) -> bool:
        """Has any byte of the upload that is being sent come to the registry? `Range: 0-<last>` of its state."""
        deadline = self.clock() + SEEN_SECONDS
        while True:
            answer = self.front.ask("GET", session)
            if answer.status == 204 and answer.headers.get("Range", "0-0").rpartition("-")[2] not in ("", "0"):
                return True
            if self.clock() > deadline:
                return False
            self.sleep(POLL_SECONDS)

    def push_image(self) -> Iterator[Finding]:
        digest = hash_of([CONFIG])
        answer = self.front.ask("POST", f"{self._path('blobs/uploads/')}?digest={digest}", CONFIG, OCTETS)
        if answer.status == 202:  # allowed by the specification: no registry must take all in one request
            session = self.front.resolve(answer.headers.get("Location", ""), self._path("blobs/uploads/"))
            answer = self.front.ask("PUT", f"{self._own_path(session)}?digest={digest}", CONFIG, OCTETS)
        self._expect("manifest", answer, 201, "a configuration")
        self._pushed(digest, len(CONFIG))
        data = self._image(digest)
        answer = self.front.ask("PUT", self._path("manifests/canary"), data, {"Content-Type": MANIFEST})
        self._expect("manifest", answer, 201, "a manifest")
        own = hash_of([data])
        self.paths.append(self._path(f"manifests/{own}"))
        wanted = self._path(f"manifests/{own}")
        if self._own_path(self.front.resolve(answer.headers.get("Location", wanted), self._path("manifests/canary"))) != wanted:
            yield wrong("Location", f"of a manifest leads to {answer.headers['Location']}", *self._address_remedy())

    def _image(self, config: str) -> bytes:
        layers = [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size}
            for digest, size in self.blobs.items()
            if digest != config
        ]
        described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": len(CONFIG)}
        return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": layers}).encode()

    # Pulling.

    def pull(self) -> Iterator[Finding]:
        digest, size = self._first()
        path = self._path(f"blobs/{digest}")
        answer = self.front.ask("GET", path, headers={"Accept-Encoding": "identity"})
        if answer.status == 403 and answer.is_ours:  # what a canary pushes has no age and is on no list
            raise Stop(
                warning("pull", f"not tried: {answer.told()}", f'[[allow]]   format = "docker"   name = "{NAME}/**"   (in curation.rules_path)')
            )
        yield judge_pull(answer, digest, size)
        head = self.front.ask("HEAD", path)
        if head.status != 200 or head.headers.get("Content-Length") != str(size):
            told = f"Content-Length {head.headers.get('Content-Length') or 'is missing'}, expected {size}" if head.status == 200 else head.told()
            yield wrong("HEAD", f"of a layer: {told}", *remedies.ANSWER_HEADERS)
        else:
            yield ok("HEAD", "tells the size of a layer")

    def accel(self) -> Iterator[Finding]:
        """The proxy alone may say that it hands out files (server.accel_redirect): of a client that says so it must not be passed on."""
        answer = self.front.ask("GET", self._path(f"blobs/{hash_of([CONFIG])}"), headers={"X-Nora-Accel": "on"})
        if answer.headers.get("X-Accel-Redirect"):
            yield wrong("accel", "the proxy passes X-Nora-Accel of clients on, and they get an empty answer for it", *remedies.ACCEL)

    def range(self) -> Iterator[Finding]:
        """As clients go on after a broken connection: the rest, if it is still the same."""
        digest, size = self._first()
        path, start = self._path(f"blobs/{digest}"), size // 2 // PIECE_BYTES * PIECE_BYTES
        rest = hash_of(Layer("at once", size).pieces(start))
        for headers, what in (({}, "Range"), ({"If-Range": f'"{digest}"'}, "Range with If-Range")):
            answer = self.front.ask("GET", path, headers={"Range": f"bytes={start}-", "Accept-Encoding": "identity", **headers})
            wanted = f"bytes {start}-{size - 1}/{size}"
            if answer.status != 206:
                yield wrong("range", f"{what} is answered with {answer.told()} instead of 206: no pull can be resumed", *remedies.RANGE)
                return
            if answer.headers.get("Content-Range") != wanted or answer.digest != rest:
                told = answer.headers.get("Content-Range") or "no Content-Range"
                yield wrong("range", f"{what} gives other bytes than asked for: {told}, expected {wanted}", *remedies.RANGE)
                return
        yield ok("range", "206 with the bytes asked for: a broken pull can be resumed")

    def manifest(self) -> Iterator[Finding]:
        """With gzip offered, as docker does for manifests."""
        digest = self.paths[-1].rpartition("/")[2]
        for method in ("HEAD", "GET"):
            answer = self.front.ask(method, self._path("manifests/canary"), headers={"Accept": MANIFEST, "Accept-Encoding": "gzip"})
            if answer.status != 200:
                yield wrong("manifest", f"{method}: {answer.told()}", *remedies.UPSTREAM)
                return
            lost = list(missing_headers(answer.headers, digest))
            if lost:
                yield wrong("manifest", f"{method}: the proxy changes what the registry says: {', '.join(lost)}", *remedies.ANSWER_HEADERS)
                return
        if answer.digest != digest:
            yield wrong("manifest", "other bytes come back than were pushed", *remedies.COMPRESSION)
            return
        yield ok("manifest", "pushed and pulled; Docker-Content-Digest and ETag come through")

    # Cleaning up.

    def clean_up(self) -> Finding:
        """Delete what was pushed, cancel what was begun. Never raises."""
        left = []
        for path in reversed(self.paths):
            try:
                answer = self.front.ask("DELETE", path)
                if answer.status not in (202, 204, 404):
                    left.append(f"{answer.told()} for {path}")
            except NoAnswer as problem:
                left.append(f"{problem} for {path}")
        self.paths.clear()
        if left:
            return warning("clean-up", f"{len(left)} objects stay in {self.name}: {left[0]}", *remedies.METHODS, "or a login that may delete there")
        return ok("clean-up", f"{self.name} is removed again")

    # Shared by the steps.

    def _begin(self, check: str, problems: list[Finding] | None) -> str:
        """Start an upload; its path. `problems` takes what is wrong with its Location. Raises Stop."""
        asked = self._path("blobs/uploads/")
        answer = self.front.ask("POST", asked)
        self._expect(check, answer, 202, "the start of an upload")
        location = answer.headers.get("Location", "")
        absolute = self.front.resolve(location, asked)
        if problems is not None:
            problems.extend(judge_location(self.front, location, absolute, asked, self._address_remedy()))
        path = self._own_path(absolute)
        self.paths.append(path)
        return path

    def _cancel(self, session: str) -> None:
        try:
            answer = self.front.ask("DELETE", session)
        except NoAnswer:
            return  # it stays on the list
        if answer.status in (204, 404):
            self.paths.remove(session)

    def _pushed(self, digest: str, size: int) -> None:
        """The last upload has become this blob."""
        if self.paths and "/blobs/uploads/" in self.paths[-1]:
            self.paths.pop()
        self.blobs[digest] = size
        self.paths.append(self._path(f"blobs/{digest}"))

    def _first(self) -> tuple[str, int]:
        return next(iter(self.blobs.items()))

    def _path(self, rest: str) -> str:
        return f"{self.front.target.prefix}/v2/{self.name}/{rest}"

    def _own_path(self, url: str) -> str:
        """The path that leads there through the front, also where the address was wrong: what else is wrong shall be found in the same run."""
        path = urlsplit(url).path
        start = path.find("/v2/")
        return self.front.target.prefix + path[start:] if start >= 0 else path

    def _expect(self, check: str, answer: Answer, status: int, what: str) -> None:
        """Raises Stop."""
        if answer.status == status:
            return
        if answer.status in (401, 403) and answer.is_ours:
            raise Stop(wrong(check, f"{what} is refused: {answer.told()}", remedies.LOGIN))
        if answer.status == 413:
            raise Stop(wrong(check, f"{what} is refused: {answer.told()}", *remedy_of_413(answer)))
        if answer.status == 405 or (answer.status == 403 and not answer.is_ours):
            raise Stop(wrong(check, f"{what} is refused: {answer.told()}", *remedies.METHODS))
        if answer.status in (502, 503, 504) and not answer.is_ours:
            raise Stop(wrong(check, f"{what}: the proxy does not reach the registry: {answer.told()}", *remedies.UPSTREAM))
        raise Stop(wrong(check, f"{what} is answered with {answer.told()} instead of {status}"))

    def _address_remedy(self) -> tuple[str, ...]:
        return remedies.outside_address(self.front.target.base, self.front.target.prefix)
