"""Other users of the machine: what they put where everybody may write, before the start and while the server runs. Real users, so as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from noraflask.config import StagingConfig
from noraflask.config.other_users import open_own, planted, who_else_may_write
from noraflask.errors import UploadUnknown
from noraflask.services.auth.users import UserFileProblem, Users, set_user
from noraflask.services.metrics.counter_files import CounterFiles, sweep
from noraflask.services.private_folder import open_private
from noraflask.services.staging import Staging
from tests.server import ROOT, Server, wait_until

from .conftest import all_workers, assert_well, unable
from .oci import Client, digest_of, noise

STRANGER = 65534
REFUSED = r"belongs to|may have put|Not a directory|Too many levels|No such file"

pytestmark = [pytest.mark.usefixtures("root")]


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        unable("needs several users: run as root")


def instead_of(name: Path, work: Callable[[], object]) -> None:
    """The folder vanishes, as cleaners of /tmp do, and a stranger is faster than the server, which makes it anew when it looks after itself."""
    for _ in range(20):
        shutil.rmtree(name)
        with contextlib.suppress(AssertionError):
            as_stranger(work)
            return
    raise AssertionError("the server was always faster")


@pytest.fixture
def shared(folder: Path) -> Path:
    """Where everybody may write. Not sticky: the kernel's own protection of sticky folders must not be what a test rests on."""
    return shared_folder(folder / "shared")


def shared_folder(path: Path, mode: int = 0o777) -> Path:
    path.parent.chmod(0o755)
    path.mkdir()
    path.chmod(mode)
    return path


def as_stranger(work: Callable[[], object]) -> None:
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            os.umask(0)
            work()
            code = 0
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, "the stranger could not do it"


def in_time(work: Callable[[], object], seconds: float = 10.0) -> None:
    """In a child, since what hangs in open(2) cannot be stopped otherwise."""
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    deadline = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0
            return
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("it hangs")
        time.sleep(0.01)


def push_in_pieces(server: Server, seed: str) -> None:
    with Client(server.port) as client:
        data = noise(20_000, seed)
        location = client.begin("other/users")
        assert client.patch(location, data[:9000]).status == 202
        assert client.received(location) == 9000
        assert client.patch(location, data[9000:]).status == 202
        assert client.finish(location, digest_of(data)).status == 201
        assert client.blob("other/users", digest_of(data)).body == data


# ---- the folders of metrics


def plant_folders_of_metrics(shared: Path, elsewhere: Path) -> None:
    for name in ("pipe", "link", "dangling", "plain"):
        (shared / f"nora-metrics-{name}").mkdir()
    os.mkfifo(shared / "nora-metrics-pipe" / ".lock")
    (shared / "nora-metrics-link" / ".lock").symlink_to(elsewhere / "made")
    (shared / "nora-metrics-dangling" / ".lock").symlink_to("/proc/self/fd/0")
    (shared / "nora-metrics-plain" / "kept").write_text("a stranger's")
    (shared / "nora-metrics-to-folder").symlink_to(elsewhere)
    os.mkfifo(shared / "nora-metrics-fifo")


def test_what_only_looks_like_a_dead_servers_counts(folder, shared):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("root's")
    as_stranger(lambda: plant_folders_of_metrics(shared, elsewhere))
    before = sorted(shared.rglob("*"))
    in_time(lambda: sweep(shared))
    assert sorted(shared.rglob("*")) == before
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]
    with Server(folder / "server", {"PROMETHEUS_MULTIPROC_DIR": str(shared)}) as server, Client(server.port) as client:
        assert client.ask("GET", "/metrics").status == 200
        assert [path.name for path in elsewhere.iterdir()] == ["kept"]


def test_a_folder_of_our_own_that_a_stranger_may_write_to_is_left_alone(folder, shared):
    ours = shared / "nora-metrics-ours"
    ours.mkdir()
    ours.chmod(0o777)
    as_stranger(lambda: os.mkfifo(ours / ".lock"))
    in_time(lambda: sweep(shared))
    assert ours.is_dir()


def test_what_a_killed_server_of_ours_left_is_removed_still(folder, shared):
    with Server(folder / "server", {"PROMETHEUS_MULTIPROC_DIR": str(shared)}) as server:
        assert len(list(shared.iterdir())) == 1
        server.kill()
        left = list(shared.iterdir())
        server.start()
        wait_until(lambda: len(list(shared.iterdir())) == 1, 5, "one folder to be there")
        assert list(shared.iterdir()) != left


def test_a_folder_of_metrics_that_is_exchanged_while_the_server_runs(folder, shared):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()

    def exchange() -> None:
        (ours,) = shared.glob("nora-metrics-*")
        ours.rename(shared / "away")
        ours.mkdir()
        for name in ("cells-0", "cells-1", "cells-2", "cells-master", "series", "inventory.new", "inventory.lock"):
            (ours / name).symlink_to(elsewhere / name)

    with Server(folder / "server", {"PROMETHEUS_MULTIPROC_DIR": str(shared)}) as server:
        workers = all_workers(server)
        as_stranger(exchange)
        os.kill(workers[0], 9)
        wait_until(lambda: len(set(server.worker_pids()) - {workers[0]}) == 2, 10, "another worker to start")
        with Client(server.port) as client:
            assert "nora_worker_exits_total 1" in client.ask("GET", "/metrics").body.decode()
            for _ in range(20):
                assert client.ask("GET", "/health").status == 200
        assert list(elsewhere.iterdir()) == []


def test_the_folder_that_the_variable_names_is_made_for_the_server_alone(folder):
    own = folder / "counts"
    with Server(folder / "server", {"PROMETHEUS_MULTIPROC_DIR": str(own)}) as server, Client(server.port) as client:
        assert client.ask("GET", "/metrics").status == 200
        assert own.stat().st_mode & 0o777 == 0o700
        assert len(list(own.glob("nora-metrics-*"))) == 1


def test_counts_can_be_made_beside_those_of_others(shared):
    as_stranger(lambda: (shared / "nora-metrics-x").mkdir())
    files = CounterFiles(shared)
    assert files.folder.parent == shared
    assert files.folder.stat().st_mode & 0o777 == 0o700


# ---- the staging folder


def staging_folder(server: Server) -> Path:
    (found,) = server.staging.glob("noraflask-*")
    return found


def test_a_staging_folder_that_a_stranger_made_first(folder, shared):
    with Server(folder / "server", staging=shared) as server:
        name = staging_folder(server)
        server.kill()
        shutil.rmtree(name)
        as_stranger(name.mkdir)
        server.start()
        push_in_pieces(server, "made first")
        assert list(name.iterdir()) == []
        assert "belongs to somebody else" in server.log_text()
        as_stranger(name.rmdir)
        push_in_pieces(server, "gone again")  # from now on it is ours
        wait_until(lambda: name.is_dir() and name.stat().st_uid == 0, 5, "the folder to be made anew")
        assert_well(server, all_workers(server))


@pytest.mark.parametrize("kind", ["folder", "link to a folder of root", "link to where uploads go on"])
def test_a_staging_folder_that_vanished_and_came_back_is_looked_at_anew(folder, shared, kind):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    with Server(folder / "server", staging=shared) as server, Client(server.port) as client:
        name = staging_folder(server)
        location = client.begin("other/users")
        target = elsewhere if kind == "link to a folder of root" else server.storage / ".incoming"
        instead_of(name, name.mkdir if kind == "folder" else lambda: name.symlink_to(target))
        push_in_pieces(server, kind)
        assert client.patch(location, b"lost").status == 404
        under_way = client.begin("other/users")
        assert client.patch(under_way, b"secret").status == 202
        assert list(elsewhere.iterdir()) == []
        if kind == "folder":
            assert list(name.iterdir()) == [], "a stranger's folder holds what clients send"
        assert len(list((server.storage / ".incoming").glob("*.upload"))) == 1
        assert client.ask("GET", "/ready").status == 200
        assert_well(server, all_workers(server))


def test_a_staging_folder_that_is_exchanged_while_uploads_are_under_way(folder, shared):
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    with Server(folder / "server", staging=shared) as server, Client(server.port) as client:
        name = staging_folder(server)
        data = noise(50_000, "exchanged")
        location = client.begin("other/users")
        assert client.patch(location, data[:20_000]).status == 202

        def exchange() -> None:
            name.rename(shared / "away")
            name.symlink_to(elsewhere)

        as_stranger(exchange)
        assert client.received(location) == 20_000
        assert client.patch(location, data[20_000:]).status == 202
        assert client.finish(location, digest_of(data)).status == 201
        push_in_pieces(server, "after")
        assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_in_the_staging_folder_and_no_file_is_no_upload(folder, kind):
    """It was open to all once, and a stranger found out a session."""
    with Server(folder / "server") as server, Client(server.port) as client:
        location = client.begin("other/users")
        (path,) = staging_folder(server).glob("*.upload")
        path.unlink()
        victim = folder / "victim"
        victim.write_text("root's")
        if kind == "link":
            path.symlink_to(victim)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
        assert client.patch(location, b"x" * 100).status in (404, 503)
        assert victim.read_text() == "root's"
        assert_well(server, all_workers(server))


def test_a_private_folder_is_ours_and_closed(shared):
    for made in (lambda: (shared / "one").mkdir(), lambda: (shared / "one").symlink_to("/var")):
        as_stranger(made)
        with pytest.raises(OSError, match=REFUSED):
            open_private(shared / "one")
        as_stranger(lambda: (shared / "one").unlink() if (shared / "one").is_symlink() else (shared / "one").rmdir())
    (shared / "one").mkdir()
    (shared / "one").chmod(0o777)
    os.close(open_private(shared / "one"))
    assert (shared / "one").stat().st_mode & 0o777 == 0o700


# ---- files of the configuration's


def test_a_file_where_everybody_may_write_must_be_ours(folder, shared):
    victim = folder / "victim"
    victim.write_text("root's\n")
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND

    def plant() -> None:
        (shared / "link").symlink_to(victim)
        (shared / "dangling").symlink_to(folder / "made")
        os.mkfifo(shared / "pipe")
        (shared / "file").write_text("")

    as_stranger(plant)
    os.link(victim, shared / "second-name")
    for name in ("link", "dangling", "pipe", "file", "second-name"):
        with pytest.raises(OSError, match=REFUSED):
            open_own(shared / name, flags, 0o640)
    os.close(open_own(shared / "new", flags, 0o640))
    os.close(open_own(shared / "new", flags, 0o640))
    (folder / "ours").symlink_to(victim)
    os.close(open_own(folder / "ours", flags, 0o640))  # our own folder, our own link
    assert not (folder / "made").exists()


def test_an_audit_log_that_a_stranger_leads_elsewhere(folder, shared):
    as_stranger(lambda: (shared / "audit.jsonl").symlink_to(folder / "made"))
    with Server(folder / "server", {"NORA_AUDIT_PATH": str(shared / "audit.jsonl")}) as server:
        push_in_pieces(server, "audit")
        assert not (folder / "made").exists()
        assert "the audit log" in server.log_text()


@pytest.mark.parametrize("variable", ["NORA_STATE_PATH", "NORA_STORAGE_PATH", "NORA_AUDIT_PATH", "NORA_CURATION_LEDGER_PATH"])
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_folder_of_the_servers_that_a_stranger_made_first(folder, shared, variable, kind):
    (folder / "elsewhere").mkdir()
    as_stranger((shared / "data").mkdir if kind == "folder" else lambda: (shared / "data").symlink_to(folder / "elsewhere"))
    server = Server(folder / "server", {variable: str(shared / "data" / "below")})
    process = server.launch()
    try:
        assert process.wait(30) == 78
    finally:
        server.kill()
    assert f"{shared / 'data'} belongs to nobody, and lies where everybody may write" in server.log_text()
    assert list((folder / "elsewhere").iterdir()) == []


def test_users_are_not_added_through_a_strangers_link(folder, shared):
    victim = folder / "victim"
    victim.write_text("root's\n")
    as_stranger(lambda: (shared / "users.htpasswd").symlink_to(victim))
    with pytest.raises(UserFileProblem, match="belongs to"):
        set_user(shared / "users.htpasswd", "mallory", b"$2b$04$" + b"a" * 53)
    assert victim.read_text() == "root's\n"
    (folder / "own.htpasswd").symlink_to(folder / "real.htpasswd")
    set_user(folder / "own.htpasswd", "alice", b"$2b$04$" + b"a" * 53)
    assert "alice" in (folder / "real.htpasswd").read_text()


def test_a_pipe_in_the_place_of_the_users_hangs_nothing(shared):
    as_stranger(lambda: os.mkfifo(shared / "users.htpasswd"))
    in_time(lambda: Users(shared / "users.htpasswd").current())


def test_which_paths_are_planted(folder, shared):
    as_stranger(lambda: ((shared / "theirs").mkdir(), (shared / "link").symlink_to("/etc")))
    (shared / "ours").mkdir()
    (folder / "in").symlink_to(shared / "theirs")
    sticky = shared_folder(folder / "sticky", 0o1777)
    as_stranger((sticky / "theirs").mkdir)
    for path in (
        shared / "theirs",
        shared / "theirs" / "a" / "b",
        shared / "link",
        shared / "link" / "hosts",
        folder / "in" / "x",
        sticky / "theirs",
    ):
        assert planted(path), path
    for path in (shared, shared / "ours", shared / "ours" / "x", shared / "not" / "there", Path("/etc/hosts"), Path("x"), sticky / "x"):
        assert planted(path) is None, path


# ---- the configuration file


def nora(cwd: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NORA_")}
    command = [sys.executable, "-m", "noraflask", *arguments]
    return subprocess.run(command, cwd=cwd, env={**clean, "PYTHONPATH": str(ROOT), **(env or {})}, capture_output=True, text=True, check=False)


def make_of(folder: Path, kind: str) -> Path:
    """A folder with a config.toml; root's own unless the kind says otherwise."""
    if kind in ("below another user's", "below one for all"):
        above = folder / "above"
        above.mkdir()
        place = above / "place"
        place.mkdir()
        os.chown(above, STRANGER if kind == "below another user's" else 0, 0)
        above.chmod(0o777 if kind == "below one for all" else 0o755)
    else:
        place = folder / "place"
        place.mkdir()
    file = place / "config.toml"
    if kind == "a link in another user's":
        real = folder / "real"
        real.mkdir()
        (real / "config.toml").write_text("[server]\nport = 4321\n")
        os.chown(real, STRANGER, 0)
        file.symlink_to(real / "config.toml")
        return place
    file.write_text("[server]\nport = 4321\n")
    if kind == "for all":
        place.chmod(0o777)
    elif kind == "for all, sticky":
        place.chmod(0o1777)
    elif kind == "another user's":
        os.chown(place, STRANGER, 0)
    elif kind == "of a group":
        os.chown(place, 0, STRANGER)
        place.chmod(0o775)
    elif kind == "another user's file":
        os.chown(file, STRANGER, 0)
    elif kind == "a file for all":
        file.chmod(0o666)
    return place


OPEN = ["for all", "for all, sticky", "another user's", "of a group", "another user's file", "a file for all"]
OPEN += ["below another user's", "below one for all", "a link in another user's"]


@pytest.mark.parametrize("kind", [*OPEN, "root's own"])
@pytest.mark.parametrize("named", [False, True])
def test_root_is_told_of_a_configuration_that_others_could_have_written(folder, kind, named):
    folder.chmod(0o755)
    place = make_of(folder, kind)
    done = nora(folder if named else place, "check-config", env={"NORA_CONFIG_PATH": str(place / "config.toml")} if named else None)
    assert "server.port = 4321" in done.stdout
    assert ("others could change it" in done.stderr) == (kind in OPEN), done.stderr
    assert bool(who_else_may_write(place / "config.toml")) == (kind in OPEN)


def test_a_device_is_nobodys_configuration():
    assert "others" not in nora(Path("/"), "check-config", env={"NORA_CONFIG_PATH": "/dev/null"}).stderr


@pytest.mark.parametrize("text", ['[logging]\nlevel = "error"\nformat = "json"\n', "not toml", "[server]\nprot = 1\n"])
def test_nothing_in_the_file_keeps_that_quiet(folder, text):
    folder.chmod(0o755)
    place = make_of(folder, "for all")
    (place / "config.toml").write_text(text)
    for command in (["check-config"], ["user", "list"], ["healthcheck", "--timeout-secs", "0.1"], ["doctor", "--local"]):
        done = nora(place, *command)
        assert done.stderr.startswith("warning: config.toml is read, although others could change it"), (command, done.stderr)


def test_a_server_of_root_starts_in_another_users_folder_and_says_what_it_reads(folder):
    """As ./scripts/serve does in a checkout, which there may be for each developer."""
    folder.chmod(0o755)
    with Server(folder / "server", config_text='[logging]\nlevel = "error"\n') as server:
        server.stop()
        os.chown(server.folder, STRANGER, STRANGER)
        server.start()
        assert "others could change it or put another in its place" in server.log_text()
        assert str(server.folder) in server.log_text()
        assert_well(server, all_workers(server))


def test_a_session_found_out_is_no_path_out_of_the_folder(folder):
    (folder / "incoming").mkdir()
    staging = Staging(StagingConfig(folder / "tmpfs"), str(folder / "incoming"), 10)
    session = staging.begin("docker/app")
    (path,) = (folder / "tmpfs").rglob("*.upload")
    path.unlink()
    path.symlink_to(folder / "elsewhere")
    with pytest.raises(UploadUnknown), staging.resume("docker/app", session):
        pass
    assert not (folder / "elsewhere").exists()
