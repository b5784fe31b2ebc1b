"""Certificates for tests: a CA of its own, and what it signs, right or wrong in one thing."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAMES = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Issued:
    """A certificate and its key; what has signed it stands in `above`, the root last."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[x509.Certificate, ...] = ()

    def issue(self, name: str, names: tuple[str, ...] = NAMES, days: float = 90, *, ca: bool = False, since: float = 1) -> Issued:
        """For the names, or as a CA, from `since` days ago until `days` from now."""
        return _make(name, self, names, days, since, ca)

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def chain_pem(self) -> bytes:
        """As a server sends it: without the root."""
        return self.pem() + b"".join(one.public_bytes(serialization.Encoding.PEM) for one in self.above if one.issuer != one.subject)

    def write(self, folder: Path, *, chain: bool = True) -> tuple[Path, Path]:
        """The files that a server is given: its certificate, with the intermediate ones or without, and its key."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / "server.crt", folder / "server.key"
        certificate.write_bytes(self.chain_pem() if chain else self.pem())
        key.write_bytes(self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return certificate, key


def make_ca(name: str = "a CA for a test", days: float = 3650) -> Issued:
    return _make(name, None, (), days, 1, True)


def _make(name: str, issuer: Issued | None, names: tuple[str, ...], days: float, since: float, ca: bool) -> Issued:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=since))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer:
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    if ca:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    elif names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(one) for one in names]), critical=False)
    made = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    return Issued(made, key, (issuer.certificate, *issuer.above) if issuer else ())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
