"""Whom a request is from, as proxies spell it; and that nobody else can say."""

from __future__ import annotations

import pytest

from noraflask.web import peers
from noraflask.web.peers import client_address, parse_address

TRUSTED = ("127.0.0.1", "10.0.0.0/8", "2001:db8:ffff::/48")


def client(forwarded: str | None, peer: str = "127.0.0.1") -> str:
    environ = {"REMOTE_ADDR": peer}
    if forwarded is not None:
        environ["HTTP_X_FORWARDED_FOR"] = forwarded
    return client_address(environ, TRUSTED)


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (None, "127.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7 ", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("198.51.100.1, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 10.1.2.3", "192.0.2.7"),
        ("192.0.2.7:1, 10.1.2.3:4711, [2001:db8:ffff::1]:80", "192.0.2.7"),
        ("nonsense, 192.0.2.7", "192.0.2.7"),
        ("127.0.0.1," * 9000 + "192.0.2.7", "192.0.2.7"),
        ("10.0.0.1, 10.0.0.2", "127.0.0.1"),
    ],
)
def test_behind_a_trusted_proxy(forwarded, expected):
    assert client(forwarded) == expected


NO_ADDRESSES = [
    "",
    ",",
    "unknown",
    "192.0.2.7,",
    "192.0.2.7, unknown",
    "192.0.2.7, _hidden",
    "192.0.2.7, 256.1.1.1",
    "192.0.2.7, 1.2.3",
    "192.0.2.7 192.0.2.8",
    "192.0.2.7\nlogin failed: reason=none",
    '192.0.2.7" account="root',
    "[::1\n]",
    "::1]:80",
    "192.0.2.7, x" * 2000,
    "\u0661.2.3.4",
]


@pytest.mark.parametrize("forwarded", NO_ADDRESSES)
def test_what_is_no_address_means_the_peer(forwarded):
    """Whoever wrote that: beyond it nobody can be believed."""
    assert client(forwarded) == "127.0.0.1"


@pytest.mark.parametrize("text", ["", " ", "a", "1", ":", "[]", "[]:80", "1.2.3.4.5", "::1::", "1.2.3.4/8", "%", "1.2.3.4\r\nx", "\x00"])
def test_no_address(text):
    assert parse_address(text) is None


@pytest.mark.parametrize("peer", ["192.0.2.1", "::1", "", "unix:", "11.0.0.1"])
def test_anybody_else_names_nobody(peer):
    assert client("198.51.100.1", peer) == peer


def test_what_strangers_send_is_not_remembered():
    peers._forwarded_client.cache_clear()
    for number in range(50):
        client(f"198.51.100.{number}", "192.0.2.1")
    assert peers._forwarded_client.cache_info().currsize == 0
