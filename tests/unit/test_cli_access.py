"""The commands of the access system: nora user, token, keys, access explain and whoami, each through main()."""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import bcrypt
import pytest
from werkzeug.serving import make_server

from noraflask.app import create_app
from noraflask.assembly import make_signer, make_tokens
from noraflask.cli import main
from noraflask.cli.subcommand import owner_of
from noraflask.config import Config, load
from noraflask.services.auth.principal import Action, Scope
from noraflask.storage.disk import DiskStorage

CONFIG = """\
[storage]
path = "{0}/storage"
[auth]
enabled = true
htpasswd_file = "{0}/users"
groups_file = "{0}/groups"
admin_users = ["root"]
oidc.enabled = true
[[auth.oidc.providers]]
name = "hub"
issuer = "https://hub.example.com"
audience = "nora"
namespace_scope = ["a/**"]
[[auth.oidc.providers.role_rules]]
pattern = "trusted"
role = "write"
[[access.rules]]
title = "Team"
groups = "dev"
names = "team/**"
actions = "write"
[[access.rules]]
effect = "deny"
users = "*"
names = "team/secret"
actions = "push"
[[access.rules]]
anonymous = true
names = "open/*"
actions = "pull"
[[access.rules]]
users = "boss"
actions = "admin"
[[access.rules]]
provider = "hub"
claims.repository = "*"
names = "{{claim:repository}}/**"
actions = "push"
[state]
path = "{0}/state"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("NORA") or name in ("RUST_LOG", "SUDO_USER")]:
        monkeypatch.delenv(name)
    (tmp_path / "config.toml").write_text(CONFIG.format(tmp_path))
    (tmp_path / "groups").write_text("dev: alice bob\n")
    (tmp_path / "storage").mkdir()
    return tmp_path


@pytest.fixture
def nora(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """nora("user", "list", stdin=b"…") → code, out and err."""

    def run(*argv: str, stdin: bytes = b"") -> SimpleNamespace:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            code = main(list(argv))
        except SystemExit as left:
            code = left.code
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


def add_user(nora, name: str, password: str = "secret") -> None:
    assert nora("user", "add", name, "--password-stdin", "--cost", "4", stdin=password.encode()).code == 0


def has_password(name: str, password: str) -> bool:
    lines = dict(line.split(b":") for line in Path("users").read_bytes().splitlines())
    return bcrypt.checkpw(password.encode(), lines[name.encode()])


def audit() -> list[dict[str, str]]:
    return [json.loads(line) for line in Path("state/audit.jsonl").read_bytes().splitlines()]


def audited() -> list[tuple[str, str]]:
    assert {entry["actor"] for entry in audit()} == {"cli"}
    return [(entry["action"], entry["artifact"]) for entry in audit()]


def settings(old: str, new: str) -> None:
    text = Path("config.toml").read_text()
    assert old in text
    Path("config.toml").write_text(text.replace(old, new, 1))


# ---- user


@pytest.mark.parametrize("stdin", [b"pass w\xc3\xb6rd", b"pass w\xc3\xb6rd\n", b"pass w\xc3\xb6rd\r\n"])
def test_add_from_stdin(stdin, nora):
    done = nora("user", "add", "alice", "--password-stdin", "--cost", "5", stdin=stdin)
    assert (done.code, done.out) == (0, "")
    assert done.err == f"alice is in {os.getcwd()}/users\n"
    assert has_password("alice", "pass wörd")
    assert Path("users").read_bytes()[6:13] == b"$2b$05$"
    assert stat.S_IMODE(os.stat("users").st_mode) == 0o600
    assert audited() == [("user_add", "alice")]


def test_the_usual_cost_is_12(nora):
    nora("user", "add", "alice", "--password-stdin", stdin=b"x")
    assert b":$2b$12$" in Path("users").read_bytes()


def test_generate_prints_the_password_alone(nora):
    done = nora("user", "add", "alice", "--generate", "--cost", "4")
    assert re.fullmatch(r"[\w-]{32}\n", done.out)
    assert has_password("alice", done.out.strip())
    assert done.out.strip() not in done.err + Path("state/audit.jsonl").read_text()


def test_asks_twice_on_the_terminal(nora, monkeypatch):
    asked = []
    answers = iter(["one", "one", "one", "two"])
    monkeypatch.setattr(getpass, "getpass", lambda prompt: asked.append(prompt) or next(answers))
    assert nora("user", "add", "alice", "--cost", "4").code == 0
    assert has_password("alice", "one")
    assert asked == ["Password for alice: ", "The same again: "]
    done = nora("user", "passwd", "alice", "--cost", "4")
    assert (done.code, done.err) == (1, "nora: the passwords differ; nothing was changed\n")
    assert has_password("alice", "one")


def test_without_a_terminal_nothing_is_read(nora, monkeypatch):
    """getpass would go on and echo."""

    def no_terminal(prompt):
        warnings.warn("cannot hide", getpass.GetPassWarning, stacklevel=2)
        return "echoed"

    monkeypatch.setattr(getpass, "getpass", no_terminal)
    done = nora("user", "add", "alice", stdin=b"x")
    assert (done.code, done.err) == (1, "nora: there is no terminal to ask for the password; use --password-stdin\n")
    assert not Path("users").exists()


def test_ctrl_c_at_the_prompt(nora, monkeypatch):
    def interrupted(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr(getpass, "getpass", interrupted)
    done = nora("user", "add", "alice")
    assert (done.code, done.err) == (130, "nora: interrupted\n")


BAD_PASSWORDS = [
    (b"", "the password is empty"),
    (b"a\nb", "one line"),
    (b"a\0b", "zero byte"),
    (b"\xff", "not UTF-8"),
    (b"x" * 73, "at most 72 bytes"),
]


@pytest.mark.parametrize(("password", "message"), BAD_PASSWORDS)
def test_bad_passwords(password, message, nora):
    done = nora("user", "add", "alice", "--password-stdin", "--cost", "4", stdin=password)
    assert done.code == 1
    assert re.fullmatch(r"nora: [^\n]*" + re.escape(message) + r"[^\n]*\n", done.err)
    assert not Path("users").exists()
    assert not Path("state/audit.jsonl").exists()


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", " a", "#a", "anonymous", "x" * 256, "\udcff"])
def test_bad_names(name, nora):
    done = nora("user", "add", name, "--generate", "--cost", "4")
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"nora: [^\n]+\n", done.err)
    assert not Path("users").exists()


def test_add_is_for_new_users_and_passwd_for_old_ones(nora):
    add_user(nora, "alice", "first")
    done = nora("user", "add", "alice", "--password-stdin", "--cost", "4", stdin=b"second")
    assert (done.code, done.err) == (1, f"nora: alice is in {os.getcwd()}/users already; see: nora user passwd\n")
    assert has_password("alice", "first")
    done = nora("user", "passwd", "bob", "--generate", "--cost", "4")
    assert (done.code, done.out, done.err) == (1, "", f"nora: bob is not in {os.getcwd()}/users\n")
    done = nora("user", "passwd", "alice", "--password-stdin", "--cost", "4", stdin=b"second")
    assert done.code == 0
    assert has_password("alice", "second")
    assert "bearer and refresh tokens of the old one have ended" in done.err
    assert "nora token revoke" in done.err
    assert audited() == [("user_add", "alice"), ("user_passwd", "alice")]


@pytest.mark.slow
def test_adding_side_by_side_loses_nobody(folder):
    names = [f"user{number}" for number in range(6)]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-m", "noraflask", "user", "add", "--generate", "--cost", "4"]
    adding = [subprocess.Popen([*argv, name], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for name in names]
    assert [process.wait(60) for process in adding] == [0] * len(names)
    assert sorted(line.partition(":")[0] for line in Path("users").read_text().splitlines()) == names
    assert sorted(audited()) == [("user_add", name) for name in names]


def test_list(nora):
    add_user(nora, "carol")
    add_user(nora, "alice")
    with open("users", "a") as file:
        file.write("dave:{SHA}x\n")
    done = nora("user", "list")
    assert (done.code, done.out) == (0, "NAME   GROUPS\nalice  dev\ncarol\n")
    assert done.err.startswith("users:3: the password hash of dave is SHA-1")
    assert done.err.count("\n") == 1
    shown = json.loads(nora("user", "list", "--json").out)
    assert shown["users"] == [{"name": "alice", "groups": ["dev"]}, {"name": "carol", "groups": []}]
    assert len(shown["problems"]) == 1


def test_list_of_no_file_is_empty_and_of_an_unreadable_one_fails(nora):
    assert (nora("user", "list").code, nora("user", "list", "--json").out) == (0, '{\n  "users": [],\n  "problems": []\n}\n')
    Path("users").mkdir()
    done = nora("user", "list")
    assert (done.code, done.out, done.err) == (1, "", f"nora: {os.getcwd()}/users: Is a directory\n")


def test_remove_revokes_tokens(nora):
    add_user(nora, "alice")
    tokens = make_tokens(load(), DiskStorage(Path("storage")))
    own, _ = tokens.mint("alice", "read", 60)
    service, _ = tokens.mint("alice", "read", 60, service=True)
    other, _ = tokens.mint("bob", "read", 60)
    done = nora("user", "remove", "alice")
    assert done.code == 0
    assert done.err.splitlines()[0] == f"alice is removed from {os.getcwd()}/users; API tokens revoked: 2"
    assert "groups still names alice in dev" in done.err
    assert "Traceback" not in done.err
    tokens = make_tokens(load(), DiskStorage(Path("storage")))
    assert [tokens.check(token) is not None for token in (own, service, other)] == [False, False, True]
    assert audited()[-1] == ("user_remove", "alice")
    assert audit()[-1]["detail"].startswith("2 API tokens revoked; by ")


def test_remove_keeps_tokens_on_demand(nora):
    add_user(nora, "alice")
    token, _ = make_tokens(load(), DiskStorage(Path("storage"))).mint("alice", "read", 60)
    assert nora("user", "remove", "alice", "--keep-tokens").code == 0
    assert make_tokens(load(), DiskStorage(Path("storage"))).check(token) is not None
    assert Path("users").read_bytes() == b""


def test_remove_of_nobody(nora):
    done = nora("user", "remove", "alice")
    assert (done.code, done.err) == (1, f"nora: alice is not in {os.getcwd()}/users\n")


def test_remove_says_when_tokens_could_not_be_revoked(nora):
    add_user(nora, "alice")
    Path("state/audit.jsonl").rename("kept")
    shutil.rmtree("storage")
    Path("storage").write_text("no folder")
    done = nora("user", "remove", "alice")
    assert done.code == 1
    assert "the API tokens are not all revoked; see: nora token list alice" in done.err
    assert done.err.splitlines()[-1].startswith("nora: there is no storage folder")
    assert Path("users").read_bytes() == b""


# ---- token


def create(nora, *argv: str) -> str:
    done = nora("token", "create", *argv)
    assert done.code == 0, done.err
    return done.out.strip()


def test_create_prints_the_token_alone(nora):
    argv = ["ci", "--role", "write", "--ttl-days", "7", "--description", "for CI", "--scope", "docker:team/**,x:pull,push", "--scope", "*:**:read"]
    done = nora("token", "create", *argv)
    assert done.code == 0
    assert re.fullmatch(r"nra_[0-9a-f]{32}\n", done.out)
    token = done.out.strip()
    record = make_tokens(load(), DiskStorage(Path("storage"))).check(token)
    assert record is not None
    assert (record.user, record.role, record.service, record.description) == ("ci", "write", True, "for CI")
    assert record.expires_at - record.created_at == 7 * 86400
    assert record.scopes == (Scope(frozenset({Action.PULL, Action.PUSH}), ("docker",), ("team/**", "x")), Scope(frozenset({Action.PULL})))
    assert token not in done.err
    assert audited() == [("token_mint", record.id)]
    assert token not in Path("state/audit.jsonl").read_text()


def test_create_has_modest_defaults(nora):
    record = make_tokens(load(), DiskStorage(Path("storage"))).check(create(nora, "ci"))
    assert record is not None
    assert (record.role, record.scopes, record.lifetime, record.description) == ("read", None, 30 * 86400, None)


def test_create_as_json(nora):
    done = nora("token", "create", "ci", "--json")
    members = json.loads(done.out)
    assert members["token"].startswith("nra_")
    assert (members["expires_in_days"], members["expires_in_secs"], members["role"], len(members["hash_prefix"])) == (30, 2592000, "read", 16)


WRONG_USE = [
    ["user"],
    ["user", "add"],
    ["user", "add", "alice", "--generate", "--password-stdin"],
    *(["user", "add", "alice", "--generate", "--cost", cost] for cost in ("3", "18", "x", "")),
    ["user", "remove", "alice", "--keep"],
    ["token"],
    ["token", "create"],
    ["token", "create", "a:b"],
    ["token", "create", ""],
    ["token", "create", "ci", "--role", "none"],
    *(["token", "create", "ci", "--ttl-days", days] for days in ("0", "-1", "3651", "1.5", "9" * 30)),
    ["token", "create", "ci", "--description", "x" * 501],
    *(["token", "create", "ci", "--scope", scope] for scope in ("", "docker", "docker:x", "docker:x:", "docker:x:fly", "docker:a b:pull", ":x:pull")),
    ["token", "create", "ci", "--scope", "docker:x:push"],  # a reader's token
    ["token", "create", "ci", "--scope", "dokcer:x:pull"],
    ["token", "revoke"],
    ["token", "revoke", "0123"],
    ["token", "rotate", "0123456789abcdef", "--overlap-secs", "-1"],
    ["token", "rotate", "0123456789abcdef", "--overlap-secs", "2592001"],
    ["keys"],
    ["access"],
    ["access", "explain", "alice", "fly", "x"],
    ["access", "explain", "alice", "admin", "x"],
    ["access", "explain", "alice", "pull", "-"],
    ["access", "explain", "alice", "pull", "x", "--repository", "nmp"],
    ["access", "explain", "alice", "pull", "x", "--claim", "a=b"],
    ["access", "explain", "alice", "pull", "x", "--provider", "hub", "--claim", "a"],
    ["access", "explain", "alice", "pull", "x", "--provider", "nobody"],
    ["access", "explain", "alice", "pull", "x", "--provider", "hub", "--group", "dev"],
    ["access", "explain", "anonymous", "pull", "x", "--group", "dev"],
    ["access", "explain", "alice", "pull", "x", "--provider", "hub", "--token", "0123456789abcdef"],
    ["whoami", "--password-stdin"],
    ["whoami", "--user", "a:b", "--password-stdin"],
    *(["whoami", "--url", url] for url in ("localhost", "ftp://x", "http://", "http://a:b@x", "http://x:port", "http://x?y", "http://[")),
]


@pytest.mark.parametrize("argv", WRONG_USE, ids=" ".join)
def test_wrong_use(argv, nora):
    done = nora(*argv)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith("nora")
    assert os.listdir("storage") == []


def test_a_token_in_place_of_its_id_is_not_repeated(nora):
    token = create(nora, "ci")
    done = nora("token", "revoke", token)
    assert done.code == 2
    assert token not in done.err
    assert "rotate it" in done.err


def test_list_tokens(nora):
    tokens = make_tokens(load(), DiskStorage(Path("storage")))
    _, first = tokens.mint("alice", "read", 0, "ended \x1b[2J")
    create(nora, "ci", "--role", "write", "--scope", "docker:team/**:pull,push")
    done = nora("token", "list")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["ID", "USER", "ROLE", "CREATED", "EXPIRES", "LAST", "USED", "SCOPES", "DESCRIPTION"]
    assert len(lines) == 3
    assert any(re.search(r"ci +write \(service\) .* never +docker:team/\*\*:pull,push$", line) for line in lines)
    assert any(re.search(rf'^{first.id} +alice +read +.* expired +never +all +"ended \\u001b\[2J"$', line) for line in lines)
    assert [line.split()[1] for line in nora("token", "list", "ci").out.splitlines()] == ["USER", "ci"]
    shown = json.loads(nora("token", "list", "ci", "--json").out)["tokens"]
    assert [(members["user"], members["role"], members["service"]) for members in shown] == [("ci", "write", True)]
    assert shown[0]["scopes"] == [{"actions": ["pull", "push"], "repositories": ["docker"], "names": ["team/**"]}]
    assert not any("hash" in name and name != "hash_prefix" for name in shown[0])


def id_of(token: str) -> str:
    record = make_tokens(load(), DiskStorage(Path("storage"))).check(token)
    assert record is not None
    return record.id


def test_revoke_ends_all_it_knows(nora):
    first, second, third = (create(nora, "ci") for _ in range(3))
    ids = [id_of(first), id_of(second)]
    done = nora("token", "revoke", ids[0], "0" * 16, ids[1], ids[1])
    assert done.code == 1
    assert done.err.splitlines() == [f"token {ids[0]} is revoked", f"nora: there is no token {'0' * 16}", f"token {ids[1]} is revoked"]
    tokens = make_tokens(load(), DiskStorage(Path("storage")))
    assert [tokens.check(token) is not None for token in (first, second, third)] == [False, False, True]
    assert audited()[3:] == [("token_revoke", id) for id in ids]
    assert nora("token", "revoke", id_of(third)).code == 0


@pytest.mark.parametrize("overlap", [0, 600])
def test_rotate(overlap, nora):
    old = create(nora, "ci", "--role", "write", "--description", "d")
    old_id = id_of(old)
    done = nora("token", "rotate", old_id, "--overlap-secs", str(overlap))
    assert done.code == 0
    new = done.out.strip()
    tokens = make_tokens(load(), DiskStorage(Path("storage")))
    made, before = tokens.check(new), tokens.check(old)
    assert made is not None
    assert (made.user, made.role, made.description, made.service) == ("ci", "write", "d", True)
    assert (before is None) == (overlap == 0)
    assert before is None or before.expires_at <= time.time() + overlap
    assert audited()[1:] == [("token_rotate", old_id)]
    assert json.loads(nora("token", "rotate", made.id, "--json").out)["token"].startswith("nra_")


def test_rotate_of_no_token(nora):
    done = nora("token", "rotate", "0" * 16)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"nora: there is no token {'0' * 16} that could be rotated: it is not known, was revoked or has expired\n"


def test_no_token_in_the_storage_of_no_server(nora):
    """A token made in the wrong folder would look right and never work."""
    Path("storage").rmdir()
    for argv in (["token", "create", "ci"], ["token", "list"], ["keys", "rotate"]):
        done = nora(*argv)
        assert (done.code, done.out) == (1, "")
        assert (
            done.err
            == f"nora: there is no storage folder {os.getcwd()}/storage; is this the server's configuration and folder? Its first start makes it\n"
        )
    assert not Path("storage").exists()


def test_the_first_user_needs_no_storage(nora):
    Path("storage").rmdir()
    add_user(nora, "alice")
    assert audited() == [("user_add", "alice")]


# ---- keys


def test_keys(nora):
    assert nora("keys", "list").out == "ID  CREATED  USE\n"
    first = nora("keys", "rotate").out.strip()
    second = nora("keys", "rotate").out.strip()
    assert json.loads(nora("keys", "list", "--json").out)["keys"] == [
        {"kid": second, "created_at": pytest.approx(time.time(), abs=600), "signs": True},
        {"kid": first, "created_at": pytest.approx(time.time(), abs=600), "signs": False},
    ]
    assert [line.split()[-1] for line in nora("keys", "list").out.splitlines()] == ["USE", "signs", "verifies"]
    third = nora("keys", "rotate", "--drop-old").out.strip()
    assert list(dict(make_signer(load(), DiskStorage(Path("storage"))).keys())) == [third]
    assert audited() == [("key_rotate", kid) for kid in (first, second, third)]


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_broken_key_is_told_without_a_traceback(text, nora):
    nora("keys", "rotate")
    key = next(Path("storage/_auth/keys").iterdir())
    key.write_text(text)
    done = nora("keys", "rotate")
    assert done.code == 0
    assert re.search(rf"signing key {key.stem} cannot be read", done.err)
    assert "Traceback" not in done.err


# ---- access explain

EXPLAINED = [
    ("alice push team/app", 0, 'rule 1 (config.toml:17, "Team")'),
    ("alice push team/secret", 1, "rule 2 (config.toml:22)"),
    ("alice pull team/secret", 0, 'rule 1 (config.toml:17, "Team")'),
    ("alice pull other", 1, "no rule grants it"),
    ("carol push team/app", 1, "no rule grants it"),
    ("carol push team/app --group dev", 0, 'rule 1 (config.toml:17, "Team")'),
    ("alice push team/app --group ops", 1, "no rule grants it"),
    ("anonymous pull open/x", 0, "rule 3 (config.toml:27)"),
    ("anonymous pull team/app", 1, "no rule grants it"),
    ("alice pull open/x", 0, "rule 3 (config.toml:27)"),
    ("alice admin -", 1, "no rule grants it"),
    ("boss admin -", 0, "rule 4 (config.toml:31)"),
    ("trusted push a/b --provider hub", 0, "role write"),
    ("trusted push c/d --provider hub", 1, "it is outside of the namespaces that provider hub may write"),
    ("job push a/b/c --provider hub --claim repository=a/b", 0, "rule 5 (config.toml:34)"),
    ("job push a/c --provider hub --claim repository=a/b", 1, "no rule grants it"),
    (
        "job push a/b --provider hub",
        1,
        "login refused: the token is good, but no rule of this registry gives its subject a role; ask the operator for one",
    ),
    ("alice push team/app --provider hub --claim repository=x", 1, "no rule grants it"),  # a name of this server's is nobody there
]


@pytest.mark.parametrize(("question", "code", "by"), EXPLAINED, ids=lambda value: value if isinstance(value, str) else None)
def test_explain(question, code, by, nora):
    user, action, name = question.split()[:3]
    done = nora("access", "explain", *question.split())
    assert done.code == code
    what = "this server" if name == "-" else f"{name} (repository docker)"
    assert done.out.splitlines()[:2] == [f"{'no: ' if code else 'yes: '}{user} {'may not' if code else 'may'} {action} {what}", f"decided by: {by}"]
    done = nora("access", "explain", *question.split(), "--json")
    members = json.loads(done.out)
    assert done.code == code
    assert (members["user"], members["action"], members["name"]) == (user, action, None if name == "-" else name)
    assert (members["allowed"], members["decided_by"]) == (not code, by)


def test_explain_shows_all_that_concerns_the_user(nora):
    add_user(nora, "alice")
    done = nora("access", "explain", "alice", "push", "team/app")
    assert done.err == ""
    assert done.out.splitlines()[2:] == [
        "groups: dev",
        "RIGHT  ACTIONS           REPOSITORIES  NAMES        BY",
        'allow  pull push delete  *             team/**      rule 1 (config.toml:17, "Team")',
        "deny   push              *             team/secret  rule 2 (config.toml:22)",
        "allow  pull              *             open/*       rule 3 (config.toml:27)",
    ]


def test_explain_remarks_on_an_unknown_user(nora):
    assert "alice is not in " in nora("access", "explain", "alice", "push", "team/app").err


def test_explain_by_token(nora):
    tokens = make_tokens(load(), DiskStorage(Path("storage")))
    add_user(nora, "alice")
    _, reader = tokens.mint("alice", "read", 600)
    _, scoped = tokens.mint("ci", "write", 600, service=True, scopes=(Scope(frozenset({Action.PUSH}), names=("x/*",)),))
    _, chief = tokens.mint("ci", "admin", 600, service=True, scopes=(Scope(frozenset({Action.ADMIN}), ("x",), ("x/*",)),))
    _, ended = tokens.mint("alice", "write", 0)
    _, orphan = tokens.mint("dora", "write", 600)
    answers = [
        ("alice", "pull", "team/app", reader, 0, "rule 1"),
        ("alice", "push", "team/app", reader, 1, "the token's role is read"),
        ("ci", "push", "x/y", scoped, 0, "role write"),
        ("ci", "push", "z", scoped, 1, "the token's scopes do not include it"),
        ("ci", "admin", "-", chief, 1, "the token's scopes do not include it"),  # a piece of the server is not administered
        ("alice", "push", "team/app", ended, 1, "login refused: the API token"),
        ("dora", "push", "team/app", orphan, 1, "login refused: the owner"),
    ]
    for user, action, name, record, code, by in answers:
        done = nora("access", "explain", user, action, name, "--token", record.id)
        assert (done.code, done.out.splitlines()[1][: len(by) + 12]) == (code, f"decided by: {by}")
    done = nora("access", "explain", "ci", "push", "x/y", "--token", reader.id)
    assert (done.code, done.err) == (2, f"nora: the token {reader.id} is of alice, not of ci\n")
    assert nora("access", "explain", "ci", "push", "x/y", "--token", "0" * 16).code == 1


def test_explain_with_authentication_off_is_for_when_it_is_on(nora):
    settings("enabled = true", "enabled = false")
    done = nora("access", "explain", "carol", "push", "team/app")
    assert done.code == 1
    assert "authentication is switched off" in done.err
    assert "for when authentication is switched on" in done.err


# ---- whoami


@pytest.fixture
def server(nora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The registry as the configuration has it, with a user; its URL. It logs where the command does."""
    monkeypatch.setenv("NORA_STAGING_PATH", str(tmp_path / "staging"))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "metrics"))
    add_user(nora, "alice", "pässword")
    settings("[storage]", "[logging]\naccess = false\n[storage]")
    served = make_server("127.0.0.1", 0, create_app(load()), threaded=True)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    settings("[storage]", f"[server]\nport = {served.server_port}\n[storage]")
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    thread.join()
    served.server_close()


def test_whoami(server, nora, monkeypatch):
    done = nora("whoami")
    assert (done.code, done.out.splitlines()[:2]) == (0, ["name: anonymous", "source: anonymous"])
    done = nora("whoami", "--user", "alice", "--password-stdin", stdin="pässword\n".encode())
    assert (done.code, done.out.splitlines()[:3]) == (0, ["name: alice", "source: password", "groups: dev"])
    assert "allow  pull push delete  *" in done.out
    monkeypatch.setenv("NORAFLASK_TOKEN", create(nora, "ci"))
    done = nora("whoami", "--url", server + "/", "--json")
    members = json.loads(done.out)
    assert (done.code, members["name"], members["source"], members["role"]) == (0, "ci", "token", "read")


def test_whoami_refused(server, nora, monkeypatch):
    done = nora("whoami", "--user", "alice", "--password-stdin", stdin=b"wrong")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1] == f"nora: {server} answered 401: wrong user name or password"
    monkeypatch.setenv("NORAFLASK_TOKEN", "nra_" + "0" * 32)
    done = nora("whoami")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith(f"nora: {server} answered 401: the API token is not known")
    for broken in ("a b", "ä", "a\nb"):
        monkeypatch.setenv("NORAFLASK_TOKEN", broken)
        done = nora("whoami")
        assert (done.code, done.err) == (1, "nora: NORAFLASK_TOKEN holds something that is no token\n")


def test_whoami_elsewhere(server, nora):
    done = nora("whoami", "--url", server + "/nowhere")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"nora: {server}/nowhere answered 404")
    done = nora("whoami", "--url", "http://127.0.0.1:1")
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"nora: no answer from http://127.0.0.1:1: [^\n]+\n", done.err)


# ---- all of them

ALL = [
    ["user", "add", "new", "--generate", "--cost", "4"],
    ["user", "passwd", "alice", "--generate", "--cost", "4"],
    ["user", "list"],
    ["user", "list", "--json"],
    ["user", "remove", "alice"],
    ["token", "create", "ci"],
    ["token", "create", "ci", "--json"],
    ["token", "list", "--json"],
    ["keys", "rotate"],
    ["keys", "list", "--json"],
    ["access", "explain", "boss", "admin", "-", "--json"],
]


@pytest.mark.parametrize("argv", ALL, ids=" ".join)
def test_works_with_authentication_off_and_says_so(argv, nora):
    add_user(nora, "alice")
    settings("enabled = true", "enabled = false")
    done = nora(*argv)
    assert done.code == 0
    assert "remark: authentication is switched off" in done.err
    if "--json" in argv:
        json.loads(done.out)


@pytest.mark.parametrize("argv", [*ALL, ["whoami"], ["token", "revoke", "0" * 16], ["token", "rotate", "0" * 16]], ids=" ".join)
def test_a_bad_configuration_is_78(argv, nora):
    settings("enabled = true", "enabled = maybe")
    done = nora(*argv)
    assert (done.code, done.out) == (78, "")
    assert done.err.splitlines()[-1] == "nora: the configuration has 1 problem; nothing was done"
    assert os.listdir("storage") == []


def test_the_token_variable_is_no_setting(nora, monkeypatch):
    monkeypatch.setenv("NORAFLASK_TOKEN", "x")
    assert nora("user", "list").code == 0
    assert nora("check-config").code == 0


@pytest.mark.parametrize(("mode", "written"), [("both", True), ("stdout", False), ("off", False)])
def test_audit_never_gets_into_the_output(mode, written, nora):
    settings("[storage]", f'[audit]\nmode = "{mode}"\n[storage]')
    done = nora("token", "create", "ci")
    assert re.fullmatch(r"nra_\w+\n", done.out)
    assert Path("state/audit.jsonl").exists() == written
    assert ("not in it is: token_mint" in done.err) == (mode == "stdout")


def test_audit_where_it_is_configured(nora):
    settings("[storage]", f'[audit]\npath = "{os.getcwd()}/elsewhere.jsonl"\n[storage]')
    add_user(nora, "alice")
    assert json.loads(Path("elsewhere.jsonl").read_text())["action"] == "user_add"
    assert not Path("state/audit.jsonl").exists()


def test_an_audit_log_that_cannot_be_written_is_told(nora):
    Path("state/audit.jsonl").mkdir(parents=True)
    done = nora("user", "add", "alice", "--generate", "--cost", "4")
    assert done.code == 0
    assert "the audit log" in done.err
    assert "cannot be written" in done.err


@pytest.mark.parametrize(("uid", "sudo", "expected"), [(0, "eve", "by eve"), (0, "", "by root"), (12345678, "eve", "by uid 12345678")])
def test_audit_names_the_person(uid, sudo, expected, nora, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setenv("SUDO_USER", sudo)
    add_user(nora, "alice")
    assert audit()[-1]["detail"] == expected


SERVER_USER = 54321


@pytest.fixture
def owned(monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """A storage folder of the server's user, in a place that this user can reach."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    place = Path(tempfile.mkdtemp(dir="/tmp"))  # the folders of pytest are closed to others
    place.chmod(0o755)
    for name in ("storage", "state"):
        (place / name).mkdir(mode=0o750)
        os.chown(place / name, SERVER_USER, SERVER_USER + 1)
    Path("config.toml").write_text(CONFIG.format(place))
    monkeypatch.chdir(place)
    (place / "config.toml").write_text(CONFIG.format(place))
    groups = os.getgroups()
    os.setgroups([*groups, SERVER_USER + 2])
    yield load()
    os.setgroups(groups)
    shutil.rmtree(place)


def test_root_writes_as_the_owner_of_the_storage(owned, nora):
    before = (os.geteuid(), os.getegid(), os.getgroups())
    assert before[2]
    with owner_of(owned.storage.path):
        assert (os.geteuid(), os.getegid(), os.getgroups()) == (SERVER_USER, SERVER_USER + 1, [])
    add_user(nora, "alice")
    create(nora, "alice")
    nora("keys", "rotate")
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    found = [os.stat(path) for path in (*Path("storage").rglob("*"), *Path("state").rglob("*"))]
    assert len(found) > 4
    assert {(info.st_uid, info.st_gid) for info in found} == {(SERVER_USER, SERVER_USER + 1)}
    assert nora("user", "remove", "alice").err.splitlines()[0].endswith("API tokens revoked: 1")
    assert {os.stat(path).st_uid for path in Path("storage").rglob("*")} == {SERVER_USER}


def test_root_is_warned_of_a_password_file_that_the_server_cannot_read(owned, nora):
    done = nora("user", "add", "alice", "--generate", "--cost", "4")
    assert done.code == 0
    assert f"cannot be read by the owner of the storage folder, user {SERVER_USER}" in done.err
    os.chmod("users", 0o644)
    assert "cannot be read" not in nora("user", "add", "bob", "--generate", "--cost", "4").err


def test_a_running_server_is_no_news(nora):
    running = DiskStorage(Path("storage"))
    done = nora("token", "list")
    assert (done.code, done.err) == (0, "")
    del running
