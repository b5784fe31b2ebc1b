"""Which names there are: a name comes with its first manifest and goes with its last one, whoever else pushes or deletes at that moment."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from flask import Flask

from noraflask.app import create_app
from noraflask.digest import Digest
from noraflask.formats.docker.protocol.media_types import OCI_MANIFEST
from noraflask.services.content import UNMARKING
from noraflask.storage.memory import MemoryStorage
from tests.conftest import config_of
from tests.protocol.oci import Registry, code, descriptor, image, index

ONE, OTHER = image(annotations={"number": "one"}), image(annotations={"number": "other"})


def names(registry: Registry) -> list[str]:
    found: list[str] = registry.ask("GET", "_catalog").json["repositories"]
    return found


def push(registry: Registry, name: str, body: bytes, *tags: str) -> Digest:
    for blob in (b"{}", b"layer"):
        registry.push_blob(name, blob)
    for reference in tags or (str(Digest.of(body)),):
        assert registry.push(name, reference, body).status_code == 201
    return Digest.of(body)


def test_a_name_leaves_with_its_last_manifest_and_comes_back(registry):
    push(registry, "app/below", ONE, "1")
    for _ in range(2):
        one, other = push(registry, "app", ONE, "1", "2"), push(registry, "app", OTHER)
        for tag in ("1", "2"):
            assert registry.ask("DELETE", f"app/manifests/{tag}").status_code == 202
        assert (names(registry), registry.tags("app")) == (["app", "app/below"], [])
        assert registry.ask("DELETE", f"app/manifests/{one}").status_code == 202
        assert names(registry) == ["app", "app/below"]
        assert registry.ask("DELETE", f"app/manifests/{other}").status_code == 202
        assert names(registry) == ["app/below"]
        assert code(registry.ask("GET", "app/tags/list")) == (404, "NAME_UNKNOWN")
        assert registry.status(f"app/blobs/{Digest.of(b'layer')}") == 200  # it may be linked again, until it is deleted or swept
    assert registry.ask("DELETE", f"app/manifests/{one}").status_code == 404


def test_a_name_of_an_index_leaves_with_its_last_child(registry):
    one = push(registry, "app", ONE)
    multi = push(registry, "app", index(descriptor(ONE, OCI_MANIFEST)), "1")
    signature = push(registry, "app", image(subject=descriptor(multi, OCI_MANIFEST)))
    for digest in (multi, signature, one):
        assert names(registry) == ["app"]
        registry.ask("DELETE", f"app/manifests/{digest}")
    assert names(registry) == []


def test_a_deletion_that_was_killed_leaves_the_name(make_app):
    """Its note says that somebody looks; the next push makes it whole, the next deletion goes on with it."""
    storage = MemoryStorage()
    registry = Registry(make_app(storage).test_client())
    for last in ("push", "delete"):
        digest = push(registry, "app", ONE, "1")
        (key,) = (entry.key for entry in storage.list("docker/.names/"))
        storage.replace(key, UNMARKING)
        assert (names(registry), registry.tags("app")) == (["app"], ["1"])
        if last == "push":
            push(registry, "app", OTHER)
            assert storage.whole(key) == b""
            registry.ask("DELETE", f"app/manifests/{Digest.of(OTHER)}")
            assert names(registry) == ["app"]
        else:
            registry.ask("DELETE", f"app/manifests/{digest}")
            assert names(registry) == []


# Several at once: every verb of storage is a point at which another request may come in between.


class TurnStorage(MemoryStorage):
    """Lets one thread at a time go on, from one verb to the next; a seeded dice says which."""

    def __init__(self) -> None:
        super().__init__()
        self._change = threading.Condition()
        self._parked: dict[str, threading.Event] = {}
        self._running: set[str] = set()

    def run(self, seed: str, **tasks: Callable[[], Any]) -> dict[str, Any]:
        """What each of them returned."""
        dice, answers = random.Random(seed), dict[str, Any]()

        def work(name: str) -> None:
            try:
                self.turn()
                answers[name] = tasks[name]()
            finally:
                with self._change:
                    self._running.discard(name)
                    self._change.notify()

        threads = [threading.Thread(target=work, args=(name,), name=name, daemon=True) for name in tasks]
        self._running = set(tasks)
        for thread in threads:
            thread.start()
        while True:
            with self._change:
                assert self._change.wait_for(lambda: set(self._parked) == self._running, 30), "one waits for another"
                if not self._running:
                    break
                self._parked.pop(dice.choice(sorted(self._parked))).set()
        for thread in threads:
            thread.join()
        return answers

    def turn(self) -> None:
        name = threading.current_thread().name
        if name in self._running:
            go = threading.Event()
            with self._change:
                self._parked[name] = go
                self._change.notify()
            assert go.wait(30)


def _in_turn(verb: str) -> Callable[..., Any]:
    def ask(self: TurnStorage, *arguments: Any, **more: Any) -> Any:
        self.turn()
        return getattr(MemoryStorage, verb)(self, *arguments, **more)

    return ask


for _verb in ("open", "stat", "create", "replace", "swap", "delete", "list"):
    setattr(TurnStorage, _verb, _in_turn(_verb))


class Race:
    """Pushes and deletions of one name that others are at as well."""

    def __init__(self, app: Flask, storage: TurnStorage) -> None:
        self._app, self._storage = app, storage
        self.registry = Registry(app.test_client())

    def run(self, seed: str, **requests: tuple[str, str, bytes | None]) -> dict[str, int]:
        def ask(method: str, reference: str, body: bytes | None) -> int:
            registry = Registry(self._app.test_client())
            if body is None:
                return registry.ask(method, f"app/manifests/{reference}").status_code
            return registry.push("app", reference, body).status_code

        tasks = {name: partial(ask, *request) for name, request in requests.items()}
        return self._storage.run(seed, **tasks)

    def assert_whole(self) -> None:
        """What is listed can be had; a name is listed exactly when there is something of it."""
        ask, status = self.registry.ask, self.registry.status
        there = [entry.key.rpartition("/")[2] for entry in self._storage.list("docker/app/_manifests/")]
        assert names(self.registry) == (["app"] if there else [])
        tags = ask("GET", "app/tags/list")
        assert tags.status_code == (200 if there else 404)
        assert all(status(f"app/manifests/{tag}") == 200 for tag in (tags.json["tags"] if there else ()))
        assert all(status(f"app/manifests/{digest}") == 200 for digest in there)
        listed = [entry["digest"] for entry in self.registry.referrers("app", Digest.of(b"subject"))]
        assert sorted(listed) == [str(Digest.of(SIGNED))] * (str(Digest.of(SIGNED)) in there)


SIGNED = image(subject=descriptor(Digest.of(b"subject"), OCI_MANIFEST))
SEEDS = range(60)


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Race:
    storage = TurnStorage()
    found = Race(create_app(config_of(tmp_path_factory.mktemp("race")), storage), storage)
    for blob in (b"{}", b"layer"):
        found.registry.push_blob("app", blob)
    return found


def delete(body: bytes) -> tuple[str, str, None]:
    return "DELETE", str(Digest.of(body)), None


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "race" in request.fixturenames:
        for body in (ONE, OTHER, SIGNED):
            request.getfixturevalue("race").registry.ask("DELETE", f"app/manifests/{Digest.of(body)}")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tag_that_is_moved_while_the_manifest_that_it_led_to_is_deleted(race, seed):
    push(race.registry, "app", ONE, "1")
    answers = race.run(f"{seed}", push=("PUT", "1", OTHER), delete=delete(ONE))
    assert answers == {"push": 201, "delete": 202}
    assert race.registry.ask("GET", "app/manifests/1").data == OTHER
    race.assert_whole()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_manifest_that_is_pushed_while_the_last_other_one_is_deleted(race, seed):
    push(race.registry, "app", ONE, "1")
    answers = race.run(f"{seed}", push=("PUT", str(Digest.of(OTHER)), OTHER), delete=delete(ONE), again=delete(ONE))
    assert answers["push"] == 201
    assert race.registry.ask("GET", f"app/manifests/{Digest.of(OTHER)}").data == OTHER
    race.assert_whole()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("body", [ONE, SIGNED], ids=["plain", "signed"])
def test_a_manifest_that_is_pushed_while_it_is_deleted(race, seed, body):
    """It is there afterwards with its tag, or it is gone with all that leads to it."""
    push(race.registry, "app", body, "2")
    answers = race.run(f"{seed}", push=("PUT", "1", body), delete=delete(body), again=delete(body))
    assert answers["push"] == 201
    race.assert_whole()
    assert race.registry.status("app/manifests/1") == race.registry.status(f"app/manifests/{Digest.of(body)}")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_last_two_are_deleted_at_once(race, seed):
    push(race.registry, "app", ONE, "1")
    push(race.registry, "app", OTHER, "2")
    assert race.run(f"{seed}", one=delete(ONE), other=delete(OTHER)) == {"one": 202, "other": 202}
    assert names(race.registry) == []
    race.assert_whole()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_name_comes_and_goes_at_once(race, seed):
    answers = race.run(f"{seed}", one=("PUT", "1", ONE), other=("PUT", "2", OTHER), delete=delete(ONE), again=delete(OTHER))
    assert (answers["one"], answers["other"]) == (201, 201)
    race.assert_whole()
