"""etc/systemd/nora.service under the real systemd: judged by systemd-analyze, and run by a systemd that is process 1 of a container."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.conftest import Engine, image_of
from tests.client.tools import Client, missing, tool
from tests.server import ROOT, wait_until

UNIT = ROOT / "etc" / "systemd" / "nora.service"
EXPOSURE_AT_MOST = 2.0
PORT = 4000
CONFIG = "[curation]\nmode = '{}'\n"


# ---------------------------------------------------------------------------------------------------------- systemd-analyze


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run([tool("systemd-analyze"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_unit_has_no_mistake(tmp_path: Path) -> None:
    """Its program is not installed here, so another stands in its place."""
    copy = tmp_path / "nora.service"
    copy.write_text(UNIT.read_text().replace("/opt/nora/bin/nora", "/bin/true"))
    assert analyze("verify", "--man=no", copy) == ""


def test_the_unit_is_hardly_exposed() -> None:
    text = analyze("security", "--offline=true", "--no-pager", UNIT)
    exposure = re.search(r"Overall exposure level for nora.service: ([\d.]+)", text)
    assert exposure, text
    print(f"exposure: {exposure[1]}")
    assert float(exposure[1]) <= EXPOSURE_AT_MOST


# ---------------------------------------------------------------------------------------------------------- systemd as process 1

DOCKERFILE = """
FROM {image}
USER root
HEALTHCHECK NONE
ENV container=docker
STOPSIGNAL SIGRTMIN+3
RUN apt-get update && apt-get install --yes --no-install-recommends systemd procps logrotate && rm -rf /var/lib/apt/lists/*
RUN userdel nora
COPY etc /src/etc
WORKDIR /src
ENTRYPOINT ["/lib/systemd/systemd"]
CMD []
"""


AS_A_MACHINE = (
    *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"),  # which the machine itself may lack; it is not needed
    *("--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"),
    *("--volume", "/sys/fs/cgroup:/sys/fs/cgroup", "--cgroupns", "host"),
    *("--network", "none", "--tmpfs", "/run", "--tmpfs", "/tmp"),
)


class Machine:
    def __init__(self, docker: Client, id_: str) -> None:
        self.docker, self.id = docker, id_

    def __call__(self, *command: str) -> str:
        return self.docker("exec", self.id, *command).strip()

    def succeeds(self, *command: str) -> bool:
        return self.docker.run("exec", self.id, *command).returncode == 0

    def write(self, path: str, text: str) -> None:
        self.docker("exec", "--interactive", self.id, "sh", "-c", f"cat > {path}", stdin=text.encode())

    def show(self, name: str) -> str:
        return self("systemctl", "show", "--property", name, "--value", "nora")

    def is_healthy(self) -> bool:
        return self.succeeds("wget", "-q", "--spider", f"http://127.0.0.1:{PORT}/health")

    def journal(self) -> str:
        return self("journalctl", "--unit", "nora", "--no-pager", "--output", "cat")


@pytest.fixture(scope="module")
def machine(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    docker, context = engine.docker, tmp_path_factory.mktemp("machine")
    shutil.copytree(ROOT / "etc", context / "etc")
    (context / "Dockerfile").write_text(DOCKERFILE.format(image=image_of(engine)))
    docker("build", "--network", "host", "--tag", "noraflask-systemd", context)
    id_ = docker("run", "--detach", *AS_A_MACHINE, "noraflask-systemd").strip()
    machine = Machine(docker, id_)
    try:
        try:
            wait_until(lambda: machine.succeeds("systemctl", "list-units", "--no-pager"), 30, "systemd to answer")
        except AssertionError:
            missing("systemd does not run here as process 1 of a container: " + docker.run("logs", id_).stdout.decode()[-1000:])
        machine("sh", "-euxc", how_to_install())
        assert machine.is_healthy(), "the guide's last command starts it"
        yield machine
    finally:
        docker("rm", "--force", "--volumes", id_)


def command_of_the_guide(beginning: str) -> str:
    page = (ROOT / "docs" / "deployment-container.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^```sh\n({re.escape(beginning)}.*?)^```", page, re.MULTILINE | re.DOTALL)
    return block


def how_to_install() -> str:
    """The guide's commands, but for those that install the program itself, which the image has in the same place."""
    return "".join(command_of_the_guide("python3 -m venv /opt/nora\n").splitlines(keepends=True)[2:])


@pytest.fixture
def nora(machine: Machine) -> Iterator[Machine]:
    """The machine, with the service as it was installed and not running."""
    machine("systemctl", "stop", "nora")
    yield machine
    machine("sh", "-c", "rm -rf /etc/systemd/system/nora.service.d /etc/nora/*; systemctl daemon-reload; systemctl reset-failed nora || true")


@pytest.mark.slow
def test_start_reload_stop(nora: Machine) -> None:
    nora.write("/etc/nora/config.toml", CONFIG.format("off"))
    nora.write("/etc/nora/nora.env", "NORA_CONFIG_PATH=/etc/nora/config.toml\n")
    nora("systemctl", "start", "nora")
    assert nora.is_healthy(), "started is what serves"
    assert nora.show("StatusText") == f"serving on http://127.0.0.1:{PORT} with 2 workers"
    master = nora.show("MainPID")
    assert nora("stat", "--format", "%U", f"/proc/{master}", "/var/lib/nora/storage", "/var/lib/nora/state", "/run/nora").split() == 4 * ["nora"]
    assert nora("stat", "--file-system", "--format", "%T", "/run/nora") == "tmpfs"
    status = nora("cat", f"/proc/{master}/status")
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)

    nora("systemctl", "reload", "nora")
    wait_until(lambda: nora.journal().count("reloaded") == 2, 20, "both workers to reload")
    wait_until(lambda: nora.show("StatusText").endswith("; reloaded"), 10, "the status to tell of it")
    nora.write("/etc/nora/config.toml", CONFIG.format("offf"))
    nora("systemctl", "reload", "nora")
    wait_until(lambda: "the last reload was refused: /etc/nora/config.toml:2" in nora.show("StatusText"), 10, "the status to tell of the refusal")
    assert nora.show("ActiveState") == "active"
    assert nora.show("MainPID") == master
    assert nora.is_healthy()

    nora("systemctl", "stop", "nora")
    assert (nora.show("ActiveState"), nora.show("Result"), nora.show("ExecMainStatus")) == ("inactive", "success", "0")


@pytest.mark.slow
def test_logins_work_below_its_filters(nora: Machine) -> None:
    """bcrypt, Argon2 and the signing of tokens come with machine code of their own."""
    nora.write("/etc/nora/nora.env", "NORA_AUTH_ENABLED=true\n")
    nora("systemctl", "start", "nora")
    add = command_of_the_guide("cd /var/lib/nora\n").replace("alice", "alice --password-stdin")
    nora.docker("exec", "--interactive", nora.id, "sh", "-euc", add, stdin=b"correct horse\n")
    asked = ("wget", "-q", "-O", "-", "--header", "Authorization: Basic YWxpY2U6Y29ycmVjdCBob3JzZQ==")
    wait_until(lambda: nora.succeeds(*asked, f"http://127.0.0.1:{PORT}/api/v1/whoami"), 10, "the new user to be let in")
    assert '"token"' in nora(*asked, f"http://127.0.0.1:{PORT}/v2/token?service=nora&scope=repository:a/b:pull")


@pytest.mark.slow
def test_a_mistake_in_the_configuration_is_not_tried_again(nora: Machine) -> None:
    nora.write("/etc/nora/nora.env", "NORA_PROT=80\n")
    assert not nora.succeeds("systemctl", "start", "nora")
    assert (nora.show("ActiveState"), nora.show("ExecMainStatus"), nora.show("NRestarts")) == ("failed", "78", "0")
    assert "NORA_PROT: unknown variable, did you mean NORA_PORT?" in nora.journal()


@pytest.mark.slow
def test_a_master_that_stands_still_is_replaced(nora: Machine) -> None:
    nora("mkdir", "-p", "/etc/systemd/system/nora.service.d")
    nora.write("/etc/systemd/system/nora.service.d/override.conf", "[Service]\nWatchdogSec=4s\n")
    nora("systemctl", "daemon-reload")
    nora("systemctl", "start", "nora")
    master = nora.show("MainPID")
    nora("kill", "-STOP", master)
    wait_until(lambda: nora.show("NRestarts") == "1" and nora.show("ActiveState") == "active", 60, "systemd to notice")
    assert nora.show("MainPID") != master
    assert nora.is_healthy()


@pytest.mark.slow
def test_a_master_may_put_another_in_its_place(nora: Machine) -> None:
    """SIGUSR2 and then SIGTERM to the old one, as gunicorn's manual tells: a new version without a moment's pause."""
    nora("systemctl", "start", "nora")
    old = nora.show("MainPID")
    nora("kill", "-USR2", old)
    wait_until(lambda: len(nora("pgrep", "-f", "^nora: worker").split()) == 4, 20, "the new workers")
    nora("kill", "-TERM", old)
    wait_until(lambda: not nora.succeeds("test", "-d", f"/proc/{old}"), 20, "the old master to end")
    new = nora.show("MainPID")
    assert new not in ("0", old)
    assert nora.show("ActiveState") == "active"
    wait_until(lambda: nora("pgrep", "-f", "^nora: master") == new, 10, "the new master to have its name")
    nora("systemctl", "reload", "nora")
    wait_until(lambda: nora.show("StatusText").endswith("; reloaded"), 10, "the new master to speak for the service")
    assert nora.is_healthy()


@pytest.mark.slow
def test_the_audit_log_is_turned_over(nora: Machine) -> None:
    nora("systemctl", "start", "nora")
    log = "/var/lib/nora/state/audit.jsonl"
    nora("systemctl", "reload", "nora")
    wait_until(lambda: nora.succeeds("test", "-s", log), 10, "the reload to be in the audit log")
    nora("logrotate", "--force", "/etc/logrotate.d/nora")
    assert not nora.succeeds("test", "-e", log)

    def writes_a_new_one() -> bool:
        nora("systemctl", "reload", "nora")
        return nora.succeeds("test", "-s", log)

    wait_until(writes_a_new_one, 20, "a record in a new file")
    assert len(nora("sh", "-c", f"ls {log}*").split()) == 2
