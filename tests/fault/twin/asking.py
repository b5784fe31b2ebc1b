"""Requests as many kinds of clients send them, made by chance from what a story knows."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate

from .wire import Request
from .world import BYPASS, DOCKER_TYPE, FILES, IMAGES, INDEX_TYPE, MANIFEST_TYPE, NAMES, TAGS, USERS

CLIENTS = tuple(f"198.51.100.{number}" for number in range(1, 9))
AGENTS = ("containerd/2.1.0", "docker/28.3.0 go/go1.24 kernel/6.1 os/linux", "curl/8.14.1", "skopeo/1.19.0", "")
HOSTS = ("r", "r", "r:4000", "registry.example.com", "127.0.0.1")
ACCEPTS = (MANIFEST_TYPE, DOCKER_TYPE, INDEX_TYPE, f"{MANIFEST_TYPE}, {INDEX_TYPE}, {DOCKER_TYPE}", "*/*", "text/html")
DIGESTS = tuple(dict.fromkeys(image.digest for image in IMAGES))
RANGES = ("bytes=0-0", "bytes=0-99", "bytes=-5", "bytes=100-", "bytes=0-1,4-5", "bytes=9999999-", "bytes=3-1", "lines=1-2")
ODD_TARGETS = (
    "/v2/team/none/manifests/v1",
    "/v2/team/app/manifests/no-such-tag",
    "/v2/team/app/blobs/sha256:00",
    "/v2/Team/App/manifests/v1",
    "/v2/team%2Fapp/manifests/v1",
    "/v2/team/app/manifests/%76%31",
    "/v2//team/app/manifests/v1",
    "/v2/team/app/manifests/v1?ns=docker.io",
    "/v2/team/app/manifests/v1/",
    "/raw/docs/%61.txt",
    "/raw/docs/./a.txt",
    "/raw/docs/a.txt?x=1",
    "/raw/none",
    "/raw/docs",
    "/repository/none/x",
    "/nothing",
    "*",
)


@dataclass
class Known:
    """What the story knows by now."""

    chance: random.Random
    tokens: list[str] = field(default_factory=list)
    """API tokens, revoked ones as well."""
    bearers: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    etags: list[str] = field(default_factory=lambda: ['"none"'])
    passwords: dict[str, str] = field(default_factory=dict)
    """That are right at the moment."""
    now: Callable[[], float] = lambda: 0.0


@dataclass(frozen=True, slots=True)
class Head:
    """A head without X-Request-Id; that is put in where `place` says."""

    method: str
    lines: tuple[bytes, ...]
    place: int
    credential: str = ""

    def request(self, number: int, chance: random.Random) -> Request:
        """The same once more."""
        lines = list(self.lines)
        luck = chance.random()
        id = b"t%d" % number
        if luck < 0.9:
            lines.insert(self.place, b"X-Request-Id: " + id)
        elif luck < 0.93:
            lines.insert(self.place, b"x-request-id: not valid \xe9")
            id = b""
        elif luck < 0.95:
            lines[self.place : self.place] = [b"X-Request-Id: " + id, b"X-Request-Id: other" + id]
            id = b""
        else:
            id = b""
        data = b"\r\n".join((*lines, b"", b""))
        return Request(data, self.method, id, chance.randrange(1, len(data)) if chance.random() < 0.01 else 0)


def head(known: Known) -> Head:
    chance = known.chance
    method = "HEAD" if chance.random() < 0.2 else "GET"
    old = chance.random() < 0.03
    fields = [("Host", chance.choice(HOSTS)), ("X-Forwarded-For", client(chance)), *_usual(known), *_conditions(known), *_rare(known)]
    if old:
        fields = fields[chance.randrange(2) :]
    elif chance.random() < 0.03:
        fields.append(("Connection", chance.choice(("close", "keep-alive", "Keep-Alive"))))
    if chance.random() < 0.3:
        chance.shuffle(fields)
    lines = [f"{method} {target(known)} HTTP/1.{0 if old else 1}".encode(), *(_field(name, value, chance) for name, value in fields)]
    return Head(method, tuple(lines), chance.randrange(1, len(lines) + 1))


def client(chance: random.Random) -> str:
    if chance.random() < 0.1:
        return f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(256)}"
    one = chance.choice(CLIENTS)
    return f"{one}, 127.0.0.1" if chance.random() < 0.05 else one


def _field(name: str, value: str, chance: random.Random) -> bytes:
    spelled = chance.choice((name, name, name, name.lower(), name.upper()))
    return f"{spelled}: {value}".encode("latin-1")


def target(known: Known) -> str:
    chance = known.chance
    name, luck = chance.choice(NAMES), chance.random()
    if luck < 0.3:
        return f"/v2/{name}/manifests/{chance.choice(TAGS)}"
    if luck < 0.42:
        return f"/v2/{name}/manifests/{chance.choice(DIGESTS)}"
    if luck < 0.56 and known.blobs:
        return f"/v2/{name}/blobs/{chance.choice(known.blobs)}"
    if luck < 0.72:
        return f"/raw/{chance.choice(FILES)}{chance.choice(('', '', '', '.sha256', '.md5'))}"
    return _rarer_target(known, name)


def _rarer_target(known: Known, name: str) -> str:
    chance = known.chance
    some = (
        lambda: f"/v2/{name}/tags/list{chance.choice(('', '?n=2', '?n=1&last=v1'))}",
        lambda: f"/v2/{name}/referrers/{chance.choice(DIGESTS)}",
        lambda: f"/repository/files/{chance.choice(FILES)}",
        lambda: f"/repository/raw/{chance.choice(FILES)}",
        lambda: f"/repository/{chance.choice(('mirror/app', 'docker/team/app'))}/manifests/{chance.choice(TAGS)}",
        lambda: chance.choice(ODD_TARGETS),
        lambda: "/v2/",
        lambda: "/api/v1/whoami",
        lambda: chance.choice(("/health", "/v2/_catalog", "/raw/docs/", "/raw/", "/", "/setup/")),
        lambda: f"/v2/token?service=r&scope=repository:{name}:pull",
    )
    return chance.choice(some)()


def _usual(known: Known) -> list[tuple[str, str]]:
    chance = known.chance
    fields = []
    if chance.random() < 0.7:
        fields.append(("User-Agent", chance.choice(AGENTS)))
    if chance.random() < 0.6:
        fields.append(("Accept", chance.choice(ACCEPTS)))
    if chance.random() < 0.4:
        fields.append(("Accept-Encoding", chance.choice(("gzip", "identity", "gzip, zstd"))))
    who = credential(known)
    return [*fields, ("Authorization", who)] if who else fields


def credential(known: Known) -> str:
    chance = known.chance
    luck = chance.random()
    if luck < 0.45:
        return ""
    if luck < 0.7 and known.tokens:
        token = chance.choice(known.tokens[-5:])
        return f"Bearer {token}" if chance.random() < 0.7 else basic("any", token)
    if luck < 0.8 and known.bearers:
        return f"Bearer {chance.choice(known.bearers[-3:])}"
    if luck < 0.98:
        name = chance.choice(tuple(USERS))
        right = known.passwords.get(name)
        return basic(name, right if right and chance.random() < 0.95 else chance.choice(USERS[name]))
    return chance.choice((basic("nobody", "x"), "Bearer nra_" + "0" * 32, "Bearer x.y.z", "Digest x", "Basic !"))


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def _conditions(known: Known) -> list[tuple[str, str]]:
    chance = known.chance
    luck = chance.random()
    if luck < 0.1:
        return [("If-None-Match", chance.choice(("*", _etag(known), f"W/{_etag(known)}, {_etag(known)}")))]
    if luck < 0.2:
        ranged = [("Range", chance.choice(RANGES))]
        return [*ranged, ("If-Range", _etag(known))] if chance.random() < 0.3 else ranged
    date = formatdate(known.now() + chance.choice((-4000, -1, 0, 4000)), usegmt=True)
    if luck < 0.24:
        return [("If-Modified-Since", date)]
    if luck < 0.26:
        return [("If-Match", _etag(known))] if chance.random() < 0.5 else [("If-Unmodified-Since", date)]
    return []


def _etag(known: Known) -> str:
    return known.chance.choice(known.etags[-24:])


def _rare(known: Known) -> list[tuple[str, str]]:
    chance = known.chance
    some = [
        ("Origin", chance.choice(("https://ui.example.com", "https://evil.example.org", "null"))),
        ("Sec-Fetch-Site", chance.choice(("same-origin", "cross-site"))),
        ("X-Nora-Bypass-Token", chance.choice((BYPASS, "wrong"))),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "front.example.com"),
        ("Forwarded", "for=192.0.2.60;proto=http"),
        ("Cookie", "a=b"),
        ("Content-Length", "0"),
        ("X-Trace", "abc"),
        ("Cache-Control", "no-cache"),
    ]
    return [one for one in some if chance.random() < 0.03]
