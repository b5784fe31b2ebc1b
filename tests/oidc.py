"""A small real OIDC issuer on loopback: discovery, keys, tokens, rotation and outages.

with Issuer() as issuer:
    config = issuer.provider(role_rules=(RoleRule("repo:team/*", "write"),))     # an OidcProvider, or write issuer.url into a config.toml
    token = issuer.token(sub="repo:team/app", aud="registry")                    # alg="ES256", lifetime=…, iat=None (leaves it out), any claim
    issuer.rotate(keep=False)                                                    # new keys; the old ones are no longer published
    issuer.down()                                                                # refuses connections; down(503) answers that
    issuer.up()
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from noraflask.config import OidcProvider, RoleRule

DISCOVERY, JWKS = "/.well-known/openid-configuration", "/keys"
KINDS = {"RS": "rsa", "PS": "rsa", "ES": "ec", "Ed": "ed"}


_making = threading.Lock()


def private_key(kind: str, number: int) -> Any:
    """The same in all tests of a run: RSA keys take long to make."""
    with _making:  # a test and its issuer's threads may ask for a key at the same time; a cache alone would give each its own
        return _private_key(kind, number)


@cache
def _private_key(kind: str, number: int) -> Any:
    make: dict[str, Callable[[], Any]] = {
        "rsa": lambda: RSAKey.generate_key(2048),
        "ec": lambda: ECKey.generate_key("P-256"),
        "ed": lambda: OKPKey.generate_key("Ed25519"),
    }
    return make[kind]()


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(header: dict[str, Any] | bytes, payload: dict[str, Any] | bytes, key: Any, alg: str) -> str:
    """A JWT of any header and payload, sound or not."""
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload))
    signed = ".".join(map(base64url, parts))
    return f"{signed}.{base64url(JWSRegistry.algorithms[alg].sign(signed.encode(), key))}"


class Issuer:
    """`tls`: a folder for certificates; the issuer is then on https and `ca_file` is what to trust."""

    def __init__(self, tls: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.number = 1
        self.published = [1]
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Path and headers of each request."""
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        """Path -> status, headers, body, in place of the usual."""
        self.headers: dict[str, str] = {}
        """Sent with the keys."""
        self.ca_file = tls / "ca.pem" if tls else None
        self._context = _tls_context(tls) if tls else None
        self._status = 200
        self._delay, self._hurry = 0.0, threading.Event()
        self._server: _Server | None = None
        self._port = 0
        self.up()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.slow(0)
        self.down()

    # What an operator configures.

    def provider(self, **changes: Any) -> OidcProvider:
        usual = {"name": "ci", "issuer": self.url, "audience": ("registry",), "algorithms": ("RS256", "ES256", "Ed25519"), "ca_file": self.ca_file}
        return OidcProvider(**{**usual, "role_rules": (RoleRule("*", "write"),), **changes})

    # Tokens and keys.

    def claims(self, sub: str = "repo:team/app", aud: Any = "registry", lifetime: float = 600, **changes: Any) -> dict[str, Any]:
        now = int(self.clock())
        found = {"iss": self.url, "sub": sub, "aud": aud, "iat": now, "exp": now + lifetime, **changes}
        return {name: value for name, value in found.items() if value is not None}

    def token(self, alg: str = "RS256", header: dict[str, Any] | None = None, **claims: Any) -> str:
        """`header` adds members; a claim or a member that is None is left out."""
        members = {"alg": alg, "typ": "JWT", "kid": self.kid(alg), **(header or {})}
        return sign({name: value for name, value in members.items() if value is not None}, self.claims(**claims), self.key(alg), alg)

    def kid(self, alg: str = "RS256") -> str:
        return f"{KINDS[alg[:2]]}-{self.number}"

    def key(self, alg: str = "RS256") -> Any:
        return private_key(KINDS[alg[:2]], self.number)

    def rotate(self, keep: bool = True) -> None:
        """New keys; `keep` publishes the old ones still."""
        self.number += 1
        self.published = [*self.published, self.number] if keep else [self.number]

    def jwks(self) -> dict[str, Any]:
        made = ((kind, number) for number in self.published for kind in sorted(set(KINDS.values())))
        return {"keys": [{**private_key(*of).as_dict(private=False), "kid": f"{of[0]}-{of[1]}", "use": "sig"} for of in made]}

    # Faults.

    def down(self, status: int | None = None) -> None:
        if status:
            self._status = status
        elif self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def up(self) -> None:
        self._status = 200
        if self._server is None:
            self._server = _Server(("127.0.0.1", self._port), self, self._context)
            self._port = self._server.server_address[1]
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="issuer", daemon=True).start()

    def slow(self, seconds: float) -> None:
        """Each answer from now on takes so long; those that are waiting go out at once."""
        self._hurry.set()
        self._delay, self._hurry = seconds, threading.Event()

    def count(self, path: str = JWKS) -> int:
        return [asked for asked, _ in self.requests].count(path)

    # The HTTP side.

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self._delay:
            self._hurry.wait(self._delay)
        if self._status != 200:
            return self._status, {}, b""
        if path in self.answers:
            return self.answers[path]
        if path == DISCOVERY:
            return 200, {}, json.dumps({"issuer": self.url, "jwks_uri": self.url + JWKS}).encode()
        if path == JWKS:
            return 200, self.headers, json.dumps(self.jwks()).encode()
        return 404, {}, b""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], issuer: Issuer, context: ssl.SSLContext | None) -> None:
        super().__init__(address, _Handler)
        self.issuer = issuer
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that distrusts the certificate, or has gone, is no error of the issuer's."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        issuer: Issuer = self.server.issuer  # type: ignore[attr-defined]
        issuer.requests.append((self.path, {name.title(): value for name, value in self.headers.items()}))
        status, headers, body = issuer.answer(self.path)
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def _tls_context(folder: Path) -> ssl.SSLContext:
    """A CA made for the occasion, in `ca.pem`, and a certificate of it for 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    ca_key, key = private_key("ec", -1).private_key, private_key("ec", -2).private_key
    ca = _certificate("Test CA", ca_key, "Test CA", ca_key, x509.BasicConstraints(ca=True, path_length=0))
    leaf = _certificate("issuer", key, "Test CA", ca_key, x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]))
    (folder / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "issuer.pem").write_bytes(leaf.public_bytes(Encoding.PEM) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "issuer.pem")
    return context


def _certificate(name: str, key: Any, by: str, by_key: Any, extension: Any) -> Any:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import NameOID

    def named(text: str) -> Any:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(named(by), named(name), key.public_key(), x509.random_serial_number(), now - day, now + day)
    return builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints)).sign(by_key, SHA256())
