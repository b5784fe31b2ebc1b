"""Keys of a repository, all below its own name, here `docker`, and an image name, here `team/app`:

    docker/team/app/_blobs/sha256:<hex>                     pointer: the blob may be read under this name
    docker/team/app/_manifests/sha256:<hex>                 pointer
    docker/team/app/_parts/sha256:<hex>                     pointer to a manifest of many parts, with what it is made of (kept.py)
    docker/team/app/_tags/1.0                               pointer
    docker/team/app/_referrers/sha256:<subject>/sha256:<x>  pointer, with what the referrers API lists besides
    docker/team/app/_twins/sha512:<hex>                     pointer to the same bytes by another algorithm's digest (twins.py)
    docker/team/app/_gone/sha256:<hex>                      pointer: deleted while a rule blocked it, with the tags that led to it (deletions.py)
    docker/team/app/_pushed/sha256:<hex>                    pointer, with who pushed the manifest last (readback.py)
    docker/.names/team.app                                  the image name exists; a flat folder, so that the catalog need not walk a tree

An image name's parts begin with a letter or digit, so a part that begins with `_` or `.` is never one of them. The bytes are in services/content.py.
"""

from __future__ import annotations

from noraflask.digest import Digest
from noraflask.keys import Key

_AS_POINTER = str.maketrans("-./", "+-.")
_AS_NAME = str.maketrans("+-.", "-./")


def blob_pointer(repository: str, name: str, digest: Digest) -> Key:
    return Key.trusted(f"{repository}/{name}/_blobs/{digest.algorithm}:{digest.hex}")


def manifest_pointer(repository: str, name: str, digest: Digest) -> Key:
    return Key.trusted(f"{repository}/{name}/_manifests/{digest.algorithm}:{digest.hex}")


def parts_pointer(repository: str, name: str, digest: Digest | str) -> Key:
    return Key.trusted(f"{repository}/{name}/_parts/{digest}")


def tag_pointer(repository: str, name: str, tag: str) -> Key:
    return Key.trusted(f"{tags_folder(repository, name)}/{tag}")


def name_folder(repository: str, name: str) -> str:
    """Of all that is kept of a name: also what its revision and its uploads are known by."""
    return f"{repository}/{name}"


def tags_folder(repository: str, name: str) -> str:
    return f"{repository}/{name}/_tags"


def manifests_folder(repository: str, name: str) -> str:
    return f"{repository}/{name}/_manifests"


def referrers_folder(repository: str, name: str, subject: Digest) -> str:
    return f"{repository}/{name}/_referrers/{subject}"


def referrer_pointer(repository: str, name: str, subject: Digest, digest: Digest) -> Key:
    return Key.trusted(f"{referrers_folder(repository, name, subject)}/{digest}")


def gone_folder(repository: str, name: str) -> str:
    return f"{repository}/{name}/_gone"


def gone_pointer(repository: str, name: str, digest: Digest) -> Key:
    return Key.trusted(f"{gone_folder(repository, name)}/{digest}")


def twin_pointer(repository: str, name: str, digest: Digest) -> Key:
    return Key.trusted(f"{repository}/{name}/_twins/{digest}")


def pushed_pointer(repository: str, name: str, digest: Digest) -> Key:
    return Key.trusted(f"{repository}/{name}/_pushed/{digest}")


def names_folder(repository: str) -> str:
    return f"{repository}/.names"


def name_pointer(repository: str, name: str) -> Key:
    return Key.trusted(f"{names_folder(repository)}/{pointer_of_name(name)}")


def pointer_of_name(name: str) -> str:
    """One file name, in the same order as the names are in: each of `-`, `.` and `/` is written as what comes just before it."""
    return name.translate(_AS_POINTER)


def name_of_pointer(pointer: str) -> str:
    return pointer.translate(_AS_NAME)
