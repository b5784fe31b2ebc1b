"""What the doctor asks of a front for images: the token service, and a canary image that is pushed and pulled."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from noraflask.formats.docker.canary import Canary
from noraflask.formats.docker.protocol import keys
from noraflask.services.doctor import remedies
from noraflask.services.doctor.findings import Finding, ok, wrong
from noraflask.services.doctor.format_checks import Check, Context, FormatChecks, Home

HOME = "/v2/"
_REALM = re.compile(r'realm="([^"]*)"')


def login_address(context: Context) -> Iterator[Finding]:
    """Whoever is not logged in is led to the token service; docker sends its password there."""
    target = context.front.target
    answer = context.front.ask("GET", f"{target.prefix}{HOME}", with_login=False)
    realm = _REALM.search(answer.headers.get("WWW-Authenticate", ""))
    if answer.status != 401 or realm is None:
        return
    wanted = f"{target.base}{HOME}token"
    if realm[1] != wanted:
        yield wrong("login address", f"logins are sent to {realm[1]} instead of {wanted}", *remedies.outside_address(target.base, target.prefix))
    else:
        yield ok("login address", wanted)


def canary(context: Context) -> Iterator[Finding]:
    canary = Canary(context.front, context.size, context.pause_seconds)
    try:
        yield from canary.run()
    finally:
        forget(context, canary.name)


def forget(context: Context, name: str) -> None:
    """The name of a removed canary, where this machine keeps the storage: over HTTP a repository without images stays on the list."""
    if context.own is None:
        return
    folder = context.own.path / "docker" / name
    with contextlib.suppress(OSError), context.own.open() as storage:
        places = [(place, files) for place, _, files in os.walk(folder, topdown=False)]
        if not places or any(files for _, files in places):
            return  # it is another machine's, or something of it could not be removed
        storage.delete(keys.name_pointer("docker", name))
        for place in (*(place for place, _ in places), str(folder.parent)):
            with contextlib.suppress(OSError):
                os.rmdir(place)


CHECKS = FormatChecks(
    home=Home(HOME, lambda answer: bool(answer.headers.get("Docker-Distribution-Api-Version"))),
    checks=(Check("login address", login_address), Check("canary", canary, needs_login=True)),
    trust=(
        "docker:   /etc/docker/certs.d/<host:port>/ca.crt on each client; GET /setup/docker tells how, likewise podman, containerd, kubernetes, helm",
    ),
)
