"""What plans are said to take in memory is not less than what they take: on that rests server.plan_memory_mb."""

from __future__ import annotations

import gc
import tracemalloc
from types import SimpleNamespace

import pytest
from flask import Flask

from noraflask.serve.plans import Plans, Sight
from noraflask.serve.response import Whole
from noraflask.storage.disk import DiskStorage
from tests.plans import Planner, Seen
from tests.protocol.access import basic
from tests.protocol.oci import Registry

COUNT = 150
LARGE = 64 * 1024
ANN = basic("ann", "pw")
MIB = 1 << 20


def registry_of(app: Flask, authorization: str) -> SimpleNamespace:
    """An image app:1, a large file and many small ones."""
    client = app.test_client()
    if authorization:
        client.environ_base["HTTP_AUTHORIZATION"] = authorization
    image = Registry(client).push_image("app", "1")
    client.put("/raw/large", data=bytes(LARGE))
    for number in range(COUNT + 10):
        client.put(f"/raw/folder/with/a/path/{number}", data=b"%d" % number)
    return SimpleNamespace(app=app, image=image, planner=Planner(app))


def whole_of(seen: Seen) -> Whole:
    return Whole(b"HTTP/1.1 200 OK\r\n", "".join(f"{name}: {value}\r\n" for name, value in seen.headers.items()).encode() + b"\r\n", seen.body)


@pytest.mark.parametrize(
    ("path", "method", "headers"),
    [
        ("/v2/app/manifests/1", "GET", {}),
        ("/v2/app/manifests/1", "HEAD", {}),
        ("/v2/app/manifests/1", "GET", {"If_None_Match": '"{image}"'}),
        ("/v2/app/manifests/1", "GET", {"User_Agent": "a" * 200, "X_Long": "x" * 3000}),
        ("/v2/app/manifests/1", "GET", {"Authorization": ANN}),
        ("/raw/large", "GET", {}),
        ("/raw/folder/with/a/path/{number}", "GET", {}),
    ],
    ids=["tag", "head", "not-modified", "long", "login", "large", "many"],
)
def test_a_plan_takes_no_more_than_it_is_said_to(make_app, tmp_path, path: str, method: str, headers: dict[str, str]) -> None:
    auth = {"auth": {"users": {"ann": "pw"}, "admin_users": ("ann",)}} if "Authorization" in headers else {}
    registry = registry_of(make_app(DiskStorage(tmp_path / "disk"), metrics={"enabled": True}, **auth), headers.get("Authorization", ""))
    plans = Plans(64 * MIB)

    def keep(number: int) -> None:
        given = {name: value.format(image=registry.image) for name, value in headers.items()}
        seen = registry.planner.ask(path.format(number=number), method, X_Number=str(number), **given)
        assert seen.plan is not None
        plans.keep(Sight(b"%016d" % number, ""), seen.plan, whole_of(seen))

    for number in range(COUNT, COUNT + 10):  # what is made once for all
        keep(number)
    gc.collect()
    before = plans._kept.bytes
    tracemalloc.start()
    try:
        for number in range(COUNT):
            keep(number)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    said = plans._kept.bytes - before
    assert len(plans._kept) == COUNT + 10
    assert taken <= said, f"{taken / COUNT:.0f} bytes each, said to be {said / COUNT:.0f}"
