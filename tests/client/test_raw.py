"""Files with the programs that people have: curl, wget, sha256sum, a browser."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from noraflask.formats.raw.doctor import CHECKS
from noraflask.services.doctor.findings import OK
from noraflask.services.doctor.format_checks import Context
from noraflask.services.doctor.front import Front, Target
from tests.client.browser import browser
from tests.client.conftest import Registry
from tests.client.tools import Client
from tests.server import Server, wait_until

MIB = 1 << 20
DATA = bytes(range(256)) * 16384


@pytest.fixture
def curl(tmp_path: Path) -> Client:
    client = Client("curl", tmp_path / "curl", "-sS")
    (client.home / "app.bin").write_bytes(DATA)
    return client


@pytest.fixture
def wget(tmp_path: Path) -> Client:
    return Client("wget", tmp_path / "wget")


@pytest.fixture
def address(registry: Registry, request: pytest.FixtureRequest) -> str:
    """A folder for each test."""
    return f"http://{registry.address}/raw/{request.node.name.translate(str.maketrans('[]', '--'))}"


def fields(head: str) -> dict[str, str]:
    """By lower-case name, of an answer as `curl -I` prints it; the last one where there are several."""
    lines = head.replace("\r", "").strip().rpartition("\n\n")[2].splitlines()
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])} | {"status": lines[0].split()[1]}


def test_curl_pushes_and_pulls(curl: Client, address: str) -> None:
    curl("-f", "-T", "app.bin", f"{address}/")  # curl adds the file's name
    curl("-f", "-o", "back.bin", f"{address}/app.bin")
    assert (curl.home / "back.bin").read_bytes() == DATA
    curl("-f", "-T", "app.bin", f"{address}/app.bin")
    (curl.home / "other.bin").write_bytes(b"other")
    assert "409" in curl.refused("-f", "-T", "other.bin", f"{address}/app.bin")
    etag = fields(curl("-f", "-I", f"{address}/app.bin"))["etag"]
    curl("-f", "-T", "other.bin", "-H", f"If-Match: {etag}", f"{address}/app.bin")
    assert curl("-f", f"{address}/app.bin") == "other"
    curl("-f", "-X", "DELETE", f"{address}/app.bin")
    assert "404" in curl.refused("-f", f"{address}/app.bin")


def test_curl_from_a_pipe(curl: Client, address: str) -> None:
    curl("-f", "-T", "-", f"{address}/piped", stdin=DATA)
    assert curl.run(f"{address}/piped").stdout == DATA


def test_a_refused_body_is_not_sent(curl: Client, address: str) -> None:
    """curl waits for 100 Continue before it sends more than a megabyte."""
    curl("-f", "-T", "app.bin", f"{address}/a")
    (curl.home / "longer.bin").write_bytes(DATA + b"x")
    told = curl("-T", "longer.bin", "-o", "answer", "-w", "%{http_code} %{size_upload}", f"{address}/a").split()
    assert told == ["409", "0"]
    assert "If-Match" in (curl.home / "answer").read_text()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "sha1", "md5"])
def test_checksum_programs_read_sidecars(curl: Client, address: str, algorithm: str) -> None:
    curl("-f", "-T", "app.bin", f"{address}/app.bin")
    line = curl("-f", f"{address}/app.bin.{algorithm}")
    program = Client(f"{algorithm}sum", curl.home)
    assert program("-c", "-", stdin=line.encode()) == "app.bin: OK\n"
    (curl.home / "app.bin").write_bytes(DATA[1:])
    assert "FAILED" in program.refused("-c", "-", stdin=line.encode())


def test_curl_goes_on_with_a_broken_push(curl: Client, address: str) -> None:
    """Cut in the middle by a time limit, then resumed from the offset that HEAD tells."""
    (curl.home / "large.bin").write_bytes(DATA * 8)
    cut = curl.run("-f", "-T", "large.bin", "--limit-rate", "4M", "--max-time", "2", f"{address}/large.bin")
    assert cut.returncode == 28
    wait_until(lambda: "upload-offset" in fields(curl("-I", f"{address}/large.bin")), 10, "the server to notice")
    offset = fields(curl("-I", f"{address}/large.bin"))["upload-offset"]
    assert 0 < int(offset) < len(DATA) * 8
    sent = curl("-f", "-C", offset, "-T", "large.bin", "-w", "%{size_upload}", f"{address}/large.bin")
    assert int(sent) == len(DATA) * 8 - int(offset)
    curl("-f", "-o", "back.bin", f"{address}/large.bin")
    assert (curl.home / "back.bin").read_bytes() == DATA * 8


def test_curl_and_wget_go_on_with_a_broken_pull(curl: Client, wget: Client, address: str) -> None:
    curl("-f", "-T", "app.bin", f"{address}/app.bin")
    for client, arguments in ((curl, ("-f", "-C", "-", "-o", "part.bin")), (wget, ("-q", "-c", "-O", "part.bin"))):
        (client.home / "part.bin").write_bytes(DATA[:MIB])
        client(*arguments, f"{address}/app.bin")
        assert (client.home / "part.bin").read_bytes() == DATA


def test_wget_gets_a_whole_folder(curl: Client, wget: Client, address: str) -> None:
    for path in ("a.bin", "deep/er/b.bin", "deep/c d.bin"):
        curl("-f", "-T", "app.bin", f"{address}/{path}".replace(" ", "%20"))
    wget("-q", "-r", "-np", "-nH", "--cut-dirs=2", "--header", "Accept: text/html", "-R", "index.html*", f"{address}/")
    found = {str(path.relative_to(wget.home)) for path in wget.home.rglob("*.bin")}
    assert found == {"a.bin", "deep/er/b.bin", "deep/c d.bin"}
    assert (wget.home / "deep/er/b.bin").read_bytes() == DATA


def test_wget_pushes(wget: Client, address: str) -> None:
    (wget.home / "a").write_bytes(b"by wget")
    wget("-q", "-O", "-", "--method=PUT", "--body-file=a", f"{address}/a")
    assert wget("-q", "-O", "-", f"{address}/a") == "by wget"


def test_a_person_looks_around_and_saves_a_file(curl: Client, address: str, tmp_path: Path) -> None:
    curl("-f", "-T", "app.bin", f"{address}/tools/app.bin")
    curl("-f", "-T", "-", f"{address}/tools/%3Cb%3E%20%22x%22.html", stdin=b"<script>document.title = 'run'</script>")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with browser(downloads) as person:
        person.go(f"{address}/")
        assert person.links == ["../", "tools/"]
        person.click("tools/")
        assert person.url == f"{address}/tools/"
        assert person.title.endswith("/tools/")
        assert person.links == ["../", '<b> "x".html', "app.bin"]
        person.click("app.bin")
        wait_until(lambda: (downloads / "app.bin").exists(), 20, "the file to be saved")
        assert (downloads / "app.bin").read_bytes() == DATA
        person.click('<b> "x".html')
        wait_until(lambda: len(list(downloads.iterdir())) == 2, 20, "the page to be saved and not shown")
        assert person.title.endswith("/tools/")
        person.click("../")
        assert person.url == f"{address}/"


def test_the_commands_of_the_setup_page_work(own_server: Callable[..., Server], curl: Client) -> None:
    with own_server() as server:
        page = curl("-f", f"http://{server.address}/setup/raw")
        (curl.home / "app-1.0.tar.gz").write_bytes(DATA)
        script = "set -e\n" + page.replace("curl -fn -X DELETE", "true #")
        done = subprocess.run(["bash", "-c", script], cwd=curl.home, env=curl.env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "app-1.0.tar.gz: OK" in done.stdout
        assert '"name": "app-1.0.tar.gz"' in done.stdout


def test_the_doctor_puts_a_file_through_the_front(own_server: Callable[..., Server]) -> None:
    with own_server() as server:
        front = Front(Target.parse(f"http://{server.address}"))
        for check in CHECKS.checks:
            findings = list(check.run(Context(front, MIB, 0)))
            assert [finding.verdict for finding in findings] == [OK] * 4, findings
        assert front.ask("GET", "/raw/").json() == {"path": "", "folders": [], "files": [], "next": None}


def test_where_files_are_off_the_doctor_has_nothing_to_say(own_server: Callable[..., Server]) -> None:
    with own_server(env={"NORA_RAW_ENABLED": "false"}) as server:
        front = Front(Target.parse(f"http://{server.address}"))
        assert [(finding.verdict, finding.text) for finding in CHECKS.checks[0].run(Context(front, MIB, 0))] == [(OK, "are not served here")]
