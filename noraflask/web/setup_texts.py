"""What each client is told at /setup/<client>: pure, by the address that the client uses.

The text is for a shell: what is no command is a comment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Place:
    """Where the registry is reached, as its client sees it."""

    url: str
    """Scheme, host, port, sub-path; no slash at the end."""

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("https://")

    @property
    def host(self) -> str:
        """Host and port, as in an image's name."""
        return urlsplit(self.url).netloc

    @property
    def prefix(self) -> str:
        return urlsplit(self.url).path

    @property
    def image(self) -> str:
        return f"{self.host}/team/app:1"

    def is_loopback(self) -> bool:
        name = urlsplit(self.url).hostname or ""
        return name == "localhost" or name == "::1" or name.startswith("127.")


def docker(place: Place) -> str:
    return _page(
        place,
        "Docker engine",
        _docker_trust(place),
        f"docker login {place.host}",
        f"docker tag IMAGE {place.image}\ndocker push {place.image}\ndocker pull {place.image}",
    )


def _docker_trust(place: Place) -> str:
    if place.is_tls:
        return _ca_file(f"/etc/docker/certs.d/{place.host}", "No restart is needed.")
    if place.is_loopback():
        return "# The engine speaks plain HTTP to this machine's own addresses by itself."
    return f"""\
# This registry is reached without TLS. Passwords and images can be read and changed on the way: put a proxy with TLS in front.
# Until then: add the host to /etc/docker/daemon.json on each machine, then `systemctl restart docker`.
#
#   {{ "insecure-registries": ["{place.host}"] }}"""


def podman(place: Place) -> str:
    flag = "" if place.is_tls else " --tls-verify=false"
    return _page(
        place,
        "podman, buildah, skopeo",
        _ca_file(f"/etc/containers/certs.d/{place.host}") if place.is_tls else _podman_insecure(place),
        f"podman login{flag} {place.host}",
        f"podman tag IMAGE {place.image}\npodman push{flag} {place.image}\npodman pull{flag} {place.image}",
    )


def _podman_insecure(place: Place) -> str:
    return f"""\
# This registry is reached without TLS. Each command says --tls-verify=false, or /etc/containers/registries.conf.d/nora.conf says it once:
#
#   [[registry]]
#   location = "{place.host}"
#   insecure = true"""


def containerd(place: Place) -> str:
    folder = f"/etc/containerd/certs.d/{place.host}"
    trust = f'\n  ca = "{folder}/ca.crt"' if place.is_tls else ""
    copied = f"\n# {CA_HINT}\ncp ca.crt {folder}/ca.crt" if place.is_tls else ""
    pulled = "" if place.is_tls else " --plain-http"
    return _page(
        place,
        "containerd (and nerdctl, k3s, kubelet through it)",
        f"""\
# Once on each machine, as root. config.toml of containerd must name the folder:
#
#   [plugins."io.containerd.grpc.v1.cri".registry]        # containerd 2: [plugins."io.containerd.cri.v1.images".registry]
#     config_path = "/etc/containerd/certs.d"
#
# No restart is needed for what is below it.
mkdir -p {folder}{copied}
cat > {folder}/hosts.toml <<'END'
server = "{_origin(place)}"

[host."{_origin(place)}"]
  capabilities = ["pull", "resolve", "push"]{trust}
END""",
        "# containerd keeps no logins: ctr takes them with each call, as --user NAME:PASSWORD, kubelet from an imagePullSecret (/setup/kubernetes).",
        f"ctr images pull{pulled} --hosts-dir /etc/containerd/certs.d {place.image}",
    )


def kubernetes(place: Place) -> str:
    return _page(
        place,
        "Kubernetes",
        f"# The nodes must reach and trust {place.host}: {_path(place, '/setup/containerd')} tells how, once on each node.",
        f"""\
# A login that may pull; a token rather than a password: nora token create cluster --role read
kubectl create secret docker-registry nora-pull --docker-server={place.host} --docker-username=NAME --docker-password=TOKEN""",
        f"""\
# The same secret as a manifest: its value is the base64 of {{"auths": {{"{place.host}": {{"auth": base64 of NAME:TOKEN}}}}}}
kubectl apply -f - <<'END'
apiVersion: v1
kind: Pod
metadata:
  name: app
spec:
  imagePullSecrets:
    - name: nora-pull
  containers:
    - name: app
      image: {place.image}
END

# For all pods of a namespace, instead of each:
kubectl patch serviceaccount default -p '{{"imagePullSecrets": [{{"name": "nora-pull"}}]}}'""",
    )


def helm(place: Place) -> str:
    trust = (
        "# With a CA of your own, each command takes --ca-file ca.crt."
        if place.is_tls
        else "# This registry is reached without TLS: hence --plain-http."
    )
    flag = "" if place.is_tls else " --plain-http"
    return _page(
        place,
        "Helm 3.8 and newer",
        trust,
        f"helm registry login{flag} {place.host}",
        f"helm push{flag} shop-1.0.0.tgz oci://{place.host}/charts\nhelm pull{flag} oci://{place.host}/charts/shop --version 1.0.0\n"
        f"helm install{flag} shop oci://{place.host}/charts/shop --version 1.0.0",
    )


CLIENTS: dict[str, Callable[[Place], str]] = {
    "docker": docker,
    "podman": podman,
    "containerd": containerd,
    "kubernetes": kubernetes,
    "helm": helm,
}
CA_HINT = "Only for a CA of your own, whose certificate is in ca.crt:"


def index(place: Place) -> str:
    rows = "".join(f"{place.url}/setup/{name}\n" for name in CLIENTS)
    return f"# How clients are set up for {place.url}\n{rows}"


def _ca_file(folder: str, note: str = "") -> str:
    return f"# {CA_HINT}{f' {note}' if note else ''} As root, on each machine.\nmkdir -p {folder}\ncp ca.crt {folder}/ca.crt"


def _page(place: Place, title: str, trust: str, login: str, use: str) -> str:
    parts = [f"# {title} with {place.url}"]
    if place.prefix:
        parts.append(
            f"# Container clients ask for {_origin(place)}/v2/, whatever the sub-path: the proxy must hand that path to this registry as well,\n"
            f"# beside {place.prefix}/."
        )
    return "\n\n".join([*parts, f"# 1. Trust\n{trust}", f"# 2. Log in\n{login}", f"# 3. Push and pull\n{use}"]) + "\n"


def _origin(place: Place) -> str:
    return f"{urlsplit(place.url).scheme}://{place.host}"


def _path(place: Place, path: str) -> str:
    return f"{place.url}{path}"
