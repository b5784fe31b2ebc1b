"""For whom an unfinished upload counts, and how one who has all that he may have is refused in each format."""

from __future__ import annotations

import pytest

from tests.protocol.access import Door, basic, bearer

USERS = {"alice": "a", "mallory": "m"}
BEGIN = "/v2/app/blobs/uploads/"


@pytest.fixture
def door(make_app):
    return Door(make_app(docker={"max_upload_sessions": 30}, auth={"users": USERS}))


@pytest.fixture
def open_door(make_app):
    return Door(make_app(docker={"max_upload_sessions": 30}))


def begun(door: Door, authorization: str | None, client: str, most: int = 40) -> int:
    statuses = [door.post(BEGIN, authorization, client=client).status_code for _ in range(most)]
    assert set(statuses) <= {202, 429}
    return statuses.count(202)


def test_a_user_is_one_by_whatever_credential_and_from_wherever(door):
    password, token = basic("mallory", "m"), door.api_token("mallory")
    assert begun(door, password, "192.0.2.1", 10) == 10
    assert begun(door, basic("mallory", token), "192.0.2.2", 5) == 5
    assert begun(door, bearer(token), "192.0.2.3", 3) == 3
    assert begun(door, bearer(door.bearer_token(password, "repository:app:push")), "192.0.2.4") == 2
    assert [begun(door, password, f"192.0.2.{number}", 2) for number in range(5, 9)] == [0] * 4
    assert begun(door, basic("alice", "a"), "192.0.2.1", 5) == 5


def test_clients_without_a_login_are_told_apart_by_their_address(open_door):
    assert begun(open_door, None, "192.0.2.1") == 20
    assert begun(open_door, None, "::ffff:192.0.2.1") == 0
    assert begun(open_door, None, "2001:db8::1", 5) == 5
    assert begun(open_door, None, "2001:db8::2", 2) == 2


def test_who_has_his_share_finishes_what_he_has(open_door):
    locations = [open_door.post(BEGIN, client="192.0.2.1").headers["Location"] for _ in range(20)]
    refused = open_door.post(BEGIN, client="192.0.2.1")
    assert (refused.status_code, refused.json["errors"][0]["code"]) == (429, "TOOMANYREQUESTS")
    assert "finish or cancel" in refused.json["errors"][0]["message"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert open_door.ask("PATCH", locations[0], client="192.0.2.1", data=b"data").status_code == 202
    assert open_door.ask("DELETE", locations[1], client="192.0.2.1").status_code == 204
    assert begun(open_door, None, "192.0.2.1") == 1


def test_any_client_goes_on_with_an_upload_of_another_address(open_door):
    """CI runners behind several addresses push one image."""
    location = open_door.post(BEGIN, client="192.0.2.1").headers["Location"]
    assert open_door.ask("PATCH", location, client="192.0.2.2", data=b"data").status_code == 202


def test_files_of_the_raw_format_count_as_well(open_door):
    begun(open_door, None, "192.0.2.1")
    answer = open_door.ask("PUT", "/raw/a.txt", client="192.0.2.1", data=b"x")
    assert (answer.status_code, answer.mimetype) == (429, "text/plain")
    assert int(answer.headers["Retry-After"]) >= 1
    assert open_door.ask("PUT", "/raw/a.txt", client="192.0.2.2", data=b"x").status_code in (200, 201)


def test_bytes_that_one_holds_are_bounded_in_each_format(make_app, monkeypatch):
    monkeypatch.setattr("noraflask.services.staging_usage.USAGE_FRESH_SECONDS", -1)
    door = Door(make_app(staging={"principal_bytes": 1000, "share_bytes": 0}))
    first, second = (door.post(BEGIN, client="192.0.2.1").headers["Location"] for _ in range(2))
    assert door.ask("PATCH", first, client="192.0.2.1", data=b"x" * 5000).status_code == 202
    refused = door.ask("PATCH", second, client="192.0.2.1", data=b"x")
    assert (refused.status_code, refused.json["errors"][0]["code"]) == (429, "TOOMANYREQUESTS")
    assert door.ask("PUT", "/raw/a.txt", client="192.0.2.1", data=b"x").status_code == 429
    assert door.ask("PUT", "/raw/a.txt", client="192.0.2.2", data=b"x").status_code in (200, 201)
    assert door.ask("PATCH", first, client="192.0.2.1", data=b"x").status_code == 202
    assert door.get("/ready").status_code == 200
