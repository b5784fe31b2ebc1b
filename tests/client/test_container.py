"""The container that the Dockerfile makes, run as docs/deployment-container.md says: no root, nothing writable but /data and /tmp, little memory."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.client.conftest import Engine, image_of
from tests.client.registry import Registry
from tests.client.test_docker import image_id, imported
from tests.client.test_large_layers import MIB, pulled_digest, push
from tests.client.tools import Client, as_root
from tests.server import FAULT_LINE, ROOT, free_port, wait_until

pytestmark = pytest.mark.slow

USER = 10001


def of_the_guide() -> list[str]:
    """The options that docs/deployment-container.md gives to `docker run`, but for name, port and volume, which are each test's own."""
    page = (ROOT / "docs" / "deployment-container.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^docker run --detach (.*?)^```", page, re.MULTILINE | re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    assert words.pop() == "noraflask"
    own = [words.index(name) for name in ("--name", "--publish", "--volume", "--restart")]
    return [word for at, word in enumerate(words) if at not in own and at - 1 not in own]


HARDENED = of_the_guide()


@dataclass
class Container:
    docker: Client
    id: str
    port: int
    data: Path

    def inspect(self, template: str) -> Any:
        return json.loads(self.docker("inspect", "--format", "{{json " + template + "}}", self.id))

    def logs(self) -> str:
        done = self.docker.run("logs", self.id)
        return (done.stdout + done.stderr).decode()

    def running(self) -> bool:
        running: bool = self.inspect(".State.Running")
        return running

    def health(self) -> str:
        health: str = self.inspect(".State.Health.Status")
        return health

    @property
    def pid(self) -> int:
        pid: int = self.inspect(".State.Pid")
        return pid

    def wait_healthy(self) -> None:
        wait_until(lambda: self.health() == "healthy" or not self.running(), 60, "the container to be healthy")
        assert self.running(), self.logs()


Run = Callable[..., Container]


@pytest.fixture
def run(engine: Engine, disk: Path) -> Iterator[Run]:
    """run(*options) starts one, with /data on the disk, and waits for its health."""
    started: list[Container] = []
    docker, image = engine.docker, image_of(engine)

    def start(*options: str, config: str = "") -> Container:
        data = disk / f"data{len(started)}"
        data.mkdir()
        (data / "config.toml").write_text(config)
        subprocess.run(as_root("chown", "-R", f"{USER}:{USER}", data), check=True)
        port = free_port()
        by_variable = () if "port" in config else ("--env", f"NORA_PORT={port}")
        name = docker(
            *("run", "--detach", "--network", "host", "--volume", f"{data}:/data", "--health-interval", "1s"),
            *("--env", "NORA_HOST=127.0.0.1", *by_variable, *options, image),
        )
        container = Container(docker, name.strip(), port, data)
        started.append(container)
        container.wait_healthy()
        return container

    yield start
    for container in started:
        docker("rm", "--force", "--volumes", container.id)
        subprocess.run(as_root("rm", "-rf", "--one-file-system", container.data), check=True)


# ---------------------------------------------------------------------------------------------------------- the image


def test_the_guide_leaves_nothing_out() -> None:
    bounds = {"--read-only", "--memory", "--cpus", "--pids-limit", "--cap-drop", "no-new-privileges"}
    assert bounds <= set(HARDENED)
    assert any(word.startswith("/tmp:size=256M") for word in HARDENED)


def test_what_the_image_says_of_itself(engine: Engine) -> None:
    config = json.loads(engine.docker("image", "inspect", image_of(engine)))[0]["Config"]
    assert config["User"] == f"{USER}:{USER}"
    assert set(config["Volumes"]) == {"/data"}
    assert set(config["ExposedPorts"]) == {"4000/tcp"}
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][:3] == ["CMD", "nora", "healthcheck"]
    assert config["Labels"]["org.opencontainers.image.title"] == "noraflask"
    assert "NORA_HOST=0.0.0.0" in config["Env"]


def test_the_image_is_small_and_holds_no_tools(engine: Engine) -> None:
    """The base apart, whose size is the base's."""
    docker, image = engine.docker, image_of(engine)
    sizes = [int(line) for line in docker("history", "--human=false", "--format", "{{.Size}}", image).split()]
    own = sum(sizes) - sum(int(line) for line in docker("history", "--human=false", "--format", "{{.Size}}", f"{image}-base").split())
    print(f"image: {own / MIB:.0f} MB above its base")
    assert 0 < own < 100 * MIB
    names = docker(
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "/bin/sh",
        image,
        "-c",
        "ls -A / /opt/nora/bin /data /src 2>/dev/null; wget --help 2>&1; true",
    )
    assert "/src:" not in names
    assert "BusyBox" in names
    assert not re.search(r"^pip", names, re.MULTILINE)
    bytecode = docker(
        "run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", image, "-c", "find /opt/nora -name 'app.*.pyc' -path '*noraflask*'"
    )
    assert bytecode.strip(), "compiled in the build, for nothing can be written later"


def test_a_mistake_in_the_configuration_ends_it_with_78(engine: Engine) -> None:
    done = engine.docker.run("run", "--rm", "--network", "none", *HARDENED, "--env", "NORA_PROT=80", image_of(engine))
    assert done.returncode == 78
    assert b"NORA_PROT: unknown variable, did you mean NORA_PORT?" in done.stderr


# ---------------------------------------------------------------------------------------------------------- at work


def test_a_2_gb_layer_through_the_hardened_container(run: Run) -> None:
    container = run(*HARDENED)
    with Watch(container) as watch:
        digest = push(container.port, "large/layer", 2048, chunked=True)
        assert pulled_digest(container.port, "large/layer", digest) == (digest, 2048 * MIB)
    print(f"memory: {watch.kept / MIB:.0f} MB of processes and tmpfs at most, {watch.peak / MIB:.0f} MB with the page cache, of 512 MB allowed")
    assert watch.peak <= 513 * MIB  # the page cache fills it up, and the kernel's own charges may go a page beyond
    assert watch.kept < 400 * MIB
    assert watch.killed == 0
    assert container.health() == "healthy"
    assert not container.inspect(".State.OOMKilled")
    outside = written_outside(container)
    assert not outside, outside
    assert end(container) == 0


def test_a_day_of_the_hardened_container(run: Run, docker: Client) -> None:
    """Health by both of its means, an image in and out, a reload, an orphan, a stop."""
    container = run(*HARDENED, config="[curation]\nmode = 'off'\n")
    docker("exec", container.id, "nora", "healthcheck")
    reference = f"127.0.0.1:{container.port}/team/app:1"
    before = imported(docker, reference, day=b"one")
    docker("push", reference)
    docker("rmi", reference)
    docker("pull", reference)
    assert image_id(docker, reference) == before
    docker("rmi", reference)

    docker("exec", container.id, "sh", "-c", "(sleep 0.1 &)")
    wait_until(lambda: "sleep" not in docker("top", container.id, "-o", "pid,stat,comm"), 10, "an orphan to be collected by process 1")

    docker("kill", "--signal=HUP", container.id)
    wait_until(lambda: container.logs().count("reloaded") == 2, 20, "both workers to reload")
    (container.data / "config.toml").write_text("[curation]\nmode = 'offf'\n")
    docker("kill", "--signal=HUP", container.id)
    wait_until(lambda: "keeping previous config" in container.logs(), 20, "the bad file to be refused")
    assert Registry(f"127.0.0.1:{container.port}").tags("team/app") == ["1"]
    assert end(container) == 0


def test_the_health_check_follows_the_configuration(run: Run, docker: Client) -> None:
    """The port of a file, and an address of IPv6; run() waits for the container to be healthy."""
    port = free_port()
    container = run("--env", "NORA_HOST=::1", "--env", "NORA_CONFIG_PATH=/data/config.toml", config=f"[server]\nport = {port}\n")
    assert f"[::1]:{port}" in docker("exec", container.id, "cat", "/proc/1/cmdline")
    container.docker("exec", container.id, "nora", "healthcheck")
    assert end(container) == 0


def test_nothing_is_written_outside_of_data_and_tmp(run: Run, docker: Client) -> None:
    """Where the root file system could be written to, nothing does."""
    container = run("--tmpfs", "/tmp:size=256M")
    reference = f"127.0.0.1:{container.port}/team/app:1"
    imported(docker, reference, diff=b"none")
    docker("push", reference)
    docker("rmi", reference)
    docker("exec", container.id, "nora", "user", "--help")
    docker("exec", container.id, "nora", "check-config")
    docker("kill", "--signal=HUP", container.id)
    wait_until(lambda: container.logs().count("reloaded") == 2, 20, "both workers to reload")
    assert docker("diff", container.id) == ""
    assert end(container) == 0


def test_the_compose_file_as_it_is(engine: Engine, disk: Path) -> None:
    """But for the network: the engine of the tests has none of its own, so the service gets the machine's, and Caddy stays away."""
    docker = engine.docker
    compose = Client("docker-compose", disk / "compose", env=docker.env | {"PATH": os.environ["PATH"]})
    port = str(free_port())
    project = yaml.safe_load(compose("--file", ROOT / "etc" / "docker-compose.yml", "config").replace("4000", port))
    nora = project["services"].pop("nora")
    del nora["networks"], nora["build"], nora["expose"]
    nora["healthcheck"]["interval"] = "1s"
    nora["environment"] |= {"NORA_HOST": "127.0.0.1", "NORA_PORT": port}
    file = disk / "compose.yml"
    file.write_text(json.dumps({"services": {"nora": nora | {"image": image_of(engine), "network_mode": "host"}}, "volumes": {"nora-data": {}}}))
    arguments = ("--project-name", "noraflask-test", "--file", file)
    compose(*arguments, "up", "--detach")
    try:
        container = Container(docker, compose(*arguments, "ps", "--quiet", "nora").strip(), int(port), disk)
        container.wait_healthy()
        digest = push(int(port), "composed/layer", 8, chunked=True)
        assert pulled_digest(int(port), "composed/layer", digest) == (digest, 8 * MIB)
        host = container.inspect(".HostConfig")
        assert host["ReadonlyRootfs"] is True
        assert (host["Memory"], host["MemoryReservation"], host["NanoCpus"], host["PidsLimit"]) == (512 * MIB, 128 * MIB, 2 * 10**9, 512)
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Tmpfs"]["/tmp"].startswith("size=256M,mode=0700,uid=10001")
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}
        assert container.inspect(".Config.StopTimeout") == 330
        assert end(container) == 0
    finally:
        compose(*arguments, "down", "--volumes")


def end(container: Container) -> int:
    """As `docker stop` asks for it; returns the exit code, and there was no fault."""
    container.docker("stop", "--time", "60", container.id)
    faults = [line for line in container.logs().splitlines() if FAULT_LINE.search(line)]
    assert not faults, faults
    code: int = container.inspect(".State.ExitCode")
    return code


def written_outside(container: Container) -> list[str]:
    """Files that any process of it holds open for writing, in other places than those two; what has no name is in memory."""
    found = []
    listed = container.docker("top", container.id, "-o", "pid").split()[1:]
    script = "for pid; do for fd in /proc/$pid/fd/*; do echo $(readlink $fd) $(grep ^flags /proc/$pid/fdinfo/${fd##*/}); done; done"
    for line in subprocess.run(as_root("sh", "-c", script, "sh", *listed), capture_output=True, text=True, check=True).stdout.splitlines():
        path, _, flags = line.rpartition(" flags: ")
        for_writing = int(flags or "0", 8) & (os.O_WRONLY | os.O_RDWR)
        if (
            for_writing
            and path.startswith("/")
            and not path.endswith("(deleted)")
            and not path.startswith(("/data/", "/tmp/", "/dev/null", "/memfd:"))
        ):
            found.append(path)
    return found


class Watch:
    """Looks at the memory of a container's control group while the block runs. Bytes."""

    def __init__(self, container: Container) -> None:
        groups = [line.split(":", 2)[1:] for line in Path(f"/proc/{container.pid}/cgroup").read_text().splitlines()]
        path = next((path for controllers, path in groups if "memory" in controllers.split(",")), None)
        self._first = path is not None  # else version 2, whose only line names no controller
        self._folder = Path(f"/sys/fs/cgroup/memory{path}" if self._first else f"/sys/fs/cgroup{groups[0][1]}")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.kept = 0
        """What cannot be given back: processes' own and shared memory, the tmpfs among it."""
        self.peak = 0
        """With the page cache."""
        self.killed = 0

    def _watch(self) -> None:
        while not self._stopped.wait(0.1):
            figures = self._figures("memory.stat")
            self.kept = max(self.kept, figures["rss"] + figures["shmem"] if self._first else figures["anon"] + figures["shmem"])

    def _figures(self, name: str) -> dict[str, int]:
        return {key: int(value) for key, value in (line.split() for line in (self._folder / name).read_text().splitlines())}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.peak = int((self._folder / ("memory.max_usage_in_bytes" if self._first else "memory.peak")).read_text())
        self.killed = self._figures("memory.oom_control" if self._first else "memory.events")["oom_kill"]
