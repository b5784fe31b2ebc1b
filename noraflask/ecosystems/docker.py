"""Docker and OCI images: names, tags and digests, and the settings of the format.

`x`, `library/x`, `docker.io/x` and `docker.io/library/x` are one image, and its canonical name is the shortest of them. Only the Hub's hosts are
taken off a name. Another first part with a dot, as in `my.team/app` or `ghcr.io/team/app`, is a part of the name as the specification has it: such
images are pushed, and mirrors keep images under the names that they had. What nobody has pushed is not there, so an unknown host is a 404 by itself.
A first part with a port can be in no name: it is a host, and a 404 before anybody looks.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from noraflask.ecosystems.ecosystem import Ecosystem, Versions, split_at_sign
from noraflask.ecosystems.names import FLAT, Names
from noraflask.ecosystems.ranges import ORDER, Language
from noraflask.ecosystems.versions import RELEASE, Key, numbers_of, without_zeros
from noraflask.errors import InvalidName, RepositoryUnknown
from noraflask.settings import MIB, Choice, Off, Setting, Switch, WholeNumber, setting


@dataclass(frozen=True)
class DockerConfig:
    enabled: bool = setting(True, Switch(), "Whether the Docker and OCI format is served at /v2/.", env="NORA_DOCKER_ENABLED")
    max_upload_sessions: int = setting(20000, WholeNumber(1, 10_000_000), "Unfinished blob uploads at one time.", env="NORA_MAX_UPLOAD_SESSIONS")
    max_upload_session_size_mb: int = setting(
        20480, WholeNumber(1, MIB), "Largest blob, in MiB.", env="NORA_MAX_UPLOAD_SESSION_SIZE_MB", per_repository=True
    )
    chunk_min_bytes: int = setting(
        65536,
        WholeNumber(1, 1024 * MIB),
        "Announced to clients as OCI-Chunk-Min-Length; smaller chunks are taken all the same.",
        env="NORA_DOCKER_CHUNK_MIN_BYTES",
        per_repository=True,
    )
    sparse_indexes: str = setting(
        "require",
        Choice(("require", "allow")),
        "Whether an index may be pushed while what it lists is not there: require = all of it must be, allow = any of it may be missing.",
        env="NORA_DOCKER_SPARSE_INDEXES",
        per_repository=True,
    )


# Names ("Pulling manifests").

HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
"""Of Docker Hub, with which clients may write what they mean without."""
NAME_CHARACTERS = 255
NAMES_KEPT = 4096
"""Whose canonical form a process remembers: about 2 MB at the most."""
_HUB = tuple(f"{host}/" for host in HUB_HOSTS)
_LONGEST = NAME_CHARACTERS + len("registry.hub.docker.com/library/")
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
_WITH_PORT = re.compile(r"[a-z0-9.-]+:[0-9]{1,5}/", re.IGNORECASE)
_RULE = (
    "the repository name is not valid: lower-case letters and digits, parted by one of . _ __ - within a part, and / between parts; "
    f"at most {NAME_CHARACTERS} characters"
)
_ONE_SEGMENT = "***"
"""For access rules: any one segment, where `*` alone would be everything."""


@functools.lru_cache(maxsize=NAMES_KEPT)
def _parse_name(text: str) -> str:
    """The canonical name. Raises InvalidName, and RepositoryUnknown for a name with another registry's host and port."""
    if len(text) <= _LONGEST:
        if _WITH_PORT.match(text):
            raise RepositoryUnknown("the name begins with the host of another registry; leave it out", detail={"name": text})
        if _NAME.match(text) and len(name := _same_name(text)) <= NAME_CHARACTERS:
            return name
    raise InvalidName(_RULE, detail={"name": text[:NAME_CHARACTERS]})


def _same_name(name: str) -> str:
    name = _without_hub(name)
    rest = name.removeprefix("library/")
    return name if "/" in rest or not rest else rest


def _without_hub(name: str) -> str:
    while host := next((host for host in _HUB if name.startswith(host) and len(name) > len(host)), ""):
        name = name[len(host) :]
    return name


def _name_pattern(text: str) -> str:
    """`library/…` are the names without a slash; the Hub's hosts vanish."""
    text = _without_hub(text.lower())
    rest = text.removeprefix("library/")
    return text if rest == text or "/" in rest else FLAT + ("*" if rest == "**" else rest)


def _access_patterns(text: str) -> tuple[str, ...]:
    """As names; `library/*` is any one segment. A star in place of `library` or of a host stands for a part that the canonical name has."""
    whole, text = text, _without_hub(text.lower())
    first, _, rest = text.partition("/")
    if text == "*" != whole:
        return (_ONE_SEGMENT,)
    if first != "library" or not rest:
        return (text,)
    if rest == "*":
        return (_ONE_SEGMENT,)
    if rest == "**":
        return (_ONE_SEGMENT, text)
    if "/" not in rest:
        return (rest,)
    shortest = [part for part in rest.split("/") if part != "**"]
    return (shortest[0] if shortest[0] != "*" else _ONE_SEGMENT, text) if len(shortest) == 1 else (text,)


# Versions: tags and digests. Of a tag numbers count, and a prerelease word; a variant (-alpine) does not.

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{32,128}")
_NUMBERED = re.compile(
    r"v?(?P<numbers>[0-9]+(?:\.[0-9]+)*)"
    r"(?:[-._]?(?P<word>alpha|beta|preview|pre|rc|cr|dev|snapshot|nightly|canary|milestone|ea|[abm](?=[-._]?[0-9]))[-._]?(?P<number>[0-9]*))?"
    r"(?:[-_.+].*)?",
    re.IGNORECASE,
)
_RANK = {"nightly": 0, "canary": 0, "dev": 0, "snapshot": 0, "a": 1, "alpha": 1, "ea": 1, "b": 2, "beta": 2, "m": 3, "milestone": 3}


def _same_version(version: str) -> str:
    return version.lower() if ":" in version else version


def _key(version: str) -> Key | None:
    match = _NUMBERED.fullmatch(version)
    if not match or ":" in version:
        return None
    word = (match["word"] or "").lower()
    return (without_zeros(numbers_of(match["numbers"])), (0, _RANK.get(word, 4), int(match["number"] or 0)) if word else RELEASE)


def _floor(numbers: list[int]) -> Key:
    return (without_zeros(numbers), (0,))


def _is_tag_or_digest(version: str) -> bool:
    return bool(_TAG.fullmatch(version) or _DIGEST.fullmatch(version))


def _split_reference(text: str) -> tuple[str, str | None]:
    """Also `NAME:TAG`, as docker has it; with a digest behind it, the digest counts."""
    name, version = split_at_sign(text)
    folder, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{folder}{slash}{last}", version or tag or version


ECOSYSTEM = Ecosystem(
    id="docker",
    title="Docker and OCI",
    aliases=("oci",),
    section=DockerConfig,
    opened_by="docker_anon_pull",
    not_yet=(
        Setting("docker.upstreams", ("NORA_DOCKER_PROXIES", "NORA_DOCKER_UPSTREAMS"), Off("fetching from an upstream", ("",)), ""),
        Setting("docker.default_action", ("NORA_DOCKER_DEFAULT_ACTION",), Off("refusing names by default", ("allow",)), ""),
    ),
    keys_not_yet=("proxy_timeout", "read_timeout", "metadata_ttl", "serve_stale"),
    reserved=(*HUB_HOSTS, "library", "blobs", "manifests", "tags", "referrers", "uploads"),
    osv=("docker", "oci"),
    names=Names(
        "names of images have small letters, digits and . _ - / alone",
        re.compile(r"[^a-z0-9._/*-]"),
        _same_name,
        folds_case=True,
        read=_parse_name,
        pattern=_name_pattern,
        access=_access_patterns,
    ),
    versions=Versions(_same_version, _same_version, _key, Language(">=1.25.0 <1.25.4", ORDER | {"^", "~"}, _floor), is_version=_is_tag_or_digest),
    split_reference=_split_reference,
)
