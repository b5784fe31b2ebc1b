"""Which repository a request is for: one answer for each address, whatever else is configured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noraflask.services.repositories import Repositories, Repository
from noraflask.web.targets import NOWHERE, OUTER_PATH, TARGET, Target, Targets

IMAGES = SimpleNamespace(id="images", mounts=("/v9",), root="/v9", names_begin_with_repository=True, takes_encoded_slash=False)
FILES = SimpleNamespace(id="files", mounts=("/files", "/blobs9"), root="", names_begin_with_repository=False, takes_encoded_slash=False)
SCOPED = SimpleNamespace(id="scoped", mounts=("/scoped",), root="", names_begin_with_repository=False, takes_encoded_slash=True)

REPOSITORIES = Repositories(
    [
        Repository("images", "images", is_default=True),
        Repository("files", "files", is_default=True),
        Repository("scoped", "scoped", is_default=True),
        Repository("team", "images", hosts=("team.example.com", "team.example.com:8443"), ns=("hub.example.com",)),
        Repository("drawings", "files"),
    ]
)


def locate(path: str, repositories: Repositories = REPOSITORIES, raw: str | None = None, **environ: str) -> tuple[Target, str]:
    made: dict[str, Any] = {"PATH_INFO": path, "RAW_URI": raw or path, "QUERY_STRING": "", **environ}
    found = Targets([IMAGES, FILES, SCOPED], ("127.0.0.1",)).locate(made, repositories)
    assert made[TARGET] is found
    assert made[OUTER_PATH] == path
    return found, made["PATH_INFO"]


@pytest.mark.parametrize(
    ("path", "registry", "base", "inner"),
    [
        ("/v9/", "images", "/v9", "/.images/"),
        ("/v9/app/tags/list", "images", "/v9", "/.images/app/tags/list"),
        ("/v9/team/app/tags/list", "team", "/v9/team", "/.images/app/tags/list"),
        ("/v9/team/", "team", "/v9/team", "/.images/"),
        ("/v9/teams/app/tags/list", "images", "/v9", "/.images/teams/app/tags/list"),
        ("/v9/drawings/app/tags/list", "images", "/v9", "/.images/drawings/app/tags/list"),  # another format's
        ("/v9/images/app/tags/list", "images", "/v9", "/.images/images/app/tags/list"),  # the default one has a mount of its own
        ("/repository/team/v9/app/tags/list", "team", "/repository/team/v9", "/.images/app/tags/list"),
        ("/repository/team/v9/", "team", "/repository/team/v9", "/.images/"),
        ("/repository/team/app", "team", "/repository/team/v9", NOWHERE),
        ("/repository/team", "team", "/repository/team/v9", NOWHERE),
        ("/repository/images/v9/app/tags/list", "images", "/repository/images/v9", "/.images/app/tags/list"),
        ("/repository/drawings/a/b", "drawings", "/repository/drawings", "/.files/a/b"),
        ("/repository/drawings/", "drawings", "/repository/drawings", "/.files/"),
        ("/repository/drawings", "drawings", "/repository/drawings", NOWHERE),
        ("/files/a/b/", "files", "/files", "/.files/a/b/"),
        ("/blobs9/a", "files", "/blobs9", "/.files/a"),
        ("/files", "files", "/files", "/.files"),
        ("/filesystem", "", "", "/filesystem"),
        ("/repository/absent/a", "", "", NOWHERE),
        ("/repository/", "", "", NOWHERE),
        ("/health", "", "", "/health"),
        ("/", "", "", "/"),
        ("/.files/a", "", "", NOWHERE),
        ("/.nowhere", "", "", NOWHERE),
    ],
)
def test_each_address_has_one_repository(path: str, registry: str, base: str, inner: str) -> None:
    found, seen = locate(path)
    assert (found.registry, found.base, seen) == (registry, base, inner)


@pytest.mark.parametrize(
    "path", ["/v9//app/tags/list", "//v9/app", "/v9/team//app", "/files/./a", "/files/../v9/", "/files/a/..", "/health//", "/files/a/."]
)
def test_another_spelling_leads_nowhere(path: str) -> None:
    assert locate(path)[1] == NOWHERE


def test_an_encoded_slash_is_for_formats_that_have_one() -> None:
    assert locate("/files/a/b", raw="/files/a%2Fb")[1] == NOWHERE
    assert locate("/files/a/b", raw="/files/a%2fb?x=1")[1] == NOWHERE
    assert locate("/health", raw="/%2fhealth")[1] == NOWHERE
    assert locate("/files/a b", raw="/files/a%20b?next=%2f")[1] == "/.files/a b"
    assert locate("/scoped/@a/b", raw="/scoped/@a%2fb")[1] == "/.scoped/@a/b"


def test_a_misspelt_address_is_still_counted_for_its_repository() -> None:
    assert locate("/v9/team//app")[0].registry == "team"


@pytest.mark.parametrize(
    ("environ", "registry"),
    [
        ({"HTTP_HOST": "team.example.com"}, "team"),
        ({"HTTP_HOST": "TEAM.example.com:8443"}, "team"),
        ({"HTTP_HOST": "team.example.com:9999"}, "images"),
        ({"HTTP_HOST": "x", "HTTP_X_FORWARDED_HOST": "a, team.example.com", "REMOTE_ADDR": "127.0.0.1"}, "team"),
        ({"HTTP_HOST": "x", "HTTP_X_FORWARDED_HOST": "team.example.com", "REMOTE_ADDR": "192.0.2.1"}, "images"),
        ({"QUERY_STRING": "ns=hub.example.com"}, "team"),
        ({"QUERY_STRING": "a=b&ns=HUB.example.com"}, "team"),
        ({"QUERY_STRING": "ns=else.example.com"}, "images"),
        ({"QUERY_STRING": "ns=hub.example.com" + "&" * 9000}, "images"),
    ],
)
def test_hosts_and_namespaces_are_claimed(environ: dict[str, str], registry: str) -> None:
    assert locate("/v9/team/app/tags/list" if registry != "images" else "/v9/app/tags/list", **environ)[0].registry == registry
    assert locate("/files/a", **environ)[0].registry == "files"


def test_a_claimed_host_has_no_other_repositories_below_its_mount() -> None:
    repositories = Repositories([*REPOSITORIES, Repository("other", "images", hosts=("other.example.com",))])
    found, inner = locate("/v9/team/app/tags/list", repositories, HTTP_HOST="other.example.com")
    assert (found.registry, found.base, inner) == ("other", "/v9", "/.images/team/app/tags/list")


def test_a_format_without_a_default_repository_answers_in_its_own_form() -> None:
    found, inner = locate("/v9/app/tags/list", Repositories([]))
    assert (found.repository, found.format, inner) == (None, IMAGES, NOWHERE)


@given(st.text(alphabet="/.av9tem%2f\\ \x00", max_size=24))
def test_no_address_reaches_an_inner_mount_but_through_its_outer_one(tail: str) -> None:
    for path in (f"/{tail}", f"/v9/{tail}", f"/repository/{tail}", f"/repository/drawings/{tail}"):
        found, inner = locate(path)
        if inner.startswith("/.") and inner != NOWHERE:
            assert found.repository is not None
            assert inner.startswith(f"/.{found.repository.format}")
