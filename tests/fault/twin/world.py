"""What the twins keep and obey: users, rules and configurations that a story changes, images and files that it pushes."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from noraflask.services.auth.users import hash_password

from ..oci import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE, config_of, digest_of, manifest_of, noise

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
DOCKER_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
COST = 4
NAMES = ("team/app", "team/base", "home/tool", "mirror/app")
"""The last one is in a repository of its own while there is one, and else in the default one."""
TAGS = ("v1", "v2", "v3", "latest")
FILES = ("docs/a.txt", "docs/b.txt", "docs/c.bin", "tools/run.sh", "big.bin")
USERS = {"root": ("root's", "new root's"), "dora": ("dora's", "dora's second"), "emil": ("emil's", "emil's other")}
"""And the two passwords that each of them may have."""
HASHES = {(name, password): hash_password(password, COST) for name, passwords in USERS.items() for password in passwords}
"""Once for both servers, since a hash has salt."""
BYPASS = "let-me-pass-please"
SIZES = (2, 700, 5_000, 60_000, 70_000, 300_000)
"""Of layers and files, on both sides of what is sent inline."""


@dataclass(frozen=True)
class Image:
    manifest: bytes
    media_type: str
    parts: tuple[bytes, ...] = ()
    """Blobs."""
    children: tuple[Image, ...] = ()

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def plain_image(number: int) -> Image:
    layer = noise(SIZES[number % len(SIZES)], f"layer {number}")
    config = config_of(layer)
    return Image(manifest_of(config, layer), MANIFEST_TYPE, (config, layer))


def docker_image(number: int) -> Image:
    """In Docker's own form, so that another Accept gets it."""
    layer = noise(900, f"docker {number}")
    config = config_of(layer)
    members: dict[str, Any] = {"schemaVersion": 2, "mediaType": DOCKER_TYPE, "config": descriptor(config, DOCKER_CONFIG)}
    return Image(json.dumps(members | {"layers": [descriptor(layer, DOCKER_LAYER)]}).encode(), DOCKER_TYPE, (config, layer))


def index_of(*images: Image) -> Image:
    entries = [descriptor(image.manifest, image.media_type) for image in images]
    for entry, architecture in zip(entries, ("amd64", "arm64"), strict=False):
        entry["platform"] = {"architecture": architecture, "os": "linux"}
    return Image(json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}).encode(), INDEX_TYPE, children=images)


def referrer_of(image: Image, number: int) -> Image:
    """A signature, say."""
    layer, config = noise(50, f"signature {number}"), b"{}"
    members: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": "application/x.signature"}
    members |= {"config": descriptor(config, "application/vnd.oci.empty.v1+json"), "layers": [descriptor(layer, LAYER_TYPE)]}
    return Image(json.dumps(members | {"subject": descriptor(image.manifest, image.media_type)}).encode(), MANIFEST_TYPE, (config, layer))


def descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def images() -> list[Image]:
    plain = [plain_image(number) for number in range(6)]
    docker = [docker_image(number) for number in range(2)]
    indexes = [index_of(plain[0], plain[1]), index_of(plain[2], docker[0])]
    return [*plain, *docker, *indexes, *(referrer_of(plain[number], number) for number in range(2))]


def reused(image: Image) -> Image:
    """The same bytes under another media type: what stands in the manifest decides, so this is refused, and nothing may change by it."""
    return Image(image.manifest, DOCKER_TYPE if image.media_type == MANIFEST_TYPE else MANIFEST_TYPE, image.parts, image.children)


assert CONFIG_TYPE != DOCKER_CONFIG


# ---- what operators write


@dataclass
class Settings:
    """Of one moment; each reload has some of it anew."""

    anonymous: bool = True
    default_role: str = "read"
    denied: str = ""
    """A name of which dora may pull nothing."""
    tight: bool = False
    origins: tuple[str, ...] = ()
    named: bool = True
    """Whether the repositories `mirror` and `files` are there."""
    mode: str = "off"
    age: str = ""
    audit_allows: bool = False
    ledger: bool = True
    blocked: list[tuple[str, str, str]] = field(default_factory=list)
    """(format, name, version)"""
    allowed: list[tuple[str, str]] = field(default_factory=list)
    excepted: list[tuple[str, str, float]] = field(default_factory=list)
    """(format, name, when that ends)"""
    broken: bool = False
    now: Callable[[], float] = lambda: 0.0
    passwords: dict[str, str] = field(default_factory=lambda: {name: passwords[0] for name, passwords in USERS.items()})
    groups: dict[str, list[str]] = field(default_factory=lambda: {"dev": ["dora"]})

    def vary(self, chance: random.Random) -> str:
        """One thing anew; what it was."""
        change = chance.choice(CHANGES)
        self.broken, self.tight = False, self.tight and chance.random() < 0.4
        return f"{change.__name__.strip('_')}{change(self, chance) or ''}"

    def config(self) -> str:
        burst, rps = (25, 2) if self.tight else (2000, 100)
        rules = "".join(self._rules())
        age = f'min_release_age = "{self.age}"\nhosted = true\n' if self.age else ""
        return f"""
[auth]
enabled = true
htpasswd_file = "users.htpasswd"
groups_file = "groups"
admin_users = ["root"]
anonymous_read = {_word(self.anonymous)}
docker_anon_pull = {_word(self.anonymous)}
bearer_ttl_secs = 60
[access]
default_role = "{self.default_role}"
{rules}
[rate_limit]
upload_rps = {rps}
upload_burst = {burst}
general_rps = {rps}
general_burst = {burst}
auth_rps = 1000
auth_burst = 1000
[cors]
allowed_origins = [{", ".join(f'"{origin}"' for origin in self.origins)}]
[raw]
overwrite = "conditional"
[curation]
mode = "{self.mode if not self.broken else "sometimes"}"
{age}audit_allows = {_word(self.audit_allows)}
ledger = {_word(self.ledger)}
bypass_token = "{BYPASS}"
rules_path = "rules.toml"
{_NAMED if self.named else ""}"""

    def _rules(self) -> Iterator[str]:
        yield '[[access.rules]]\nusers = ["root"]\nactions = ["admin"]\n'
        yield '[[access.rules]]\ngroups = ["dev"]\nnames = ["team/**", "docs/**"]\nactions = ["write"]\n'
        if self.denied:
            yield f'[[access.rules]]\nusers = ["dora"]\nnames = ["{self.denied}"]\neffect = "deny"\nactions = ["pull"]\n'

    def rules(self) -> str:
        blocks = (
            f'[[block]]\nformat = "{format}"\nname = "{name}"\nversion = "{version}"\nreason = "so"\n' for format, name, version in self.blocked
        )
        ends = ((format, name, datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")) for format, name, end in self.excepted)
        excepts = (
            f'[[except]]\nformat = "{format}"\nname = "{name}"\nexpires = "{end}"\nowner = "root"\nreason = "so"\n' for format, name, end in ends
        )
        return "# What is refused.\n" + "".join(
            (*blocks, *excepts, *(f'[[allow]]\nformat = "{format}"\nname = "{name}"\n' for format, name in self.allowed))
        )

    def write(self, folder: Path) -> str:
        put(folder / "rules.toml", self.rules())
        put(folder / "config.toml", text := self.config())
        return text

    def write_users(self, folder: Path) -> None:
        lines = (f"{name}:{HASHES[name, password].decode()}\n" for name, password in self.passwords.items())
        put(folder / "users.htpasswd", "".join(lines))
        put(folder / "groups", "".join(f"{group}: {' '.join(users)}\n" for group, users in self.groups.items()))


_NAMED = """
[[repositories]]
name = "mirror"
format = "docker"
[[repositories]]
name = "files"
format = "raw"
cache_control = "max-age=60"
"""


def put(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def _word(value: bool) -> str:
    return "true" if value else "false"


def mode(now: Settings, chance: random.Random) -> str:
    now.mode = chance.choice(("off", "audit", "enforce", "enforce", "enforce"))
    return f" {now.mode}"


def blocklist(now: Settings, chance: random.Random) -> str:
    digests = [image.digest for image in IMAGES]
    versions = ("*", *TAGS, chance.choice(digests), chance.choice(digests))
    some = [("docker", chance.choice(NAMES[:3]), chance.choice(versions)) for _ in range(chance.randint(0, 3))]
    now.blocked = [*some, *(("raw", chance.choice(FILES), "*") for _ in range(chance.randint(0, 1)))]
    now.excepted = [(format, name, now.now() + chance.choice((2, 60, 600, 4000))) for format, name, _ in now.blocked if chance.random() < 0.6]
    if now.mode == "off":
        now.mode = "enforce"
    return f" {now.blocked}"


def allowlist(now: Settings, chance: random.Random) -> str:
    now.allowed = [("docker", name) for name in chance.sample(NAMES, 3)] + [("raw", "*")] if chance.random() < 0.3 else []
    return f" {now.allowed}"


def age(now: Settings, chance: random.Random) -> str:
    now.age = chance.choice(("", "", "1h", "2h"))
    if now.age:
        now.mode = chance.choice(("audit", "enforce"))
    return f" {now.age} {now.mode}"


def audit_allows(now: Settings, chance: random.Random) -> None:
    now.audit_allows = not now.audit_allows


def ledger(now: Settings, chance: random.Random) -> None:
    now.ledger = not now.ledger


def limits(now: Settings, chance: random.Random) -> str:
    now.tight = not now.tight and chance.random() < 0.5
    return " tight" if now.tight else " loose"


def origins(now: Settings, chance: random.Random) -> str:
    now.origins = chance.choice(((), ("https://ui.example.com",), ("*",)))
    return f" {now.origins}"


def repositories(now: Settings, chance: random.Random) -> None:
    now.named = not now.named


def anonymous(now: Settings, chance: random.Random) -> str:
    now.anonymous = chance.random() < 0.7
    return f" {now.anonymous}"


def rights(now: Settings, chance: random.Random) -> str:
    now.default_role, now.denied = chance.choice(("read", "read", "none", "write")), chance.choice(("", "", "team/**", "docs/**"))
    return f" {now.default_role} {now.denied}"


def broken(now: Settings, chance: random.Random) -> None:
    now.broken = True


def nothing(now: Settings, chance: random.Random) -> None:
    """The same once more."""


CHANGES = (
    *(mode, blocklist, blocklist, blocklist, allowlist, age, audit_allows, ledger, limits, origins, repositories),
    *(anonymous, rights, broken, nothing),
)
IMAGES = images()
