"""The checks of `nora doctor` on good ground and on broken ground. What only a real proxy shows is in tests/client/test_doctor.py."""

from __future__ import annotations

import json
import os
import time
from http.client import HTTPMessage
from types import SimpleNamespace

import pytest

from noraflask.cli import main
from noraflask.cli.doctor import _writable
from noraflask.config import AuthConfig, Config, ConfigError, CurationConfig, ServerConfig, StagingConfig
from noraflask.errors import StorageFull
from noraflask.formats.docker.canary import Layer, hash_of
from noraflask.formats.docker.canary_answers import judge_location, judge_pull
from noraflask.services.doctor import certificate, files, machine, proxy, server
from noraflask.services.doctor.findings import OK, WARNING, WRONG, Finding, ok, run, wrong
from noraflask.services.doctor.format_checks import HEALTH
from noraflask.services.doctor.front import Answer, Front, NoAnswer, Target
from noraflask.services.doctor.machine import GIB, MIB
from noraflask.storage.memory import MemoryStorage
from noraflask.storage.mounts import Mount, mount_of
from noraflask.web.browsers import UnknownHost
from tests.certificates import make_ca
from tests.storage import keys_in

NOW = time.time()


def only(found) -> Finding:
    (finding,) = found
    return finding


def told(found) -> list[tuple[str, str]]:
    return [(finding.check, finding.verdict) for finding in found]


# ---- how it is told


def test_a_finding_is_a_line_and_its_remedy_another():
    assert list(wrong("disk", "full", "df -h").lines()) == ["✗ disk: full", "    df -h"]
    assert list(ok("disk", "room").lines()) == ["✓ disk: room"]


def test_what_others_wrote_does_not_move_the_cursor():
    assert list(ok("front", "\x1b[2Jhello\n").lines()) == ["✓ front: �[2Jhello�"]


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (PermissionError(13, "Permission denied", "/x"), "cannot be checked: /x: Permission denied"),
        (ZeroDivisionError(), "cannot be checked: ZeroDivisionError"),
        (NoAnswer("reset"), "cannot be checked: reset"),
    ],
)
def test_a_check_that_stumbles_is_a_finding_and_the_next_one_is_made(problem, text):
    def stumbles():
        yield ok("first", "so far")
        raise problem

    found = list(run([("stumbling", stumbles), ("next", lambda: [ok("next", "fine")])]))
    assert told(found) == [("first", OK), ("stumbling", WRONG), ("next", OK)]
    assert found[1].text == text


# ---- file systems

MOUNTS = r"""21 22 0:4 / /a/b rw - xfs /dev/sdc rw
20 22 0:3 / /a rw - btrfs /dev/sdd rw
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
23 22 0:5 / /tmp rw - tmpfs tmpfs rw,size=262144k
24 22 0:6 / /srv/with\040space rw - xfs /dev/sdb rw
25 22 0:7 / /data rw - overlay overlay rw
26 22 0:8 / /data rw - nfs4 server:/x rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/", "/", "ext4"),
        ("/tmp", "/tmp", "tmpfs"),
        ("/tmp/x/y", "/tmp", "tmpfs"),
        ("/tmpfile", "/", "ext4"),
        ("/a/b/c", "/a/b", "xfs"),
        ("/a/c", "/a", "btrfs"),
        ("/srv/with space/x", "/srv/with space", "xfs"),
        ("/data/storage", "/data", "nfs4"),
    ],
)
def test_the_mount_that_holds_a_path(path, point, kind):
    assert mount_of(path, MOUNTS) == Mount(point, kind)


@pytest.mark.parametrize(
    ("kind", "verdict"), [("ext4", OK), ("xfs", OK), ("tmpfs", WRONG), ("overlay", WRONG), ("nfs4", WARNING), ("fuse.s3fs", WARNING)]
)
def test_what_storage_may_lie_on(kind, verdict, tmp_path):
    assert only(machine.storage_folder(tmp_path, Mount("/data", kind))).verdict == verdict


def test_storage_is_one_file_system(tmp_path):
    assert list(machine.same_device(tmp_path, lambda path: 1)) == []
    assert only(machine.same_device(tmp_path, lambda path: len(str(path)))).verdict == WRONG


@pytest.mark.parametrize(
    ("free", "total", "unit", "verdict"),
    [
        (500 * GIB, 1000 * GIB, "bytes", OK),
        (40 * GIB, 1000 * GIB, "bytes", WARNING),
        (GIB - 1, 10 * GIB, "bytes", WARNING),
        (MIB, 1000 * GIB, "bytes", WRONG),
        (0, 1000 * GIB, "bytes", WRONG),
        (600_000, 1_000_000, "inodes", OK),
        (10_000, 1_000_000, "inodes", WARNING),
        (0, 1_000_000, "inodes", WRONG),
    ],
)
def test_room_on_a_disk(free, total, unit, verdict, tmp_path):
    found = only(machine.room("disk", tmp_path, free, total, unit))
    assert found.verdict == verdict
    assert verdict != WRONG or f"df {'-h' if unit == 'bytes' else '-hi'} " in found.remedy[0]


def test_a_file_system_that_makes_inodes_as_it_needs_them(tmp_path):
    assert list(machine.room("inodes", tmp_path, 0, 0, "inodes")) == []


# ---- a round trip


def test_a_round_trip_leaves_nothing():
    storage = MemoryStorage()
    assert told(machine.round_trip(storage)) == [("storage", OK), ("clock of the storage", OK)]
    assert keys_in(storage) == []


def test_a_slow_disk_is_a_remark():
    ticks = iter((0.0, 1.5))
    assert next(machine.round_trip(MemoryStorage(), lambda: next(ticks))).verdict == WARNING


class Forgetful(MemoryStorage):
    def create(self, key, source):
        super().create(key, source[:-1] + b"?" if source[-1:] != b"?" else source[:-1] + b"!")


class Full(MemoryStorage):
    def create(self, key, source):
        raise StorageFull() from OSError(28, "No space left on device")


class Clinging(MemoryStorage):
    def delete(self, key):
        pass


@pytest.mark.parametrize(
    ("storage", "text"),
    [
        (Forgetful(), "what is read is not what was written: do not trust this disk or its driver"),
        (Full(), "a round trip fails: "),
        (Clinging(), "what was deleted is still there"),
    ],
    ids=["forgetful", "full", "clinging"],
)
def test_a_round_trip_that_fails(storage, text):
    found = only(machine.round_trip(storage))
    assert (found.verdict, found.text.startswith(text)) == (WRONG, True)


def test_the_clock_of_the_storage_is_compared():
    found = list(machine.round_trip(MemoryStorage(), wall=lambda: time.time() + 300))
    assert told(found)[-1] == ("clock of the storage", WRONG)


# ---- staging


@pytest.mark.parametrize(
    ("kind", "total", "free", "verdict", "remedy"),
    [
        ("tmpfs", 256 * MIB, 200 * MIB, OK, ""),
        ("tmpfs", 64 * MIB, 64 * MIB, WARNING, f"staging.budget_bytes = {48 * MIB}"),
        ("tmpfs", 256 * MIB, MIB, WARNING, "du -sh"),
        ("ext4", 256 * GIB, 200 * GIB, WARNING, "docker run --tmpfs"),
    ],
)
def test_staging(kind, total, free, verdict, remedy):
    found = only(machine.staging(StagingConfig(), Mount("/tmp", kind), total, free))
    assert found.verdict == verdict
    assert not remedy or remedy in found.remedy[0]


def test_staging_that_is_not_there(tmp_path):
    assert only(machine.staging_here(StagingConfig(path=tmp_path / "no"))).remedy == (f"mkdir -m 1777 {tmp_path / 'no'}",)


# ---- clocks


@pytest.mark.parametrize(("seconds", "verdict"), [(0, OK), (-4, OK), (10, WARNING), (-10, WARNING), (61, WRONG), (-4000, WRONG)])
def test_skew(seconds, verdict):
    found = only(machine.skew("clock", seconds))
    assert found.verdict == verdict
    assert verdict == OK or ("ahead of" if seconds > 0 else "behind") in found.text


@pytest.mark.parametrize(
    ("now", "built", "ticks", "verdict"),
    [(2e9, 1e9, (1.0, 2.0), OK), (0, 1e9, (1.0, 2.0), WRONG), (2e9, 1e9, (2.0, 1.0), WRONG), (1e20, 0, (1.0, 1.0), OK)],
)
def test_the_clock(now, built, ticks, verdict):
    assert only(machine.clock(now, built, ticks)).verdict == verdict


def headers(**values: str) -> HTTPMessage:
    message = HTTPMessage()
    for name, value in values.items():
        message[name.replace("_", "-")] = value
    return message


@pytest.mark.parametrize(("date", "verdicts"), [("", []), ("nonsense", []), ("Thu, 01 Jan 2026 00:00:00 GMT", [WRONG])])
def test_the_clock_of_a_server(date, verdicts):
    assert [finding.verdict for finding in server.clock_of("clock", Answer(200, headers(Date=date)))] == verdicts


# ---- limits

LIMITS = "Limit            Soft Limit  Hard Limit  Units\nMax open files   1024        {}          files\n"


@pytest.mark.parametrize(("hard", "verdict"), [("unlimited", OK), ("4608", OK), ("4607", WRONG)])
def test_open_files(hard, verdict):
    found = only(machine.descriptors(ServerConfig(), LIMITS.format(hard), "this shell"))
    assert found.verdict == verdict
    assert verdict == OK or found.remedy[0].startswith("LimitNOFILE=4608")


def test_open_files_that_cannot_be_read():
    assert only(machine.descriptors(ServerConfig(), "", "this shell")).verdict == WARNING


@pytest.mark.parametrize(
    ("limit", "in_memory", "verdict"), [(None, True, OK), (512 * MIB, True, OK), (256 * MIB, True, WRONG), (256 * MIB, False, OK)]
)
def test_memory(limit, in_memory, verdict):
    found = only(machine.memory(Config(), limit, in_memory))
    assert found.verdict == verdict
    assert verdict == OK or found.remedy[0].startswith("MemoryMax=352M")


def test_memory_for_answers_that_are_given_again_counts():
    found = only(machine.memory(Config(server=ServerConfig(plan_memory_mb=256)), 512 * MIB, False))
    assert (found.verdict, found.remedy[0][:14]) == (WRONG, "MemoryMax=640M")


def test_the_running_server_is_found_by_its_title(tmp_path):
    for pid, title in ((1, "init"), (7, "nora: master [127.0.0.1:4000]"), (8, "nora: worker [127.0.0.1:4000]"), (9, "nora: master [[::1]:4000]")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(title.encode() + b"\0\0")
    assert machine.find_server(ServerConfig(), tmp_path) == machine.Process(7, 1)
    assert machine.find_server(ServerConfig(host="::1"), tmp_path) == machine.Process(9, 0)
    assert machine.find_server(ServerConfig(port=5000), tmp_path) is None


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (MIB, "1 MiB"), (3 * MIB // 2, "1.5 MiB"), (5 * GIB, "5 GiB")])
def test_sizes_for_people(size, text):
    assert machine.size_text(size) == text


# ---- files


def test_a_configuration_with_problems_goes_on_with_the_rest():
    usable = Config(server=ServerConfig(port=5000))

    def load():
        raise ConfigError(["config.toml:1: server.prot: unknown key", "NORA_PORT: no"], usable)

    config, found = files.configuration(load)
    assert (config, told(found)) == (usable, [("configuration", WRONG)] * 2)


def test_warnings_of_a_configuration_are_remarks():
    config, found = files.configuration(lambda: Config(warnings=("docker.enabled = false: no format is served",)))
    assert told(found) == [("configuration", OK), ("configuration", WARNING)]
    assert config.warnings


def test_the_policy(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[block]]\nid = "A"\nformat = "docker"\nname = "team/app"\n[[expect]]\nformat = "docker"\nname = "team/app"\nresult = "block"\n'
    )
    assert "1 rules, 1 tests" in list(files.policy(CurationConfig(mode="enforce", rules_path=rules), NOW))[-1].text
    rules.write_text("[[block\n")
    assert {finding.verdict for finding in files.policy(CurationConfig(mode="enforce", rules_path=rules), NOW)} == {WRONG}


GOOD_LINE = "alice:$2y$05$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234\n"


@pytest.mark.parametrize(
    ("text", "mode", "verdicts"),
    [
        (GOOD_LINE, 0o640, [OK]),
        (GOOD_LINE, 0o644, [WARNING, OK]),
        (GOOD_LINE, 0o666, [WRONG, OK]),
        ("bob:$apr1$x$y\n" + GOOD_LINE, 0o600, [WARNING, OK]),
        (None, 0, [WRONG]),
    ],
)
def test_the_htpasswd_file(text, mode, verdicts, tmp_path):
    file = tmp_path / "users.htpasswd"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    found = list(files.users(Config(auth=AuthConfig(enabled=True, htpasswd_file=file))))
    assert [finding.verdict for finding in found] == verdicts
    assert text is None or f"{file}: 1 users" in found[-1].text


def test_the_groups_file(tmp_path):
    users, groups = tmp_path / "users.htpasswd", tmp_path / "groups"
    users.write_text(GOOD_LINE)
    users.chmod(0o600)
    groups.write_text("dev: alice bob\nno colon\n")
    found = list(files.users(Config(auth=AuthConfig(enabled=True, htpasswd_file=users, groups_file=groups))))
    assert told(found) == [("htpasswd file", OK), ("groups file", WARNING), ("groups file", OK)]
    assert "1 groups" in found[-1].text


def test_logins_that_are_off_are_a_remark():
    assert only(files.users(Config())).verdict == WARNING


# ---- certificates

CA = make_ca()
DAY = 86400


def chain_of(days: float, ca_days: float = 3650) -> list:
    intermediate = CA.issue("intermediate", ca=True, days=ca_days)
    issued = intermediate.issue("registry", days=days)
    return [issued.certificate, intermediate.certificate, CA.certificate]


@pytest.mark.parametrize(("days", "ca_days", "verdict"), [(90, 900, OK), (20, 900, WARNING), (2, 900, WRONG), (90, 20, WARNING), (90, 2, WRONG)])
def test_how_long_a_certificate_lasts(days, ca_days, verdict):
    found = only(certificate.lifetime(chain_of(days + 0.1, ca_days + 0.1), NOW))
    assert (found.verdict, f"in {min(days, ca_days)} days" in found.text) == (verdict, True)
    assert ("the CA certificate intermediate" in found.text) is (ca_days < days)


def test_a_chain_that_lacks_a_certificate_and_one_of_an_unknown_ca():
    known = frozenset([CA.certificate.subject.rfc4514_string()])
    own, intermediate, _ = chain_of(90)
    lacking = only(certificate.explain(20, "unable to get local issuer certificate", "r", [own], NOW, known))
    assert "intermediate certificate out" in lacking.text
    assert any("fullchain.crt" in line for line in lacking.remedy)
    unknown = only(certificate.explain(20, "unable to get local issuer certificate", "r", [own, intermediate], NOW))
    assert "a CA that is not trusted here" in unknown.text
    assert not any("fullchain" in line for line in unknown.remedy)
    for code in (18, 19, 20, 21, 62, 10, 9, 99):
        assert only(certificate.explain(code, "words of OpenSSL", "r", [], NOW)).verdict == WRONG


@pytest.mark.parametrize(("host", "wanted"), [("192.0.2.1", "IP:192.0.2.1"), ("2001:db8::1", "IP:2001:db8::1"), ("r.example", "DNS:r.example")])
def test_a_certificate_for_others(host, wanted):
    found = only(certificate.explain(62, "", host, chain_of(90), NOW))
    assert "it is for 127.0.0.1, ::1, localhost" in found.text
    assert wanted in found.remedy[0]


# ---- addresses and answers


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://r.example", "https://r.example"),
        ("https://r.example:443/", "https://r.example"),
        ("https://r.example:8443/hub/", "https://r.example:8443/hub"),
        ("http://[2001:db8::1]:5000", "http://[2001:db8::1]:5000"),
        ("http://127.0.0.1:80/a/b", "http://127.0.0.1/a/b"),
    ],
)
def test_an_address(url, base):
    assert Target.parse(url).base == base


@pytest.mark.parametrize(
    "url", ["", "r.example", "ftp://r", "https://", "https://u:p@r", "https://r?x", "https://r#x", "https://r:x", "https://r/ x"]
)
def test_what_is_no_address(url):
    with pytest.raises(ValueError, match=r"expected|Port|port|Invalid"):
        Target.parse(url)


FRONT = Front(Target("https", "r.example", 8443, "/hub"))
ASKED = "/hub/v2/nora-doctor/x/blobs/uploads/"


@pytest.mark.parametrize(
    ("location", "is_right"),
    [
        (ASKED + "1", True),
        ("https://r.example:8443" + ASKED + "1", True),
        ("http://r.example:8443" + ASKED + "1", False),
        ("https://r.example" + ASKED + "1", False),
        ("https://127.0.0.1:4000" + ASKED + "1", False),
        ("/v2/nora-doctor/x/blobs/uploads/1", False),
        ("", False),
    ],
)
def test_a_location(location, is_right):
    found = list(judge_location(FRONT, location, FRONT.resolve(location, ASKED), ASKED, ("line",)))
    assert [finding.verdict for finding in found] == ([] if is_right else [WRONG])


DIGEST = hash_of([b"layer"])
GOOD = {"Docker_Content_Digest": DIGEST, "ETag": f'"{DIGEST}"'}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(200, headers(**GOOD), size=5, digest=DIGEST), ""),
        (Answer(200, headers(**GOOD, X_Accel_Redirect="/_nora/blobs/x"), size=0), "X-Accel-Redirect reaches the client and no bytes do"),
        (Answer(200, headers(**GOOD, X_Accel_Redirect="/_nora/blobs/x"), size=5, digest=DIGEST), "X-Accel-Redirect reaches the client:"),
        (Answer(200, headers(**GOOD, Content_Encoding="gzip"), size=5, digest=DIGEST), "the proxy compresses layers (gzip)"),
        (Answer(200, headers(**GOOD), size=3, cut="2 bytes are missing"), "a layer ends after 3 of 5 bytes: 2 bytes are missing"),
        (Answer(200, headers(**GOOD), size=0), "a layer ends after 0 of 5 bytes: the answer says that this is all"),
        (Answer(200, headers(**GOOD), size=5, digest="sha256:0"), "other bytes come back"),
        (Answer(200, headers(ETag=GOOD["ETag"]), size=5, digest=DIGEST), "Docker-Content-Digest is missing"),
        (Answer(200, headers(Docker_Content_Digest=DIGEST, ETag=f'W/"{DIGEST}"'), size=5, digest=DIGEST), "ETag is W/"),
        (Answer(502, headers(Server="nginx")), "of a layer: 502 (nginx)"),
    ],
)
def test_a_pull(answer, text):
    found = judge_pull(answer, DIGEST, 5)
    assert (found.verdict, text in found.text, bool(found.remedy)) == ((WRONG, True, True) if text else (OK, True, False))


def seen(client: str, url: str, forwarded: str) -> dict[str, str]:
    return {"client": client, "url": url, "forwarded": forwarded}


@pytest.mark.parametrize(
    ("what", "verdicts"),
    [
        (seen("192.0.2.7", "https://r.example:8443/hub", "trusted"), [OK, OK]),
        (seen("203.0.113.9", "https://r.example:8443/hub", "trusted"), [OK, OK]),  # as the proxy sees it, behind NAT
        (seen("192.0.2.7", "https://r.example:8443/hub", "none"), [OK, OK]),
        (seen("10.0.0.2", "https://r.example:8443/hub", "none"), [WRONG, OK]),
        (seen("10.0.0.2", "https://r.example:8443/hub", "untrusted"), [WRONG, OK]),
        (seen("192.0.2.7", "http://r.example:8443/hub", "trusted"), [OK, WRONG]),
        (seen("192.0.2.7", "https://r.example/hub", "trusted"), [OK, WRONG]),
        (seen("192.0.2.7", "https://r.example:8443", "trusted"), [OK, WRONG]),
    ],
)
def test_what_the_registry_sees(what, verdicts):
    found = list(proxy.judge_address(what, "192.0.2.7", FRONT.target))
    assert [finding.verdict for finding in found] == verdicts
    assert all(finding.remedy for finding in found if finding.verdict == WRONG)


@pytest.mark.parametrize(
    ("what", "checks"),
    [
        (seen("192.0.2.7", "https://r.example", "trusted"), [("forged headers", OK)]),
        (seen(proxy.FORGED_ADDRESS, "https://r.example", "trusted"), [("forged address", WRONG)]),
        (seen("192.0.2.7", f"http://{proxy.FORGED_HOST}", "trusted"), [("forged host", WRONG)]),
        ({}, []),
    ],
)
def test_what_became_of_forged_headers(what, checks):
    assert told(proxy.judge_forgery(what)) == checks


def test_a_name_that_the_registry_refuses_on_loopback_is_told_with_what_to_change():
    body = json.dumps({"errors": [{"code": "DENIED", "message": UnknownHost.default_message}]}).encode()
    front = SimpleNamespace(target=Target("https", "r.example", 443, ""), authorization=None, ask=lambda *_, **__: Answer(403, headers(), body))
    (found,) = proxy.reachable(front, HEALTH)
    assert (found.verdict, "the name r.example is refused" in found.text) == (WRONG, True)
    assert any("proxy_set_header X-Forwarded-For" in line for line in found.remedy)
    assert any('server.public_url = "https://r.example"' in line for line in found.remedy)


@pytest.mark.parametrize(("host", "verdicts"), [("10.0.0.5", [WARNING]), ("r.example", [WARNING]), ("127.0.0.1", []), ("localhost", [])])
def test_a_front_without_tls(host, verdicts):
    assert [finding.verdict for finding in proxy.transport(Front(Target("http", host, 80, "")))] == verdicts


def test_who_spoke_is_told():
    ours = Answer(401, headers(), b'{"errors": [{"code": "DENIED", "message": "no"}]}')
    assert (ours.is_ours, ours.told()) == (True, "401: no")
    for body in (b"<html>", b"[]", b"\xff", b"{}", b"[" * 100_000):
        assert not Answer(502, headers(), body).is_ours
    assert Answer(502, headers(Via="1.1 Caddy")).told() == "502 (1.1 Caddy)"
    assert Answer(200, headers(), b'{"errors": 1}').told() == "200"


@pytest.mark.parametrize("size", [100, 65536, 65537, 300_000])
def test_a_layer_is_the_same_each_time_and_in_parts(size):
    layer = Layer("x", size)
    whole = b"".join(layer.pieces())
    assert len(whole) == size
    assert whole == b"".join(Layer("x", size).pieces()) != b"".join(Layer("y", size).pieces())
    assert b"".join(layer.pieces(0, 65536)) + b"".join(layer.pieces(65536)) == whole


# ---- the command line


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--user", "alice"], 2),
        (["--password-file", "x"], 2),
        (["--user", "a", "--password-file", "x", "--token-file", "y"], 2),
        (["--user", "a:b", "--password-file", "x"], 2),
        (["--token-file", "no-such-file"], 1),
    ],
)
def test_a_login_that_cannot_be_used(options, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *options]) == code
    out, err = capsys.readouterr()
    assert (out, err.startswith("nora: ")) == ("", True)


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff", b"a b", b"\x00"])
def test_a_file_that_holds_no_token(content, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_bytes(content)
    assert main(["doctor", "--token-file", "token"]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--public-url", "registry"],
        ["--public-url", "https://u:secret@registry"],
        *(["--size", text] for text in ("0", "1", "8X", "-1M", "1000G", "")),
        *(["--pause", text] for text in ("-1", "x", "nan", "4000")),
    ],
)
def test_options_that_are_none(options, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *options])
    assert ended.value.code == 2
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("utf-8", "✗ disk: full … é"), ("ascii", "WRONG disk: full ... ?"), ("iso-8859-1", "WRONG disk: full ... é")],
)
def test_a_terminal_that_knows_no_signs(encoding, text):
    assert _writable("✗ disk: full … é", encoding) == text


def test_where_nothing_is_there(tmp_path, monkeypatch, capsys):
    """Each check has its line, and there is no traceback."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("NORA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NORA_PORT", "1")
    assert main(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    for line in (
        "✓ configuration: ",
        "✗ storage folder: data/storage is not there",
        "✗ state folder: data/state is not there",
        "✗ server: no answer on 127.0.0.1:1",
        "✓ policy: mode off",
    ):
        assert line in out
