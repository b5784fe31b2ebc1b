"""What happens to the twins: operations by chance, and after each of them the requests that were asked often before, then others."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from noraflask.services.auth.tokens import Tokens
from noraflask.services.curation.freeze import Freeze
from noraflask.services.documents import Documents
from noraflask.storage.disk import DiskStorage

from ..oci import digest_of, noise
from .asking import Head, Known, basic, head
from .pair import Pair, Turn, Twin
from .wire import Answer, Request
from .world import FILES, IMAGES, NAMES, SIZES, TAGS, USERS, Image, Settings, reused

HOT = 40
"""Heads that are asked again and again."""
OTHERS = 70
"""Requests between two operations, beside one for each of the hot heads."""
LANES = 4
CHECK_SECONDS = 0.6
"""After a change that servers look for now and then, so much passes on their clocks."""
SETTLE_EVERY, SCRAPE_EVERY = 12, 36
"""Operations."""

Operation = Callable[["Story"], None]


class Story:
    def __init__(self, pair: Pair, settings: Settings, seed: int) -> None:
        self.pair, self.settings, self.chance = pair, settings, random.Random(seed)
        settings.now = pair.clock.time
        self.known = Known(self.chance, passwords=settings.passwords, now=pair.clock.time)
        self.admin = ""
        self.hot: list[Head] = []
        self.ids: list[str] = []
        """Of API tokens, by which they are rotated and revoked."""
        self.files: dict[str, bytes] = {}
        self._heads: dict[bytes, Head] = {}
        """By the requests that were made of them, until these are answered."""
        self._numbers = iter(range(1 << 60))
        self._storages: list[DiskStorage] = []
        self.hot_asked = self.operations = 0

    # ---- the course of things

    def tell(self, requests: int) -> None:
        """Until so many requests were asked."""
        self._begin()
        while self.pair.asked < requests:
            self.operations += 1
            self.chance.choices(OPERATIONS, WEIGHTS)[0](self)
            self._ask(self._turns())
            self._let_time_pass()
            if self.operations % SCRAPE_EVERY == 0:
                self.pair.compare_metrics()
            elif self.operations % SETTLE_EVERY == 0:
                self.pair.settle()
        self.pair.compare_metrics()

    def _begin(self) -> None:
        answer = self.post("/api/tokens", {"username": "root", "password": USERS["root"][0], "role": "admin", "ttl_days": 3650})
        self.admin = json.loads(answer.body)["token"]
        for number, name in enumerate(NAMES):
            for tag, image in zip(TAGS, IMAGES[number:], strict=False):
                self.push(name, tag, image)
        for name in FILES:
            put_file(self, name)
        for _ in range(3):
            mint(self)
            bearer(self)
        self.pair.move(5)
        self.hot = [head(self.known) for _ in range(HOT)]

    def _turns(self) -> list[Turn]:
        """All hot heads at once, since what was just done may concern any of them; then runs of some of them, among others."""
        chance = self.chance
        again = chance.sample(self.hot, len(self.hot))
        turns = [self._turn(one) for one in again]
        while len(turns) < HOT + OTHERS:
            luck = chance.random()
            if luck < 0.3:
                turns.append(self._turn(head(self.known)))
            elif luck < 0.35:
                both = (self._request(chance.choice(again)), self._request(chance.choice(again)))
                turns += [] if any(map(_ends, both)) else [Turn(chance.randrange(LANES), both)]
            else:
                turns += [self._turn(one) for one in chance.sample(again, chance.randint(1, 2)) * chance.randint(1, 4)]
        return turns

    def _turn(self, one: Head) -> Turn:
        return Turn(self.chance.randrange(LANES), (self._request(one),))

    def _request(self, one: Head) -> Request:
        request = one.request(next(self._numbers), self.chance)
        self._heads[request.data] = one
        return request

    def _ask(self, turns: list[Turn]) -> None:
        """Some of those that are answered well become hot ones, and few of the others."""
        chance, hot = self.chance, set(map(id, self.hot))
        requests = [request for turn in turns for request in turn.requests]
        for request, answer in zip(requests, self.pair.ask_all(turns), strict=True):
            if answer.status == 200:
                etag = answer.header("etag")
                if etag and etag not in self.known.etags[-24:]:
                    self.known.etags.append(etag)
            one = self._heads[request.data]
            if id(one) not in hot and chance.random() < (0.25 if answer.status < 400 else 0.02):
                self.hot[chance.randrange(HOT)] = one
            self.hot_asked += id(one) in hot
        self._heads.clear()

    def _let_time_pass(self) -> None:
        self.pair.move(self.chance.choice((0, 0, 0.001, 0.3, 0.7, 1.5, 1.5, 3)))

    # ---- how operations ask

    def do(self, method: str, path: str, body: bytes = b"", who: str | None = None, **fields: str) -> Answer:
        """From an address of its own, so that no limit is met."""
        number = next(self._numbers)
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: r",
            f"X-Request-Id: o{number}",
            f"X-Forwarded-For: 172.{16 + number % 16}.{number // 256 % 256}.{number % 256}",
        ]
        lines += [f"Authorization: {self._bearer() if who is None else who}"] if who != "" else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        if method in ("PUT", "POST", "PATCH"):
            lines.append(f"Content-Length: {len(body)}")
        self.pair.note(f"{method} {path}")
        return self.pair.ask(Request("\r\n".join((*lines, "", "")).encode() + body, method, b"o%d" % number))

    def _bearer(self) -> str:
        return f"Bearer {self.admin}"

    def post(self, path: str, members: dict[str, Any], who: str = "") -> Answer:
        return self.do("POST", path, json.dumps(members).encode(), who, Content_Type="application/json")

    def push(self, name: str, reference: str, image: Image) -> None:
        for child in image.children:
            self.push(name, child.digest, child)
        for part in image.parts:
            digest = digest_of(part)
            if digest not in self.known.blobs:
                self.known.blobs.append(digest)
            self.do("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", part, Content_Type="application/octet-stream")
        self.do("PUT", f"/v2/{name}/manifests/{reference}", image.manifest, Content_Type=image.media_type)

    def storages(self) -> list[DiskStorage]:
        """Of both servers, as another process on the same folders has them."""
        self._storages = self._storages or [DiskStorage(twin.storage) for twin in self.pair.twins]
        return self._storages


def _ends(request: Request) -> bool:
    """Nothing is pipelined behind what may end the connection, nor cut into pieces."""
    return bool(request.cut) or b"HTTP/1.0" in request.data or b"close" in request.data.lower() or b"* HTTP" in request.data


# ---- operations


def push(story: Story) -> None:
    chance = story.chance
    image = chance.choice(IMAGES)
    if chance.random() < 0.1:
        image = reused(image)
    story.push(chance.choice(NAMES), chance.choice(TAGS) if chance.random() < 0.85 else image.digest, image)


def move_tag(story: Story) -> None:
    """There and back, or the same bytes again."""
    chance = story.chance
    image = chance.choice(IMAGES[:8])
    story.do("PUT", f"/v2/{chance.choice(NAMES)}/manifests/{chance.choice(TAGS)}", image.manifest, Content_Type=image.media_type)


def delete_tag(story: Story) -> None:
    story.do("DELETE", f"/v2/{story.chance.choice(NAMES)}/manifests/{story.chance.choice(TAGS)}")


def delete_manifest(story: Story) -> None:
    story.do("DELETE", f"/v2/{story.chance.choice(NAMES)}/manifests/{story.chance.choice(IMAGES).digest}")


def delete_blob(story: Story) -> None:
    story.do("DELETE", f"/v2/{story.chance.choice(NAMES)}/blobs/{story.chance.choice(story.known.blobs)}")


def put_file(story: Story, name: str = "") -> None:
    chance = story.chance
    path = name or chance.choice(FILES)
    data = noise(chance.choice(SIZES), chance.randrange(4))
    old = story.files.get(path)
    condition = {} if old is None or chance.random() < 0.1 else {"If_Match": f'"{digest_of(old).removeprefix("sha256:")}"'}
    where = "/repository/files" if chance.random() < 0.15 and not name else "/raw"
    if story.do("PUT", f"{where}/{path}", data, **condition).status in (200, 201, 204) and where == "/raw":
        story.files[path] = data


def delete_file(story: Story) -> None:
    path = story.chance.choice(FILES)
    if story.do("DELETE", f"/raw/{path}").status == 204:
        story.files.pop(path, None)


def mint(story: Story) -> None:
    chance = story.chance
    name = chance.choice(tuple(USERS))
    members = {"username": name, "password": story.settings.passwords.get(name, "gone"), "role": chance.choice(("read", "write"))}
    members |= {"ttl_days": chance.choice((0, 1, 30, 3650, 3650))}
    _note_token(story, story.post("/api/tokens", members))


def _note_token(story: Story, answer: Answer) -> None:
    if answer.status == 200:
        members = json.loads(answer.body)
        story.known.tokens.append(members["token"])
        story.ids.append(members["hash_prefix"])


def rotate(story: Story) -> None:
    if story.ids:
        members = {"hash_prefix": story.chance.choice(story.ids[-6:]), "overlap_secs": story.chance.choice((0, 2, 60))}
        _note_token(story, story.post("/api/tokens/rotate", members, story._bearer()))


def revoke(story: Story) -> None:
    if story.ids:
        story.post("/api/tokens/revoke", {"hash_prefix": story.chance.choice(story.ids[-6:])}, story._bearer())


def revoke_elsewhere(story: Story) -> None:
    """As another node does."""
    if story.ids:
        id = story.chance.choice(story.ids[-6:])
        story.pair.note(f"revoked elsewhere: {id}")
        for storage in story.storages():
            Tokens(Documents(storage, "_auth/tokens/"), clock=story.pair.clock.time).revoke(id)
        story.pair.move(CHECK_SECONDS)


def bearer(story: Story) -> None:
    chance = story.chance
    name = chance.choice(tuple(USERS))
    who = basic(name, story.settings.passwords.get(name, "gone"))
    if story.known.tokens and chance.random() < 0.4:
        who = basic(name, chance.choice(story.known.tokens[-4:]))
    scope = f"repository:{chance.choice(NAMES)}:{chance.choice(('pull', 'pull,push'))}"
    answer = story.do("GET", f"/v2/token?service=r&scope={scope}", who=who)
    if answer.status == 200:
        story.known.bearers.append(json.loads(answer.body)["token"])


def users(story: Story) -> None:
    """Another password, or a user who goes and comes."""
    chance, passwords = story.chance, story.settings.passwords
    name = chance.choice(tuple(USERS))
    if name == "emil" and name in passwords and chance.random() < 0.5:
        del passwords[name]
    else:
        passwords[name] = chance.choice([word for word in USERS[name] if word != passwords.get(name)])
    _write_users(story, f"users: {passwords}")


def groups(story: Story) -> None:
    story.settings.groups = {"dev": story.chance.sample(("dora", "emil"), story.chance.randint(1, 2)), "others": []}
    _write_users(story, f"groups: {story.settings.groups}")


def _write_users(story: Story, what: str) -> None:
    story.pair.note(what)
    story.pair.each(lambda twin: story.settings.write_users(twin.folder))
    story.pair.move(CHECK_SECONDS)


def reload(story: Story) -> None:
    pair = story.pair
    pair.note(f"reload: {story.settings.vary(story.chance)}")
    pair.each(lambda twin: story.settings.write(twin.folder))
    pair.reload()
    pair.each(_told)


def _told(twin: Twin) -> None:
    assert twin.worker_pids(), twin.log_text()[-3000:]


def freeze(story: Story) -> None:
    chance, pair = story.chance, story.pair
    begins, seconds = chance.random() < 0.6, chance.choice((None, 5.0))
    pair.note("freeze" if begins else "freeze lifted")
    for storage in story.storages():
        frozen = Freeze(Documents(storage, "_curation/"), pair.clock.time)
        frozen.begin("root", "a test", seconds) if begins else frozen.lift()
    pair.move(CHECK_SECONDS)


def step(story: Story) -> None:
    """The wall clock, as time servers and operators set it; the other one never goes back."""
    seconds = story.chance.choice((-300.0, -30.0, -2.0, -0.5, 1.0, 30.0, 70.0, 700.0))
    story.pair.note(f"clock: {seconds:+}")
    story.pair.move(seconds, 0)


def wait_long(story: Story) -> None:
    """Ages ripen, tokens end, buckets are full again."""
    seconds = story.chance.choice((61, 200, 1300, 3700, 7300, 90_000))
    story.pair.note(f"{seconds} seconds pass")
    story.pair.move(seconds)
    for _ in range(2):
        mint(story)
        bearer(story)


def guess(story: Story) -> None:
    """Until the client is locked out; then with the right password."""
    chance = story.chance
    name, client = chance.choice(tuple(USERS)), f"203.0.113.{chance.randrange(256)}"
    tries = [f"wrong {number}" for number in range(chance.randint(2, 7))] + [story.settings.passwords.get(name, "gone")]
    for password in tries:
        data = f"GET /v2/ HTTP/1.1\r\nHost: r\r\nX-Forwarded-For: {client}\r\nAuthorization: {basic(name, password)}\r\n\r\n"
        story.pair.ask(Request(data.encode(), "GET"))


_WEIGHED: dict[Operation, int] = {
    push: 10,
    move_tag: 10,
    delete_tag: 4,
    delete_manifest: 3,
    delete_blob: 2,
    put_file: 8,
    delete_file: 3,
    mint: 3,
    rotate: 2,
    revoke: 3,
    revoke_elsewhere: 1,
    bearer: 4,
    users: 2,
    groups: 2,
    reload: 8,
    freeze: 1,
    step: 4,
    wait_long: 4,
    guess: 2,
}
OPERATIONS, WEIGHTS = list(_WEIGHED), list(_WEIGHED.values())
