"""The certificate chain of an https address: is it trusted, whole, for this name, and for how long yet?"""

from __future__ import annotations

import contextlib
import datetime
import ssl
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from noraflask.services.doctor import remedies
from noraflask.services.doctor.findings import Finding, ok, warning, wrong
from noraflask.services.doctor.front import TIMEOUT_SECONDS, Target, dial

CHECK = "certificate"
SOON_DAYS, LAST_DAYS = 21, 3
DAY = 86400.0
# OpenSSL's X509_V_ERR_…, x509_vfy.h
NOT_YET_VALID, EXPIRED = 9, 10
SELF_SIGNED, SELF_SIGNED_IN_CHAIN, NO_ISSUER, NO_FIRST_ISSUER = 18, 19, 20, 21
OTHER_NAME = (62, 63, 64)
TRUST_HERE = "here:     nora doctor --ca-file ca.crt"


def context_for(ca_file: Path | None) -> ssl.SSLContext:
    """Trusts the system's CAs, or those of the file alone. Raises OSError (ssl.SSLError is one) for a file that cannot be used."""
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.set_alpn_protocols(["http/1.1"])
    return context


def certificate(target: Target, context: ssl.SSLContext, trust: Sequence[str] = ()) -> Generator[Finding, None, bool]:
    """Returns whether it is trusted: else nothing may be sent there. `trust`: where clients take the certificate of a CA from."""
    try:
        chain = _connect(target, context, verified=True)
    except ssl.SSLCertVerificationError as problem:
        message = problem.verify_message or ""
        yield from explain(problem.verify_code, message, target.host, _shown(target), time.time(), _known(context), trust)
        return False
    except ssl.SSLError as problem:
        said = problem.reason or str(problem)
        hint = "it does not speak TLS there; is it the http port?" if "WRONG_VERSION" in said or "PACKET_LENGTH" in said else said
        remedy = "nginx:   listen 443 ssl;", "or the right address: --public-url, server.public_url"
        yield wrong(CHECK, f"no TLS with {target.authority}: {hint}", *remedy)
        return False
    except OSError as problem:
        yield wrong(CHECK, f"no connection to {target.authority}: {problem.strerror or problem}", *remedies.UPSTREAM)
        return False
    yield from lifetime(chain, time.time())
    return True


def lifetime(chain: Sequence[x509.Certificate], now: float) -> Iterator[Finding]:
    """Of a chain that is trusted, server's certificate first: the one that ends first counts."""
    first = min(chain, key=lambda certificate: certificate.not_valid_after_utc)
    days = (first.not_valid_after_utc.timestamp() - now) / DAY
    whose = "it" if first is chain[0] else f"the CA certificate {name_of(first.subject)}"
    shown = f"{name_of(chain[0].subject)} by {name_of(chain[0].issuer)}; {whose} ends in {days:.0f} days, {_date(first)}"
    if days < LAST_DAYS:
        yield wrong(CHECK, shown, *remedies.RENEW)
    elif days < SOON_DAYS:
        yield warning(CHECK, shown, *remedies.RENEW)
    else:
        yield ok(CHECK, shown)


def explain(
    code: int,
    message: str,
    host: str,
    shown: Sequence[x509.Certificate],
    now: float,
    known: frozenset[str] = frozenset(),
    trust: Sequence[str] = (),
) -> Iterator[Finding]:
    """Of a chain that is not trusted. `code`: of OpenSSL; `shown`: what the server sent, its own first; `known`: subjects of trusted CAs."""
    own = shown[0] if shown else None
    if code in (EXPIRED, NOT_YET_VALID):
        late = [one for one in shown if not one.not_valid_before_utc.timestamp() <= now <= one.not_valid_after_utc.timestamp()]
        which = late[0] if late else own
        if which is None:
            yield wrong(CHECK, message, *remedies.RENEW)
        elif code == EXPIRED:
            yield wrong(CHECK, f"{name_of(which.subject)} has expired on {_date(which)}", *remedies.RENEW)
        else:
            yield wrong(CHECK, f"{name_of(which.subject)} is valid only from {which.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on; is the clock right?")
    elif code in OTHER_NAME:
        names = ", ".join(names_of(own)) if own else "other names"
        yield wrong(CHECK, f"it is for {names or 'no name at all'}, not for {host}", f"a certificate with subjectAltName={_alternative(host)}")
    elif own is not None and code in (NO_ISSUER, NO_FIRST_ISSUER) and _is_incomplete(shown, known):
        issuer = name_of(shown[-1].issuer)
        yield wrong(
            CHECK,
            f"it is signed by {issuer}, which the server does not send and which is no CA that is trusted here: "
            "either the proxy leaves an intermediate certificate out, or that CA must be made known",
            *remedies.CHAIN,
            *trust,
            TRUST_HERE,
        )
    else:
        issuer = f" by {name_of(own.issuer)}" if own else ""
        yield wrong(CHECK, f"it is signed{issuer}, a CA that is not trusted here ({message})", *trust, TRUST_HERE)


def _is_incomplete(shown: Sequence[x509.Certificate], known: frozenset[str]) -> bool:
    """Does the server send fewer certificates than it takes? A root is not sent as a rule, so only a hint at an intermediate one tells."""
    last = shown[-1]
    if last.issuer == last.subject or last.issuer.rfc4514_string() in known:
        return False
    return len(shown) == 1


def names_of(certificate: x509.Certificate) -> list[str]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [str(name.value) for name in alternatives if isinstance(name, x509.DNSName | x509.IPAddress)]


def name_of(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else name.rfc4514_string() or "a certificate without a subject"


def _alternative(host: str) -> str:
    return f"IP:{host}" if host.replace(".", "").isdigit() or ":" in host else f"DNS:{host}"


def _date(certificate: x509.Certificate) -> str:
    return certificate.not_valid_after_utc.astimezone(datetime.UTC).strftime("%Y-%m-%d")


def _known(context: ssl.SSLContext) -> frozenset[str]:
    known = (x509.load_der_x509_certificate(der) for der in context.get_ca_certs(binary_form=True))
    return frozenset(certificate.subject.rfc4514_string() for certificate in known)


def _shown(target: Target) -> list[x509.Certificate]:
    """What the server sends, unchecked, for words alone. Empty when it cannot be had."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return _connect(target, context, verified=False)
    except (OSError, ValueError):
        return []


def _connect(target: Target, context: ssl.SSLContext, verified: bool) -> list[x509.Certificate]:
    """The chain of the server, its own certificate first. Raises OSError."""
    sock = dial(target.host, target.port, TIMEOUT_SECONDS)
    with contextlib.closing(sock), context.wrap_socket(sock, server_hostname=target.host) as secure:
        return [x509.load_der_x509_certificate(der) for der in _chain(secure, verified)]


def _chain(sock: ssl.SSLSocket, verified: bool) -> list[bytes]:
    """DER, server's first. Python has that as an interface since 3.13, and before as what its own tests use; else the server's alone."""
    name = "get_verified_chain" if verified else "get_unverified_chain"
    public: Any = getattr(sock, name, None)
    if public is not None:
        return list(public())
    private: Any = getattr(getattr(sock, "_sslobj", None), name, None)
    if private is not None:
        return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in private() or ()]
    own = sock.getpeercert(binary_form=True)
    return [own] if own else []
