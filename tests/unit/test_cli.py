"""The command `nora`: what each sub-command prints, where, and its exit code. No server of ours runs here."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from noraflask import __version__
from noraflask.cli import BAD_CONFIGURATION, main
from noraflask.config import Config, load


@pytest.fixture(autouse=True)
def _clean(tmp_path, monkeypatch):
    """No test may meet a variable or a config.toml of the machine."""
    import os

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("NORA_") or name == "RUST_LOG"]:
        monkeypatch.delenv(name)


@pytest.fixture
def served(monkeypatch) -> list[Config]:
    """The configurations that were handed to serve.run()."""
    calls: list[Config] = []
    fake = types.ModuleType("noraflask.serve")
    fake.run = calls.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "noraflask.serve", fake)
    return calls


@pytest.mark.parametrize("argv", [[], ["serve"]])
def test_serve_is_the_default_and_gets_the_configuration(argv, served, monkeypatch):
    monkeypatch.setenv("NORA_PORT", "5000")
    assert main(argv) == 0
    assert [config.server.port for config in served] == [5000]


@pytest.mark.parametrize("argv", [[], ["serve"], ["check-config"]])
def test_bad_configuration_tells_every_problem_and_starts_nothing(argv, served, monkeypatch, capsys):
    monkeypatch.setenv("NORA_PORT", "abc")
    monkeypatch.setenv("NORA_HOTS", "x")
    assert main(argv) == BAD_CONFIGURATION == 78
    assert served == []
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "NORA_HOTS: unknown variable, did you mean NORA_HOST?",
        'NORA_PORT: expected a whole number from 1 to 65535, got "abc"',
        "nora: the configuration has 2 problems; nothing was started",
    ]


def test_check_config_prints_a_valid_file_with_sources(monkeypatch, capsys):
    Path("config.toml").write_text("[server]\nport = 5000\n")
    monkeypatch.setenv("NORA_THREADS", "3")
    config = load()
    assert main(["check-config"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^server\.port = 5000  # from config\.toml:2$", out, re.M)
    assert re.search(r"^server\.threads = 3  # from NORA_THREADS$", out, re.M)
    assert re.search(r"^server\.workers = 2  # from default$", out, re.M)
    assert err.startswith("warning: storage.path = data/storage: is relative")
    Path("again.toml").write_text(out)
    monkeypatch.delenv("NORA_THREADS")
    assert load(Path("again.toml")) == config


def test_check_config_takes_a_path(capsys):
    Path("a.toml").write_text("server.prot = 1\n")
    assert main(["check-config", "a.toml"]) == BAD_CONFIGURATION
    assert main(["check-config", "missing.toml"]) == BAD_CONFIGURATION
    assert main(["check-config", ""]) == BAD_CONFIGURATION
    err = capsys.readouterr().err
    assert "a.toml:1: server.prot: unknown key, did you mean server.port?\n" in err
    assert "missing.toml: cannot be read: No such file or directory\n" in err


@pytest.mark.parametrize("argv", [["version"], ["--version"], ["-V"]])
def test_version(argv, capsys):
    assert exit_code(argv) == 0
    assert capsys.readouterr().out == f"nora {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["--port", "1"],
        ["serve", "now"],
        ["check-config", "a", "b"],
        ["version", "x"],
        *(["healthcheck", "--timeout-secs", text] for text in ("x", "0", "-1", "nan", "inf", "")),
        ["healthcheck", "--timeout", "5"],
        ["user", "add", "a", "--gen"],
        ["--vers"],
    ],
)
def test_wrong_usage_exits_with_2(argv, capsys):
    assert exit_code(argv) == 2
    assert capsys.readouterr().err.startswith("usage: nora")


@pytest.mark.parametrize(
    "command",
    [
        *([], ["serve"], ["check-config"], ["version"], ["healthcheck"], ["whoami"]),
        *(["user", *more] for more in ([], ["add"], ["passwd"], ["remove"], ["list"])),
        *(["token", *more] for more in ([], ["create"], ["list"], ["revoke"], ["rotate"])),
        *(["keys"], ["keys", "list"], ["keys", "rotate"], ["access"], ["access", "explain"], ["repo"], ["repo", "list"], ["repo", "show"]),
        ["doctor"],
    ],
    ids=" ".join,
)
def test_every_command_has_help(command, capsys):
    assert exit_code([*command, "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: nora")


def test_help_teaches(capsys):
    exit_code(["--help"])
    out = capsys.readouterr().out
    for word in (
        "examples:",
        "NORA_CONFIG_PATH",
        "config.toml",
        "RUST_LOG",
        "exit codes:",
        "78",
        "kill -HUP",
        "kill -TERM",
        "access rules",
        "htpasswd",
    ):
        assert word in out


def exit_code(argv: list[str]) -> object:
    try:
        return main(argv)
    except SystemExit as error:
        return error.code


# ---- healthcheck


@pytest.fixture
def peer():
    """A server that gives each connection the answer that is set, and keeps what it was sent."""
    with Peer() as peer:
        yield peer


class Peer:
    def __init__(self, address: str = "127.0.0.1") -> None:
        self.answer, self.pause_seconds = b"", 0.0
        self.heard: list[bytes] = []
        self._listener = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.heard.append(connection.recv(65536))
                if not self.pause_seconds:
                    connection.sendall(self.answer)
                    continue
                with contextlib.suppress(OSError):
                    for byte in self.answer:
                        connection.send(bytes((byte,)))
                        time.sleep(self.pause_seconds)


ANSWERS = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 0),
    (b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 1),
    (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 1),
    (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 1),
    (b"", 1),
    (b"SSH-2.0-x\r\n", 1),
    (b"HTTP/1.1 2000 OK\r\n\r\n", 1),
]


@pytest.mark.parametrize(("answer", "code"), ANSWERS)
def test_healthcheck_follows_the_status(answer, code, peer, monkeypatch, capsys):
    monkeypatch.setenv("NORA_HOST", "127.0.0.1")
    monkeypatch.setenv("NORA_PORT", str(peer.port))
    peer.answer = answer
    assert main(["healthcheck"]) == code
    assert peer.heard[0].startswith(b"GET /health HTTP/1.1\r\n")
    assert bool(capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0:0:0:0:0:0:0:0"])
def test_healthcheck_reads_the_file_and_turns_a_wildcard_into_the_loopback(host, peer, monkeypatch):
    Path("config.toml").write_text(f'[server]\nhost = "{host}"\nport = {peer.port}\n')
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    peer.answer = ANSWERS[0][0]
    assert main(["healthcheck"]) == 0


def test_healthcheck_finds_a_server_that_speaks_ipv6_alone(monkeypatch):
    """`::` with net.ipv6.bindv6only, and an IPv6 address by itself."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with Peer("::1") as peer:
        peer.answer = ANSWERS[0][0]
        monkeypatch.setenv("NORA_PORT", str(peer.port))
        for host in ("::", "::1", "0:0:0:0:0:0:0:1"):
            monkeypatch.setenv("NORA_HOST", host)
            assert main(["healthcheck"]) == 0
        assert f"Host: [::1]:{peer.port}\r\n".encode() in peer.heard[0]


def test_healthcheck_is_told_slowly(monkeypatch, capsys):
    """Each byte in time, the whole not."""
    with Peer() as peer:
        peer.answer, peer.pause_seconds = ANSWERS[0][0], 0.02
        monkeypatch.setenv("NORA_PORT", str(peer.port))
        assert main(["healthcheck", "--timeout-secs", "0.1"]) == 1
    assert "timed out" in capsys.readouterr().err


def test_healthcheck_of_nobody_is_1(peer, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("NORA_PORT", str(port))
    assert main(["healthcheck"]) == 1
    assert capsys.readouterr().err.startswith(f"unhealthy: no answer from 127.0.0.1 port {port}: ")


def test_healthcheck_gives_up_after_its_time(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("NORA_PORT", str(silent.getsockname()[1]))
        assert main(["healthcheck", "--timeout-secs", "0.05"]) == 1
    assert "timed out" in capsys.readouterr().err


def test_a_mistake_in_the_file_does_not_make_a_running_server_unhealthy(peer, capsys):
    Path("config.toml").write_text(f"[server]\nport = {peer.port}\nprot = 1\n")
    peer.answer = ANSWERS[0][0]
    assert main(["healthcheck"]) == 0
    assert capsys.readouterr().err == "warning: config.toml:3: server.prot: unknown key, did you mean server.port?\n"


# ---- the process


def test_module_runs_and_a_bad_configuration_leaves_no_traceback(tmp_path):
    environ = {"PATH": "/usr/bin:/bin", "NORA_PORT": "x", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-m", "noraflask"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == BAD_CONFIGURATION
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "NORA_PORT: expected" in done.stderr


def test_healthcheck_imports_nothing_heavy():
    """A container runs it every few seconds, within its bounds of memory and processor."""
    code = "import sys; from noraflask.cli import main; main(['healthcheck']); print(*sys.modules)"
    environ = {"PYTHONPATH": str(Path(__file__).parents[2]), "NORA_PORT": "1"}
    loaded = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    heavy = {
        "tomlkit",
        "flask",
        "gunicorn",
        "werkzeug",
        "urllib3",
        "http.client",
        "ssl",
        "asyncio",
        "email",
        "cryptography",
        "noraflask.storage.disk",
    }
    assert not heavy & set(loaded)
    assert not [name for name in loaded if name.startswith(("noraflask.cli.", "noraflask.services", "noraflask.formats", "noraflask.serve"))][2:]


def test_start_imports_nothing_heavy():
    """A server without a file starts without a reader of TOML; --help starts without Flask and gunicorn."""
    code = "import sys, noraflask.cli, noraflask.config; noraflask.config.load(environ={}); print(*sys.modules)"
    environ = {"PYTHONPATH": str(Path(__file__).parents[2])}
    loaded = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    assert not {"tomllib", "flask", "gunicorn", "werkzeug", "http.client"} & set(loaded)
