"""[[repositories]]: what a table may say, what it has of its format's section, and what repositories may not be beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from noraflask.config import Config, ConfigError, is_live, load, reload, restart_only
from noraflask.config import document as doc
from noraflask.config.repositories import RESERVED, own_settings
from noraflask.ecosystems import ECOSYSTEMS
from noraflask.ecosystems.docker import HUB_HOSTS

PATHS = '[storage]\npath = "/s"\n[state]\npath = "/t"\n'
TEAM = '[[repositories]]\nname = "team"\nformat = "docker"\n'
FILES = '[[repositories]]\nname = "files"\nformat = "raw"\n'


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def from_text(text: str, environ=None) -> Config:
    Path("config.toml").write_text(text)
    return load(environ=environ or {})


def problems(text: str, environ=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_text(text, environ)
    return caught.value.problems


def test_without_tables_there_are_none():
    assert Config().repositories == ()
    assert load(environ={}).sources["repositories"] == "default"


def test_a_table_is_taken():
    text = (
        TEAM + 'kind = "Hosted"\ntitle = "The team\'s"\nhosts = ["Images.Example.com", "localhost:5000", "[2001:db8::1]:443"]\nns = "docker.io"\n'
        "max_upload_session_size_mb = 5\n" + FILES.replace('"raw"', '"RAW"')
    )
    team, files = from_text(text).repositories
    assert (team.name, team.format, team.kind, team.title, team.place) == ("team", "docker", "hosted", "The team's", "config.toml:1")
    assert team.hosts == ("images.example.com", "localhost:5000", "[2001:db8::1]:443")
    assert team.ns == ("docker.io",)
    assert (files.name, files.format, files.kind, files.hosts, files.own) == ("files", "raw", "hosted", (), ())
    assert from_text(text).sources["repositories"] == "config.toml:1"


def test_what_a_repository_says_wins_over_the_section_and_the_environment():
    text = "[docker]\nchunk_min_bytes = 7\nmax_upload_session_size_mb = 8\n" + TEAM + "max_upload_session_size_mb = 5\n"
    config = from_text(text, {"NORA_DOCKER_CHUNK_MIN_BYTES": "9"})
    settings = config.repositories[0].settings
    assert (settings.max_upload_session_size_mb, settings.chunk_min_bytes) == (5, 9)
    assert config.formats["docker"].max_upload_session_size_mb == 8


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("max_file_size = 1", "max_file_size", 1),
        ('cache_control = "no-store"', "cache_control", "no-store"),
        ('overwrite = "never"', "overwrite", "never"),
        ("listing = false", "listing", False),
    ],
)
def test_every_setting_of_raw_may_be_a_repositorys_own(line, field, value):
    assert getattr(from_text(FILES + line).repositories[0].settings, field) == value


def test_every_own_setting_is_tried():
    assert {entry.key for entry in own_settings("raw")} == {"max_file_size", "cache_control", "overwrite", "listing"}
    assert {entry.key for entry in own_settings("docker")} == {"max_upload_session_size_mb", "chunk_min_bytes", "sparse_indexes"}
    assert own_settings("npm") == ()


@pytest.mark.parametrize("name", ["a", "0", "team-images", "a.b_c", "a__b", "a" * 64, "v4", "npm-hosted"])
def test_names(name):
    assert from_text(TEAM.replace("team", name)).repositories[0].name == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "a b", "_a", ".a", "a..b", "a._b", "a___b", "a" * 65, "ä", "a\\n", "*", "a:b", "a@b"])
def test_what_is_no_name(name):
    (line,) = problems(TEAM.replace("team", name))
    assert line.startswith("config.toml:2: repositories[1].name: expected 1 to 64 small letters and digits, parted by one of . _ __ -")


TAKEN_WORDS = sorted(
    {*RESERVED, *HUB_HOSTS, *(word for ecosystem in ECOSYSTEMS.values() for word in (ecosystem.id, *ecosystem.aliases, *ecosystem.reserved))}
)


@pytest.mark.parametrize("name", [word for word in TAKEN_WORDS if "/" not in word])
def test_words_of_the_servers_own_are_no_names(name):
    (line,) = problems(FILES.replace("files", name))
    assert line.startswith("config.toml:2: repositories[1].name: is a word of the server's own; take another name")


REFUSED = [
    ('kind = "proxy"', ".kind: proxy comes with a later version, expected hosted"),
    ('kind = "Group"', ".kind: group comes with a later version, expected hosted"),
    ('kind = "virtual"', '.kind: expected hosted, got the string "virtual"'),
    ("kind = 1", ".kind: expected hosted, as a string, got the number 1"),
    ('title = "a\\nb"', ".title: expected 1 to 255 printable characters"),
    ('hosts = "a/b"', ".hosts: expected host names such as images.example.com or localhost:5000"),
    ('hosts = ["a", "b:0"]', ".hosts: entry 2: expected host names"),
    ('hosts = ["a:99999"]', ".hosts: entry 1: expected host names"),
    ('hosts = ["[::g]"]', ".hosts: entry 1: expected host names"),
    ('ns = ["https://docker.io"]', ".ns: entry 1: expected host names"),
    ("max_upload_session_size_mb = 0", ".max_upload_session_size_mb: expected a whole number from 1 to 1048576, got the number 0"),
    ("max_upload_session_size = 1", ".max_upload_session_size: unknown key, did you mean max_upload_session_size_mb?"),
    ("enabled = false", ".enabled: unknown key, valid are name, format, kind, title, hosts, ns, max_upload_session_size_mb, chunk_min_bytes"),
    ("max_upload_sessions = 1", ".max_upload_sessions: unknown key, did you mean max_upload_session_size_mb?"),
    ("listing = true", ".listing: unknown key, valid are "),
    ("host = 1", ".host: unknown key, did you mean hosts?"),
    ("place = 1", ".place: unknown key, "),
    ("own = 1", ".own: unknown key, "),
    ("settings = 1", ".settings: unknown key, "),
]


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_a_mistake_has_its_line_and_the_number_of_its_table(line, message):
    (told,) = problems(FILES + TEAM + line + "\n")
    assert told.startswith(f"config.toml:7: repositories[2]{message}")


def test_what_is_missing_is_told():
    assert problems('[[repositories]]\ntitle = "x"\n') == [
        "config.toml:1: repositories[1].name: is missing, expected 1 to 64 small letters and digits, parted by one of . _ __ -",
        "config.toml:1: repositories[1].format: is missing, expected a format that this version serves",
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("npm", "the format npm is not supported by this version, expected docker or raw"),
        ("Maven2", "the format maven is not supported by this version, expected docker or raw"),
        ("dokcer", 'expected docker or raw, got the string "dokcer"'),
    ],
)
def test_only_a_format_that_is_served_is_one(word, message):
    (line,) = problems(TEAM.replace('"docker"', f'"{word}"'))
    assert line == f"config.toml:3: repositories[1].format: {message}"


def test_any_name_of_the_format_will_do():
    assert from_text(TEAM.replace('"docker"', '"OCI"')).repositories[0].format == "docker"


@pytest.mark.parametrize("source", ["NORA_DOCKER_ENABLED", "NORA_REGISTRIES_ENABLE"])
def test_a_repository_of_a_format_that_is_off_is_refused(source):
    (line,) = problems(TEAM, {source: "false" if source.endswith("ENABLED") else "raw"})
    assert line == (f"config.toml:1: repositories[1].format: docker is switched off (by {source}); switch it on, or take the repository out")


def test_what_belongs_to_one_is_refused_to_another_with_both_places():
    text = TEAM + 'hosts = ["a", "b"]\nns = "c"\n' + TEAM.replace("team", "other") + 'hosts = ["x", "B"]\nns = ["c"]\n' + TEAM
    assert problems(text) == [
        "config.toml:6: repositories[2].hosts: b is that of repositories[1] (config.toml:1) as well",
        "config.toml:6: repositories[2].ns: c is that of repositories[1] (config.toml:1) as well",
        "config.toml:11: repositories[3].name: is that of repositories[1] (config.toml:1) as well",
    ]


def test_a_host_may_serve_a_repository_of_each_format():
    assert len(from_text(TEAM + 'hosts = "a"\n' + FILES + 'hosts = "a"\n').repositories) == 2


def test_a_host_twice_in_one_table_is_there_once():
    assert from_text(TEAM + 'hosts = ["a", "A"]\n').repositories[0].hosts == ("a",)


def test_their_number_is_bounded():
    tables = [TEAM.replace("team", f"t{number}") for number in range(1001)]
    assert len(from_text("".join(tables[:1000])).repositories) == 1000
    assert problems("".join(tables)) == ["config.toml:1: repositories: expected at most 1000 tables [[repositories]], got 1001"]


def test_they_are_taken_over_by_a_reload():
    before = from_text(PATHS + TEAM)
    Path("config.toml").write_text(
        PATHS + TEAM + "chunk_min_bytes = 9\n" + FILES + "[docker]\nmax_upload_session_size_mb = 7\n[raw]\nlisting = false\n"
    )
    after = reload(before, {})
    assert [repository.name for repository in after.repositories] == ["team", "files"]
    assert after.repositories[0].settings.max_upload_session_size_mb == 7
    assert restart_only(before, after) == []
    assert is_live("repositories")
    assert not is_live("docker.enabled")
    assert not is_live("raw.enabled")
    assert not is_live("docker.max_upload_sessions")


def test_what_is_printed_is_the_same_configuration_again():
    text = PATHS + TEAM + 'hosts = ["a:1"]\ntitle = "\\"T\\""\nchunk_min_bytes = 65536\n' + FILES + 'overwrite = "always"\nlisting = false\n'
    config = from_text(text)
    printed = doc.effective(config)
    again = from_text(printed)
    assert again == config
    assert [one.settings for one in again.repositories] == [one.settings for one in config.repositories]
    assert "\n# repositories: 2, from config.toml:5\n" in printed
    assert 'hosts = ["a:1"]\nchunk_min_bytes = 65536\n' in printed


@pytest.mark.parametrize("text", ['repositories = "x"', "repositories = [1]", "[repositories]\nname = 1", "repositories = 1"])
def test_what_is_no_array_of_tables_is_refused(text):
    assert problems(text)[0].startswith("config.toml:1: repositories: expected at most 1000 tables [[repositories]]")


def test_a_place_is_no_part_of_equality():
    assert from_text(TEAM).repositories == from_text("\n\n" + TEAM).repositories
