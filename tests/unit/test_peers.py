"""Whom a request is from, as proxies spell it; and that nobody else can say."""

from __future__ import annotations

import pytest

from noraflask.web import peers
from noraflask.web.peers import Front, client_address, front_of, parse_address, plain_address

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
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:4711", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("192.0.2.7, ::ffff:10.0.0.1", "192.0.2.7"),
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
    peers._front.cache_clear()
    for number in range(50):
        client(f"198.51.100.{number}", "192.0.2.1")
    assert peers._front.cache_info().currsize == 0


def test_what_is_long_is_not_remembered():
    """Proxies pass on headers that they do not set; thousands of long ones would be 25 MB in each worker."""
    peers._front.cache_clear()
    for number in range(50):
        environ = {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "192.0.2.7", "HTTP_X_FORWARDED_PREFIX": f"/{number}" * 200}
        assert client_address(environ, TRUSTED) == "192.0.2.7"
    assert peers._front.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("peer", "told"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_a_peer_is_told_in_one_spelling(peer, told):
    assert plain_address(peer) == client(None, peer) == told


def test_a_proxy_at_a_mapped_address_is_trusted():
    assert client("198.51.100.1", "::ffff:10.1.2.3") == "198.51.100.1"
    assert client_address({"REMOTE_ADDR": "10.1.2.3", "HTTP_X_FORWARDED_FOR": "198.51.100.1"}, ("::ffff:10.0.0.0/104",)) == "198.51.100.1"


def front(peer: str = "127.0.0.1", **headers: str) -> Front:
    names = {"FORWARDED": "HTTP_FORWARDED"}
    return front_of(
        {"REMOTE_ADDR": peer} | {names.get(word.upper(), f"HTTP_X_FORWARDED_{word.upper()}"): text for word, text in headers.items()}, TRUSTED
    )


FRONTS = [
    ({"host": "r.example.com", "proto": "https"}, Front("127.0.0.1", "r.example.com", "https")),
    # One trusted proxy has added one entry, and what stands before it is its client's.
    ({"host": "evil.example, r.example.com"}, Front("127.0.0.1", "r.example.com")),
    ({"for_": "192.0.2.7", "host": "evil.example, r.example.com"}, Front("192.0.2.7", "r.example.com")),
    ({"for_": "1.1.1.1, 192.0.2.7", "host": "evil.example,r.example.com", "proto": "http,https"}, Front("192.0.2.7", "r.example.com", "https")),
    # Two have added two: the first of them is the one that the client spoke to.
    ({"for_": "192.0.2.7, 10.0.0.1", "host": "r.example.com, inner:8080"}, Front("192.0.2.7", "r.example.com")),
    ({"for_": "192.0.2.7, 10.0.0.1", "proto": "https, http", "port": "8443, 80"}, Front("192.0.2.7", "", "https", "8443")),
    ({"for_": "192.0.2.7, 10.0.0.1", "host": "evil.example, r.example.com, inner"}, Front("192.0.2.7", "r.example.com")),
    ({"for_": "9.9.9.9, 192.0.2.7, 10.0.0.1, [2001:db8:ffff::1]:4", "host": "evil,a,b,c"}, Front("192.0.2.7", "a")),
    # The inner one has set it anew.
    ({"for_": "192.0.2.7, 10.0.0.1", "host": "r.example.com", "proto": "https"}, Front("192.0.2.7", "r.example.com", "https")),
    ({"for_": "192.0.2.7, 10.0.0.1", "prefix": "/hub, /inner"}, Front("192.0.2.7", prefix="/hub")),
    # RFC 7239.
    ({"forwarded": "for=192.0.2.7"}, Front("192.0.2.7")),
    ({"forwarded": "For=192.0.2.7;Proto=https;Host=r.example.com;by=203.0.113.43"}, Front("192.0.2.7", "r.example.com", "https")),
    ({"forwarded": 'for="192.0.2.7:47011"; host="r.example.com:8443" ;proto="https"'}, Front("192.0.2.7", "r.example.com:8443", "https")),
    ({"forwarded": 'for="[2001:db8:cafe::17]:4711"'}, Front("2001:db8:cafe::17")),
    ({"forwarded": 'for="[2001:db8:cafe::17]"'}, Front("2001:db8:cafe::17")),
    ({"forwarded": "for=[2001:db8:cafe::17]:80"}, Front("2001:db8:cafe::17")),
    ({"forwarded": 'for="[::ffff:192.0.2.7]"'}, Front("192.0.2.7")),
    ({"forwarded": r'for="192.0.\2.7"'}, Front("192.0.2.7")),
    ({"forwarded": "for=9.9.9.9;host=evil, for=192.0.2.7;host=r.example.com"}, Front("192.0.2.7", "r.example.com")),
    ({"forwarded": "for=192.0.2.7;host=r.example.com;proto=https, for=10.0.0.1;host=inner;proto=http"}, Front("192.0.2.7", "r.example.com", "https")),
    ({"forwarded": "for=192.0.2.7, for=10.0.0.1;host=r.example.com;proto=https"}, Front("192.0.2.7", "r.example.com", "https")),
    # What a client writes before it swallows nothing and adds nothing.
    ({"forwarded": 'for=", for=192.0.2.7;host=r.example.com'}, Front("192.0.2.7", "r.example.com")),
    ({"forwarded": 'x="1, 2, for=192.0.2.7'}, Front("192.0.2.7")),
    ({"forwarded": 'for=192.0.2.7;host="a, for=9.9.9.9"'}, Front("192.0.2.7", "a, for=9.9.9.9")),
    # Nobody is named.
    *(
        ({"forwarded": text}, Front("127.0.0.1"))
        for text in ("", ",", "for", "for=", "for=unknown", "for=_hidden", 'for="', "x", "for=1.2.3.4 x", "for=a b")
    ),
    ({"forwarded": "for=unknown;host=r.example.com"}, Front("127.0.0.1", "r.example.com")),
    # Both: the usual proxies write X-Forwarded-* and pass the other one on.
    ({"for_": "192.0.2.7", "forwarded": "for=9.9.9.9;host=evil;proto=http"}, Front("192.0.2.7")),
    ({"host": "r.example.com", "forwarded": "for=9.9.9.9;host=evil;proto=http"}, Front("127.0.0.1", "r.example.com")),
    ({"proto": "https", "forwarded": "for=9.9.9.9;host=evil"}, Front("127.0.0.1", "", "https")),
]


@pytest.mark.parametrize(("headers", "expected"), FRONTS)
def test_what_proxies_say(headers, expected):
    assert front(**{word.rstrip("_"): text for word, text in headers.items()}) == expected


@pytest.mark.parametrize(("headers", "expected"), FRONTS)
def test_what_an_untrusted_peer_says_changes_nothing(headers, expected):
    assert front("192.0.2.99", **{word.rstrip("_"): text for word, text in headers.items()}) == Front("192.0.2.99")


@pytest.mark.parametrize("text", ["," * 60000, 'for="' * 12000, "for=1.2.3.4;" * 5000, 'for="\\' * 9000, "a=b," * 15000, "=" * 60000])
def test_a_long_header_is_soon_read(text):
    assert front(forwarded=text).host == ""
