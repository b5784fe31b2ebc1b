"""How the clients of images are set up: Docker, Podman and their relatives, containerd, Kubernetes, Helm."""

from __future__ import annotations

from collections.abc import Iterable

from noraflask.web.setup_pages import CA_HINT, Page, Place, copy_ca, steps


def names_of(place: Place) -> str:
    """What the names of all images of this repository begin with."""
    return f"{place.host}/{place.repository}" if place.repository else place.host


def image_of(place: Place) -> str:
    return f"{names_of(place)}/team/app:1"


def docker(place: Place) -> Iterable[str]:
    image = image_of(place)
    return _parts(place, _docker_trust(place), f"docker login {place.host}", f"docker tag IMAGE {image}\ndocker push {image}\ndocker pull {image}")


def _docker_trust(place: Place) -> str:
    if place.is_tls:
        return copy_ca(f"/etc/docker/certs.d/{place.host}", "No restart is needed.")
    if place.is_loopback():
        return "# The engine speaks plain HTTP to this machine's own addresses by itself."
    return f"""\
# This registry is reached without TLS. Passwords and images can be read and changed on the way: put a proxy with TLS in front.
# Until then: add the host to /etc/docker/daemon.json on each machine, then `systemctl restart docker`.
#
#   {{ "insecure-registries": ["{place.host}"] }}"""


def podman(place: Place) -> Iterable[str]:
    image, flag = image_of(place), "" if place.is_tls else " --tls-verify=false"
    return _parts(
        place,
        copy_ca(f"/etc/containers/certs.d/{place.host}") if place.is_tls else _podman_insecure(place),
        f"podman login{flag} {place.host}",
        f"podman tag IMAGE {image}\npodman push{flag} {image}\npodman pull{flag} {image}",
    )


def _podman_insecure(place: Place) -> str:
    return f"""\
# This registry is reached without TLS. Each command says --tls-verify=false, or /etc/containers/registries.conf.d/nora.conf says it once:
#
#   [[registry]]
#   location = "{place.host}"
#   insecure = true"""


def containerd(place: Place) -> Iterable[str]:
    folder = f"/etc/containerd/certs.d/{place.host}"
    trust = f'\n  ca = "{folder}/ca.crt"' if place.is_tls else ""
    copied = f"\n# {CA_HINT}\ncp ca.crt {folder}/ca.crt" if place.is_tls else ""
    flag = "" if place.is_tls else " --plain-http"
    return _parts(
        place,
        f"""\
# Once on each machine, as root. config.toml of containerd must name the folder:
#
#   [plugins."io.containerd.grpc.v1.cri".registry]        # containerd 2: [plugins."io.containerd.cri.v1.images".registry]
#     config_path = "/etc/containerd/certs.d"
#
# No restart is needed for what is below it.
mkdir -p {folder}{copied}
cat > {folder}/hosts.toml <<'END'
server = "{place.origin}"

[host."{place.origin}"]
  capabilities = ["pull", "resolve", "push"]{trust}
END""",
        "# containerd keeps no logins: ctr takes them with each call, as --user NAME:PASSWORD, kubelet from an imagePullSecret (/setup/kubernetes).",
        f"ctr images pull{flag} --hosts-dir /etc/containerd/certs.d {image_of(place)}",
    )


def kubernetes(place: Place) -> Iterable[str]:
    return _parts(
        place,
        f"# The nodes must reach and trust {place.host}: {place.url}/setup/containerd tells how, once on each node.",
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
      image: {image_of(place)}
END

# For all pods of a namespace, instead of each:
kubectl patch serviceaccount default -p '{{"imagePullSecrets": [{{"name": "nora-pull"}}]}}'""",
    )


def helm(place: Place) -> Iterable[str]:
    charts, flag = f"oci://{names_of(place)}/charts", "" if place.is_tls else " --plain-http"
    trust = (
        "# With a CA of your own, each command takes --ca-file ca.crt."
        if place.is_tls
        else "# This registry is reached without TLS: hence --plain-http."
    )
    return _parts(
        place,
        trust,
        f"helm registry login{flag} {place.host}",
        f"helm push{flag} shop-1.0.0.tgz {charts}\nhelm pull{flag} {charts}/shop --version 1.0.0\n"
        f"helm install{flag} shop {charts}/shop --version 1.0.0",
    )


def _parts(place: Place, trust: str, log_in: str, push_and_pull: str) -> Iterable[str]:
    if place.prefix:
        yield (
            f"# Container clients ask for {place.origin}/v2/, whatever the sub-path: the proxy must hand that path to this registry as well,\n"
            f"# beside {place.prefix}/."
        )
    yield from steps(trust=trust, log_in=log_in, push_and_pull=push_and_pull)


PAGES = (
    Page("docker", "Docker engine", docker),
    Page("podman", "podman, buildah, skopeo", podman),
    Page("containerd", "containerd (and nerdctl, k3s, kubelet through it)", containerd),
    Page("kubernetes", "Kubernetes", kubernetes),
    Page("helm", "Helm 3.8 and newer", helm),
)
