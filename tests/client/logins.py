"""How each program logs in, pushes and pulls: one table, so that every test about logins runs with all of them."""

from __future__ import annotations

import base64
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.client.guarded import password_of
from tests.client.layout import Layout, tarball
from tests.client.tools import Client


@dataclass(frozen=True)
class Words:
    """What to call, `{…}` filled in. `make`: what must be there before a push; `login`: gets the password on its standard input."""

    login: str
    logout: str
    push: str
    pull: str
    make: str = ""
    forget: str = ""
    """Takes the image away again, so that the next pull fetches it."""


HTTP = "--tls-verify=false"
WORDS = {
    "docker": Words(
        "login --username {user} --password-stdin {host}",
        "logout {host}",
        "push {ref}",
        "pull {ref}",
        make="import {tree} {ref}",
        forget="rmi {ref}",
    ),
    "podman": Words(
        f"login {HTTP} --username {{user}} --password-stdin {{host}}",
        "logout {host}",
        f"push {HTTP} {{ref}}",
        f"pull {HTTP} {{ref}}",
        make="import {tree} {ref}",
        forget="rmi {ref}",
    ),
    "buildah": Words(
        f"login {HTTP} --username {{user}} --password-stdin {{host}}",
        "logout {host}",
        f"push {HTTP} {{ref}}",
        f"pull {HTTP} {{ref}}",
        make="bud --isolation chroot --tag {ref} {context}",
        forget="rmi {ref}",
    ),
    "skopeo": Words(
        f"login {HTTP} --username {{user}} --password-stdin {{host}}",
        "logout {host}",
        "copy --dest-tls-verify=false oci:{layout}:v1 docker://{ref}",
        "copy --src-tls-verify=false docker://{ref} dir:{home}/pulled",
    ),
    "crane": Words(
        "auth login --username {user} --password-stdin {host}", "auth logout {host}", "push {layout} {ref}", "pull {ref} {home}/pulled.tar"
    ),
    "oras": Words(
        "login --plain-http --username {user} --password-stdin {host}",
        "logout {host}",
        "copy --from-oci-layout {layout}:v1 --to-plain-http {ref}",
        "copy --from-plain-http {ref} --to-oci-layout {home}/pulled:v1",
    ),
    "regctl": Words(
        "registry login --user {user} --pass-stdin {host}",
        "registry logout {host}",
        "image copy ocidir://{layout}:v1 {ref}",
        "image copy {ref} ocidir://{home}/pulled:v1",
    ),
    "helm": Words(
        "registry login --plain-http --username {user} --password-stdin {host}",
        "registry logout {host}",
        "push --plain-http {chart} oci://{host}/{name}",
        "pull --plain-http oci://{host}/{name}/shop --version 1.0.0 --destination {home}",
    ),
    "ctr": Words(
        "",  # no logins: it takes them with each call
        "",
        "images push --plain-http {credentials} {ref}",
        "images pull --plain-http --snapshotter native {credentials} {ref}",
        make="images import --snapshotter native --base-name {repository} {archive}",
        forget="images remove {ref}",
    ),
}
ASKS_NOBODY = ("crane", "ctr")
"""Take any password for a start: the registry is asked only with the first push or pull."""
KEEPS_A_WRONG_LOGIN = ("regctl",)
"""Says "credentials were still stored"."""


@dataclass(frozen=True)
class Goods:
    """The same small image in each form that some program wants."""

    layout: Path
    archive: Path
    tree: Path
    context: Path
    chart: Path


def make_goods(folder: Path) -> Goods:
    layout, context, chart = Layout(folder / "layout"), folder / "context", folder / "shop"
    layout.tag(layout.image([layout.layer({"etc/motd": b"hello\n" * 500})]), "v1")
    goods = Goods(layout.folder, folder / "layout.tar", folder / "tree.tar", context, chart)
    subprocess.run(["tar", "-cf", goods.archive, "-C", layout.folder, "."], check=True)
    goods.tree.write_bytes(tarball({"etc/motd": b"hello\n" * 500}))
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /srv/\n")
    chart.mkdir()
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: shop\nversion: 1.0.0\n")
    subprocess.run(["tar", "-czf", folder / "shop-1.0.0.tgz", "-C", folder, "shop"], check=True)
    return replace(goods, chart=folder / "shop-1.0.0.tgz")


@dataclass
class Seat:
    """One program at one registry, with a home of its own."""

    client: Client
    host: str
    goods: Goods
    _credentials: list[str] = field(default_factory=list)

    @property
    def program(self) -> str:
        return self.client.name

    def log_in(self, user: str, password: str | None = None) -> None:
        """The user's own password, or another one, or what stands in its place."""
        password = password or password_of(user)
        if self.program == "ctr":
            self._credentials = ["--user", f"{user}:{password}"]
        else:
            self.client(*self._call(WORDS[self.program].login, user=user), stdin=password.encode())

    def login_refused(self, user: str, password: str) -> str:
        return self.client.refused(*self._call(WORDS[self.program].login, user=user), stdin=password.encode())

    def log_out(self) -> None:
        self._credentials = []
        if WORDS[self.program].logout:
            self.client(*self._call(WORDS[self.program].logout))

    def push(self, name: str) -> None:
        self._made(name)
        self.client(*self._call(WORDS[self.program].push, name))

    def push_refused(self, name: str) -> str:
        self._made(name)
        return self.client.refused(*self._call(WORDS[self.program].push, name))

    def pull(self, name: str) -> None:
        self._forgotten(name)
        self.client(*self._call(WORDS[self.program].pull, name))

    def pull_refused(self, name: str) -> str:
        self._forgotten(name)
        return self.client.refused(*self._call(WORDS[self.program].pull, name))

    def stored(self, name: str) -> str:
        """The name that the registry has then: helm appends the chart's."""
        return f"{name}/shop" if self.program == "helm" else name

    @property
    def tag(self) -> str:
        return "1.0.0" if self.program == "helm" else "v1"

    def keeps(self, user: str, password: str) -> bool:
        """Is the password in any file that the program left at home, in one of the forms in which it may be written down?"""
        forms = (password, base64.b64encode(f"{user}:{password}".encode()).decode())
        found = subprocess.run(["grep", "-rqF", "-e", forms[0], "-e", forms[1], self.client.home], capture_output=True, check=False)
        assert found.returncode in (0, 1), found.stderr
        return found.returncode == 0

    def _made(self, name: str) -> None:
        if WORDS[self.program].make:
            self.client(*self._call(WORDS[self.program].make, name))

    def _forgotten(self, name: str) -> None:
        if WORDS[self.program].forget:
            self.client.run(*self._call(WORDS[self.program].forget, name))

    def _call(self, words: str, name: str = "", user: str = "") -> list[str]:
        known = {**vars(self.goods), "host": self.host, "home": self.client.home, "name": name, "user": user}
        known |= {"repository": f"{self.host}/{name}", "ref": f"{self.host}/{name}:{self.tag}"}
        parts = words.split()
        return [part for word in parts for part in (self._credentials if word == "{credentials}" else [word.format(**known)])]
