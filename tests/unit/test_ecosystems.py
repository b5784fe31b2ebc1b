"""Names, versions and ranges of every format, as tables; the orders are those of the ecosystems' own documents."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noraflask.ecosystems import ECOSYSTEMS, ecosystem_of, find
from noraflask.services.curation.patterns import Pattern


def in_one_form(format: str, pattern: str, what: str) -> str:
    ecosystem = ecosystem_of(format)
    return ecosystem.name_pattern(pattern) if what == "name" else ecosystem.version_pattern(pattern)


RANGED = [name for name in ECOSYSTEMS if name not in ("raw", "hf")]


def test_formats_have_many_spellings():
    assert [find(name.upper()) for name in ECOSYSTEMS] == list(ECOSYSTEMS.values())
    assert all(find(f" {alias.title()} ") is ecosystem for ecosystem in ECOSYSTEMS.values() for alias in ecosystem.aliases)
    assert find("nmp") is None
    assert find("*") is None


def test_no_word_means_two_formats():
    words = [word for ecosystem in ECOSYSTEMS.values() for word in (ecosystem.id, *ecosystem.aliases)]
    assert len(words) == len(set(words))
    assert words == [word.lower() for word in words]
    names = [name for ecosystem in ECOSYSTEMS.values() for name in ecosystem.osv]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("format", "canonical", "spellings"),
    [
        ("docker", "nginx", ["library/nginx", "docker.io/nginx", "docker.io/library/nginx", "index.docker.io/library/nginx"]),
        ("docker", "nginx", ["registry-1.docker.io/nginx", "Docker.IO/Library/Nginx"]),
        ("docker", "corp/app", ["docker.io/corp/app", "Corp/App"]),
        ("docker", "library/a/b", ["library/a/b"]),
        ("docker", "ghcr.io/a/b", ["ghcr.io/a/b"]),
        ("docker", "library/", ["library/"]),
        ("docker", "docker.io/", ["docker.io/"]),
        ("maven", "com.Corp:lib", ["com.Corp:lib"]),
        ("npm", "@Corp/Lib", ["@Corp/Lib"]),
        ("cargo", "serde-json", ["serde_json", "Serde-JSON"]),
        ("pypi", "my-pkg", ["My_Pkg", "my.pkg", "my-_.pkg", "MY--PKG"]),
        ("go", "github.com/Azure/x", ["github.com/!azure/x", "github.com/Azure/x"]),
        ("raw", "A/b.TXT", ["A/b.TXT"]),
        ("gems", "Rails", ["Rails"]),
        ("terraform", "hashicorp/aws", ["HashiCorp/AWS"]),
        ("ansible", "community.general", ["community.general"]),
        ("nuget", "newtonsoft.json", ["Newtonsoft.Json"]),
        ("pub", "http", ["http"]),
        ("conan", "zlib", ["zlib"]),
        ("rpm", "ImageMagick", ["ImageMagick"]),
        ("deb", "libc6", ["libc6"]),
        ("cpan", "Foo-Bar", ["Foo-Bar"]),
        ("hf", "bert/base", ["BERT/Base"]),
        ("unknown", "A_b", ["A_b"]),
    ],
)
def test_spellings_of_one_name(format, canonical, spellings):
    assert {ecosystem_of(format).same_name(name) for name in spellings} == {canonical}
    assert ecosystem_of(format).same_name(canonical) == canonical


@pytest.mark.parametrize(
    ("format", "canonical", "spellings"),
    [
        ("npm", "1.2.3", ["v1.2.3", "=1.2.3", "= v1.2.3", "1.2.3+build.5"]),
        ("npm", "1.2.3-rc.1", ["v1.2.3-rc.1+x"]),
        ("npm", "latest", ["latest"]),
        ("npm", "1.2", ["1.2"]),
        ("cargo", "1.2.3+b", ["1.2.3+b"]),
        ("pypi", "1.0.0", ["1", "1.0", "v1.0", "1.0.0", "1.0.0.0.0", "01.0"]),
        ("pypi", "1.0.0.post1", ["1.0-1", "1.0.post1", "1.0.0-r1"]),
        ("pypi", "1.0.0rc1", ["1.0-RC1", "1.0c1", "1.0.0.pre.1"]),
        ("pypi", "1!2.0.0+ubuntu.1", ["1!2+Ubuntu-1"]),
        ("pypi", "1.2.3.4.dev0", ["1.2.3.4.0.dev"]),
        ("pypi", "not a version", ["not a version"]),
        ("go", "v1.2.0", ["v1.2", "v1.2.0", "v1.2.0+meta", "1.2.0"]),
        ("go", "v2.0.0+incompatible", ["v2.0.0+incompatible"]),
        ("go", "v0.0.0-20210101000000-abcdef012345", ["v0.0.0-20210101000000-abcdef012345"]),
        ("go", "master", ["master"]),
        ("nuget", "1.0.0", ["1", "1.0", "1.0.0", "1.0.0.0", "01.00.0", "1.0.0+meta"]),
        ("nuget", "1.0.0-beta", ["1.0-Beta", "1.0.0.0-BETA+x"]),
        ("nuget", "1.2.3.4", ["1.2.3.4", "1.2.3.04"]),
        ("pub", "1.2.3+4", ["1.02.3+4"]),
        ("terraform", "1.2.0", ["1.2.0"]),
        ("docker", "sha256:" + "ab" * 32, ["sha256:" + "AB" * 32]),
        ("docker", "Latest", ["Latest"]),
        ("maven", "1.0-SNAPSHOT", ["1.0-SNAPSHOT"]),
        ("gems", "1.15.0-x86_64-linux", ["1.15.0-x86_64-linux"]),
        ("hf", "abcdef", ["ABCDEF"]),
        ("rpm", "1:1.2-3.el9", ["1:1.2-3.el9"]),
    ],
)
def test_spellings_of_one_version(format, canonical, spellings):
    assert {ecosystem_of(format).same_version(version) for version in spellings} == {canonical}
    assert ecosystem_of(format).same_version(canonical) == canonical


@pytest.mark.parametrize(
    ("format", "what", "pattern", "canonical"),
    [
        ("pypi", "name", "Corp.**", "corp-**"),
        ("pypi", "name", "Corp_*", "corp-*"),
        ("pypi", "name", "*", "*"),
        ("pypi", "name", "My_Pkg", "my-pkg"),
        ("cargo", "name", "Corp_*_x", "corp-*-x"),
        ("nuget", "name", "Corp.**", "corp.**"),
        ("maven", "name", "com.Corp.**", "com.Corp.**"),
        ("npm", "name", "@Corp/**", "@Corp/**"),
        ("go", "name", "github.com/!corp/**", "github.com/Corp/**"),
        ("docker", "name", "docker.io/Corp/**", "corp/**"),
        ("docker", "name", "library/**", "./*"),
        ("docker", "name", "docker.io/library/ngin*", "./ngin*"),
        ("docker", "name", "docker.io/**", "**"),
        ("docker", "name", "library/nginx", "nginx"),
        ("docker", "version", "1.25*", "1.25*"),
        ("docker", "version", "SHA256:AB*", "sha256:ab*"),
        ("npm", "version", "v1.*", "1.*"),
        ("go", "version", "1.2.*", "v1.2.*"),
        ("go", "version", "v1.2", "v1.2.0"),
        ("pypi", "version", "1.0*-alpha*", "1.0*a*"),
        ("pypi", "version", "1.0", "1.0.0"),
        ("nuget", "version", "*-BETA*", "*-beta*"),
    ],
)
def test_patterns_take_the_same_form(format, what, pattern, canonical):
    assert in_one_form(format, pattern, what) == canonical
    assert in_one_form(format, canonical, what) == canonical


@pytest.mark.parametrize(
    ("format", "pattern", "inside", "outside"),
    [
        ("pypi", "corp.**", ["Corp", "corp_x", "corp--x"], ["corporation"]),
        ("docker", "library/*", ["nginx", "docker.io/library/nginx"], ["corp/nginx"]),
        ("docker", "index.docker.io/corp/*", ["corp/x"], ["nginx"]),
        ("cargo", "corp_*", ["Corp-x", "corp_x"], ["corp"]),
    ],
)
def test_patterns_meet_names(format, pattern, inside, outside):
    parsed = Pattern.parse(ecosystem_of(format).name_pattern(pattern))
    assert all(parsed.matches(ecosystem_of(format).same_name(name)) for name in inside)
    assert not any(parsed.matches(ecosystem_of(format).same_name(name)) for name in outside)


@pytest.mark.parametrize("version", ["1", "1.0", "1.0.0", "1.0.1", "1.0rc1", "1.0.post1"])
def test_a_pypi_pattern_meets_short_versions(version):
    assert Pattern.parse(ecosystem_of("pypi").version_pattern("1.0.*")).matches(ecosystem_of("pypi").same_version(version))


@pytest.mark.parametrize(
    ("format", "good", "bad"),
    [
        ("docker", ["latest", "1.2", "sha256:" + "0" * 64], ["", "a b", "-x", "sha256:xyz", "x" * 129]),
        ("npm", ["1.2.3", "1.2.3-rc.1"], ["1.2", "latest", "1.2.3.4", "1.2.3-", "\u0661.2.3"]),
        ("cargo", ["0.1.0"], ["0.1"]),
        ("pypi", ["1", "1.0rc1", "1!2"], ["x", "1.0-foo"]),
        ("maven", ["1.0", "1.0-SNAPSHOT", "r09"], ["", "a b", "a/b"]),
        ("gems", ["1.0", "1.0.pre", "1.0-java"], ["a", "1..0"]),
        ("nuget", ["1.0", "1.2.3.4-a"], ["1.2.3.4.5", "x"]),
        ("go", ["v1.2.3", "v1"], ["master", "v1.2.3.4"]),
        ("pub", ["1.0.0+1"], ["1.0"]),
        ("terraform", ["1.2.3", "v1.2"], ["x"]),
        ("ansible", ["1.2.3"], ["1.2"]),
        ("conan", ["1.2", "cci.20200101", "1.1.1w"], ["[>1]", "a b"]),
        ("rpm", ["1.2-3.el9", "1:2~rc1-1"], ["1-2-3", "a b"]),
        ("deb", ["1:1.2-3ubuntu1~22.04", "2.0~rc1"], ["~1", "a b", "x:1"]),
        ("cpan", ["1.23", "v1.2.3", "1.2_3"], ["x", ""]),
        ("hf", ["main", "0a1b"], ["", "a b"]),
        ("raw", [], ["1.0"]),
        ("unknown", [], ["1.0"]),
    ],
)
def test_what_is_a_version(format, good, bad):
    assert [version for version in good if not ecosystem_of(format).is_version(version)] == []
    assert [version for version in bad if ecosystem_of(format).is_version(version)] == []


@pytest.mark.parametrize(
    ("format", "ascending"),
    [
        ("npm", "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1 1.10.0 2.0.0"),
        ("pub", "1.0.0-a 1.0.0 1.0.0+1 1.0.0+2 1.0.0+10 1.0.1"),
        ("go", "v0.0.0-20200101000000-abcdef012345 v0.0.0-20210101000000-0bcdef012345 v1.2.0-pre v1.2 v1.2.1 v2.0.0+incompatible"),
        ("pypi", "1.0.dev1 1.0a1 1.0b2 1.0rc1 1.0 1.0+local 1.0.post1 1.1 1!0.5"),
        ("nuget", "1.0.0-alpha 1.0.0-Beta 1.0.0 1.0.0.1 1.0.1 1.10"),
        ("gems", "1.a.b 1.a.0.b 1.a.0.0.b 1.a 1.a.0.1 1.a.1 1"),
        ("gems", "1.0.a 1.0.a.2 1.0.b1 1.0 1.0.1.pre 1.0.1 1.0.2-java 1.10"),
        ("maven", "1-alpha 1-beta 1-milestone 1-rc1 1-cr2 1-SNAPSHOT 1 1-sp 1-xyz 1-1 1.0.1 1.1"),
        ("maven", "1.0.RC2 1.0-RC3 1.0.1"),
        ("maven", "1-foo2 1-foo10 1-1 1.1 1.2-beta-2 1.2 1.2-foo 1.10"),
        ("maven", "2.0.0.Alpha1 2.0.0.Final 2.0.1.Final"),
        ("maven", "1-sp-1 1-ga-1"),
        ("maven", "1-ga.1 1-sp.1"),
        ("conan", "1.0-pre 1.0 1.0.1 1.1.1k 1.1.1w 1.1.10 1.2 cci.20200101 cci.20210101"),
        ("deb", "1.0~~ 1.0~~a 1.0~ 1.0 1.0-1 1.0-1ubuntu1 1.0-2 1.0a 1.0+dfsg 1.0.1 1.2 1.10 1:0.1"),
        ("rpm", "1.0~rc1 1.0 1.0^git1 1.0.a 1.0.1 1.0.10 1.1-1 1.1-2.el9 1.10 1:0"),
        ("cpan", "1.02 1.1 1.10_01 1.2 1.21 v1.500.0 2"),
        ("docker", "1.24 1.25.0-alpha1 1.25.0-beta2 v1.25.0-rc1 1.25-alpine 1.25.1-rc.2-slim 1.25.1 1.25.1.1 1.26 22.04 20240101"),
        ("docker", "3.13.0a1 3.13.0b2-slim 3.13.0rc1 3.13.0-bookworm 3.13.1"),
        ("terraform", "1.0.0-beta1 1.0.0 v1.2 1.2.1"),
        ("ansible", "1.0.0-a 1.0.0 1.0.1"),
        ("cargo", "0.1.0 0.2.0-rc.1 0.2.0"),
    ],
)
def test_order(format, ascending):
    versions = ascending.split()
    assert [pair for pair in pairwise(versions) if ecosystem_of(format).compare(*pair) != -1] == []
    assert [pair for pair in pairwise(versions) if ecosystem_of(format).compare(pair[1], pair[0]) != 1] == []


@pytest.mark.parametrize(
    ("format", "equal"),
    [
        ("maven", "1 1.0 1.0.0 1-ga 1.final 1.0.0-0.0.0 1. 1- 1-RELEASE"),
        ("maven", "1-a1 1-alpha-1 1.alpha1 1.0-ALPHA1"),
        ("maven", "1-rc 1-cr 1.0.0-RC"),
        ("gems", "1 1.0 1.0.0 1.0-x86_64-linux"),
        ("gems", "1.0.pre.1 1.0-1"),
        ("gems", "1.a 1.0.a.0 1.a.0.0"),
        ("nuget", "1 1.0.0.0 1.0.0+x"),
        ("npm", "1.2.3 v1.2.3+b"),
        ("deb", "1.0 1.0-0 0:1.0 1.00"),
        ("rpm", "1.0 1_0 0:1.0 1.00"),
        ("cpan", "1.002003 v1.2.3 1.2.3 1.002_003"),
        ("docker", "1.25 v1.25.0 1.25-alpine 1.25.0-slim-bookworm"),
        ("conan", "1 1.0 1.0.0"),
        ("pypi", "1.0 1.0.0 v1"),
    ],
)
def test_equal(format, equal):
    first, *others = equal.split()
    assert [other for other in others if ecosystem_of(format).compare(first, other) != 0] == []


def test_what_cannot_be_compared():
    assert ecosystem_of("docker").compare("latest", "1.0") is None
    assert ecosystem_of("npm").compare("1.0.0", "x") is None
    assert ecosystem_of("raw").compare("1", "2") is None


@pytest.mark.parametrize(
    ("format", "range", "inside", "outside"),
    [
        ("npm", "^1.2.3", "1.2.3 1.9.9 1.3.0-rc.1 v1.2.4+b", "1.2.2 1.2.3-rc.1 2.0.0 2.0.0-rc.1"),
        ("npm", "^0.2.3", "0.2.3 0.2.9", "0.3.0 0.3.0-a 0.2.2"),
        ("npm", "^0.0.3", "0.0.3", "0.0.4 0.0.2"),
        ("npm", "^0.0", "0.0.0 0.0.9", "0.1.0"),
        ("npm", "^0", "0.0.0 0.9.0", "1.0.0-a 1.0.0"),
        ("npm", "^1.x", "1.0.0 1.9.9", "0.9.9 2.0.0"),
        ("npm", "~1.2.3", "1.2.3 1.2.9", "1.3.0 1.3.0-a 1.2.2"),
        ("npm", "~1.2", "1.2.0 1.2.9", "1.3.0 1.1.9"),
        ("npm", "~1", "1.0.0 1.9.9", "2.0.0"),
        ("npm", "~>1.2.3", "1.2.3 1.2.9", "1.3.0"),
        ("npm", "1.x", "1.0.0 1.0.0-a 1.9.9", "2.0.0-a 0.9.9"),
        ("npm", "1.2.*", "1.2.0 1.2.9", "1.3.0"),
        ("npm", "1.2", "1.2.0 1.2.9", "1.3.0 1.1.9"),
        ("npm", "*", "0.0.0 99.0.0-a", ""),
        ("npm", "x", "0.0.0 99.0.0-a", ""),
        ("npm", ">=1.x", "1.0.0 3.0.0", "0.9.9"),
        ("npm", "1.2.3 - 2.3.4", "1.2.3 2.3.4", "1.2.2 2.3.5"),
        ("npm", "1.2 - 2.3", "1.2.0 2.3.9", "2.4.0"),
        ("npm", "<1.0.0 || >=2.0.0 <2.1.4 || 3.0.0", "0.9.9 2.0.0 2.1.3 3.0.0 1.0.0-rc.1", "1.0.0 2.1.4 3.0.1"),
        ("npm", ">=1.2.3<2.0.0", "1.2.3 2.0.0-rc.1", "2.0.0"),
        ("npm", ">= 1.2.3 , < 2.0.0", "1.2.3", "2.0.0"),
        ("npm", ">1.2", "1.3.0", "1.2.9 1.2.0"),
        ("npm", "<=1.2", "1.2.9 0.1.0", "1.3.0"),
        ("npm", "<1.2", "1.1.9", "1.2.0 1.2.0-a"),
        ("npm", "=v1.2.3", "1.2.3", "1.2.4"),
        ("cargo", "1.2.3", "1.2.3 1.9.0", "1.2.2 2.0.0"),
        ("cargo", "0.2", "0.2.0 0.2.9", "0.3.0"),
        ("cargo", "=1.2.3", "1.2.3", "1.2.4"),
        ("cargo", ">=1.2, <1.5", "1.2.0 1.4.9", "1.5.0 1.1.0"),
        ("cargo", "1.*", "1.0.0 1.9.0", "2.0.0"),
        ("cargo", "~1.2.3", "1.2.9", "1.3.0"),
        ("pypi", ">=1.0,<2.0", "1.0 1.5rc1 1.9.post1 2.0rc1 1.0.0", "0.9 2.0 1.0rc1"),
        ("pypi", "<=1.0", "1.0 1.0+local 1.0rc1", "1.0.post1"),
        ("pypi", ">1.0", "1.0.post1 1.1a1", "1.0 1.0+local"),
        ("pypi", "~=1.4.2", "1.4.2 1.4.9", "1.5 1.4.1"),
        ("pypi", "==1.*", "1.0 1.9a1", "2.0"),
        ("pypi", "!=1.5", "1.4 1.6", "1.5 1.5.0"),
        ("pypi", "1.0", "1.0 1.0.0 1.0+local", "1.0.1"),
        ("pypi", "===1.0", "1.0 1.0.0", "1.0.1"),
        ("pypi", "<1.0 || ==2.0", "0.9 2.0", "1.0"),
        ("pypi", "*", "0 1!2", ""),
        ("maven", "[1.0,2.0)", "1.0 1.9.9 1.5-SNAPSHOT 2.0-rc1 1", "0.9 2.0 2.0.0 1.0-alpha"),
        ("maven", "(,1.0]", "0.1 1.0 1.0-alpha", "1.0.1"),
        ("maven", "(,1.0],[1.2,)", "1.0 1.2 9", "1.1"),
        ("maven", "(1.0, 2.0)", "1.5", "1.0 2.0"),
        ("maven", "[1.5]", "1.5 1.5.0", "1.5.1"),
        ("maven", "1.5", "1.5 1.5.0", "1.5.1 1.6"),
        ("maven", ">=1.0 <2.0", "1.0 1.9", "2.0"),
        ("gems", "~> 2.2", "2.2 2.9.9 2.5.0-java", "3.0 3.0.a 2.1"),
        ("gems", "~> 2.2.3", "2.2.3 2.2.9", "2.3 2.3.0.pre 2.2.2"),
        ("gems", "~> 2", "2 2.9", "3"),
        ("gems", ">= 1.0, < 2.0, != 1.5", "1.0 1.9 2.0.pre 1.0-x86_64-linux", "2.0 1.5 1.5.0 2.0-java"),
        ("gems", "1.0", "1.0 1.0.0", "1.0.1"),
        ("nuget", "[1.0,2.0)", "1.0 1.9.9 2.0.0-beta 1.0.0.0", "0.9 2.0 1.0-beta"),
        ("nuget", "(,1.0]", "0.1 1.0", "1.0.0.1"),
        ("nuget", "[1.0]", "1.0 1.0.0", "1.0.1"),
        ("nuget", "1.0", "1.0.0 1.0", "1.0.1 2.0"),
        ("nuget", "1.*", "1.0.0 1.0-a 1.9.9.9", "2.0.0-a"),
        ("nuget", "<1.2.3", "1.2.2", "1.2.3"),
        ("go", ">=v1.2.0, <v1.3.0", "v1.2 v1.2.9", "v1.3.0 v1.1.0"),
        ("go", "<1.3.0", "v1.2.9 v0.0.0-20210101000000-abcdef012345", "v1.3.0 v2.0.0+incompatible"),
        ("go", "<v0.0.0-20210101000000-abcdef012345", "v0.0.0-20200101000000-ffffff012345", "v0.0.0-20220101000000-000000012345 v0.0.1"),
        ("pub", "^0.0.3", "0.0.3 0.0.9", "0.1.0 0.0.2"),
        ("pub", "^1.2.3", "1.2.3 1.2.3+1 1.9.0", "2.0.0-dev 2.0.0"),
        ("pub", "any", "0.0.1", ""),
        ("pub", ">=1.0.0 <2.0.0", "1.0.0", "2.0.0"),
        ("conan", "[>=1.2 <1.3]", "1.2 1.2.11", "1.3 1.1"),
        ("conan", "~1.2", "1.2 1.2.9", "1.3 1.3-pre"),
        ("conan", "^1.2", "1.9", "2.0"),
        ("conan", "<1.1.1w", "1.1.1k 1.1.1", "1.1.1w 3.0"),
        ("conan", "<cci.20210101", "cci.20200101", "cci.20210101"),
        ("terraform", "~> 1.2", "1.2.0 1.9.0", "2.0.0 1.1.0 2.0.0-beta1"),
        ("terraform", "~> 1.2.3", "1.2.3 v1.2.9", "1.3.0"),
        ("terraform", "~> 1", "1.0.0 2.0.0", "0.9.0"),
        ("terraform", ">= 1.0, != 1.2, < 2.0", "1.0.0 1.2.1", "1.2.0 2.0.0"),
        ("ansible", ">=1.0.0,<2.0.0", "1.0.0", "2.0.0"),
        ("ansible", "==1.0.0", "1.0.0", "1.0.1"),
        ("deb", ">= 1.2-1, << 1.2-4", "1.2-1 1.2-3ubuntu1 1.2-4~bpo1", "1.2-4 1.2 1:1.2-2"),
        ("deb", "< 1.0", "1.0~rc1 0.9", "1.0 1.0-1"),
        ("deb", "= 2.0~rc1-1", "2.0~rc1-1", "2.0-1"),
        ("rpm", "<= 1.2", "1.2 1.2-99.el9 1.1-1", "1.2.1-1 1:1.0"),
        ("rpm", "= 1.2", "1.2-1 1.2-2^git", "1.3 1.2.1"),
        ("rpm", "> 1.2", "1.2.1-1", "1.2-99"),
        ("rpm", "< 1.2", "1.1 1.2~rc1-1", "1.2-1"),
        ("rpm", "!= 1.2", "1.3-1", "1.2-1"),
        ("rpm", ">= 1.2-3.el9, < 1.2-5", "1.2-3.el9 1.2-4", "1.2-2 1.2-5"),
        ("cpan", ">= 1.20, < 1.25", "1.20 1.2 1.249", "1.25 1.3"),
        ("cpan", "1.2", "1.20 1.200", "1.21"),
        ("docker", ">=1.25.0 <1.25.4", "1.25 1.25.3-alpine v1.25.1 1.25.0-alpine 1.25.4-rc1", "1.25.4 1.24 1.25.0-rc1"),
        ("docker", "<22.04", "20.04", "22.04 22.04-slim"),
        ("docker", "1.25.*", "1.25.3-slim 1.25", "1.26"),
        ("docker", "1.25", "1.25 1.25.0-alpine", "1.25.1"),
    ],
)
def test_ranges(format, range, inside, outside):
    parsed = ecosystem_of(format).parse_range(range)
    assert str(parsed) == range
    assert not parsed.is_empty
    assert [version for version in inside.split() if parsed.contains(version) is not True] == []
    assert [version for version in outside.split() if parsed.contains(version) is not False] == []
    for version in (inside + " " + outside).split():
        assert parsed.contains(ecosystem_of(format).same_version(version)) == (version in inside.split())


@pytest.mark.parametrize(
    ("format", "range", "version"),
    [
        ("docker", "<2", "latest"),
        ("docker", "<2", "sha256:" + "1" * 64),
        ("docker", "<2", "3f2a"),
        ("npm", "*", "next"),
        ("npm", "*", ""),
        ("pypi", "*", "1.0-foo"),
        ("go", "<v2.0.0", "master"),
        ("deb", "<2", "1" * 257),
        ("pypi", "<2", "\u0661"),
    ],
)
def test_a_version_that_cannot_be_compared_is_neither_in_nor_out(format, range, version):
    assert ecosystem_of(format).parse_range(range).contains(version) is None


@pytest.mark.parametrize(
    ("format", "range", "words"),
    [
        ("raw", "<1", "no ranges"),
        ("hf", "<1", "no ranges"),
        ("unknown", "<1", "no ranges"),
        ("npm", "", "empty"),
        ("npm", "1.0.0 ||", "empty"),
        ("npm", "latest", "latest"),
        ("npm", ">=", "cannot read"),
        ("npm", "1.0.0,", "comma"),
        ("npm", "<<1.0.0", "not one of its operators"),
        ("npm", ">=1.0.0 <2..0", "no version"),
        ("npm", "\u0661.0.0", "ASCII"),
        ("npm", "1.0.0\n", "ASCII"),
        ("npm", "1" * 1025, "1024"),
        ("npm", "^x1", "no version"),
        ("cargo", ">=1.0.0,,<2", "cannot read"),
        ("pypi", "^1.0", "PEP 440"),
        ("pypi", ">=1.0 <2.0 x", "PEP 440"),
        ("pypi", ",", "no specifier"),
        ("maven", "[1.0", "expected"),
        ("maven", "[1.0,2.0) [3.0]", "expected"),
        ("maven", "(1.0)", "square brackets"),
        ("maven", "[1.0,2.0),", "comma"),
        ("maven", "[]", "square brackets"),
        ("maven", "[1,2,3]", "no version"),
        ("nuget", "[1.0,x]", "no version"),
        ("gems", "~> x", "no version"),
        ("gems", "^1.0", "not one of its operators"),
        ("deb", "<< ~1", "not one of|cannot read"),
        ("docker", "<latest", "no version"),
    ],
)
def test_errors_say_what_is_wrong_and_show_how(format, range, words):
    with pytest.raises(ValueError, match=words) as caught:
        ecosystem_of(format).parse_range(range)
    if format in RANGED:
        assert "write for example" in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("format", RANGED)
def test_every_example_is_a_range(format):
    ecosystem_of(format).parse_range(ecosystem_of(format).versions.language.example)


@pytest.mark.parametrize(
    ("format", "range"), [("npm", ">2.0.0 <1.0.0"), ("npm", ">1.0.0 <1.0.0"), ("maven", "[2.0,1.0]"), ("npm", "<* >=1.0.0"), ("npm", ">*")]
)
def test_an_empty_range_knows_it(format, range):
    parsed = ecosystem_of(format).parse_range(range)
    assert parsed.is_empty
    assert not any(parsed.contains(version) for version in ("0.0.0", "1.0.0", "1.5.0", "2.0.0"))


HOSTILE = [
    *(
        "",
        " ",
        "*",
        "v",
        "=",
        ".",
        "-",
        "~",
        "^",
        ":",
        "!",
        "+",
        "x",
        "\x00",
        "\u0661.\u0662.\u0663",
        "\uff11.0.0",
        "1.0.0\n",
        "\u00b2",
        "\u017f",
        "\u212a",
        "\u0130",
    ),
    *("9" * 10_000, "1." * 5_000, "a" * 10_000, "1-" * 5_000, "-" * 10_000, "*" * 10_000, "v" * 10_000, ".**" * 4_000, "||" * 5_000, "[" * 10_000),
    *("9" * 255, "1." * 127 + "1", "1-" * 127 + "1", "-" * 255, "1" + ".0" * 127, "1.0-" + "a1" * 120, "1" + "~" * 250, "1.2.3-" + "-" * 249),
    *(
        "^" + "9" * 1000,
        ">=1 " * 250,
        "!=1.0.0 " * 120,
        "[1,2]," * 160 + "[1]",
        "<1||" * 250 + "<1",
        " " * 1000,
        "1.x" * 300,
        "~>" * 500,
        "!a" * 5_000,
    ),
]


@pytest.mark.parametrize("format", [*ECOSYSTEMS, "*", "nonsense"])
def test_hostile_input_costs_little_and_raises_nothing_else(format):
    began, ecosystem = time.process_time(), ecosystem_of(format)
    for text in HOSTILE:
        find(text)
        assert ecosystem.same_name(ecosystem.same_name(text)) is not None
        ecosystem.same_version(text)
        ecosystem.is_version(text)
        ecosystem.compare(text, "1.0.0")
        for what in ("name", "version"):
            Pattern.parse(in_one_form(format, text, what)).matches(text)
        try:
            parsed = ecosystem.parse_range(text)
        except ValueError:
            continue
        for version in HOSTILE:
            parsed.contains(version)
    assert time.process_time() - began < 2


VERSIONS = st.text("0123456789.-+~^:_abrcvx", max_size=20)


@pytest.mark.parametrize("format", RANGED)
@settings(max_examples=40)
@given(a=VERSIONS, b=VERSIONS, c=VERSIONS)
def test_order_is_an_order(format, a, b, c):
    compare = ecosystem_of(format).compare
    ab, ba, bc, ac = compare(a, b), compare(b, a), compare(b, c), compare(a, c)
    assert ab is None or ab == -ba
    if ab is not None and bc is not None and ab <= 0 and bc <= 0:
        assert ac <= 0
    assert ecosystem_of(format).same_version(ecosystem_of(format).same_version(a)) == ecosystem_of(format).same_version(a)
    if ecosystem_of(format).compare(a, a) is not None:
        assert ecosystem_of(format).compare(ecosystem_of(format).same_version(a), a) == 0


@pytest.mark.parametrize(
    ("format", "text", "parts"),
    [
        ("npm", "left-pad@1.3.0", ("left-pad", "1.3.0")),
        ("npm", "@scope/name", ("@scope/name", None)),
        ("npm", "@scope/name@1", ("@scope/name", "1")),
        ("npm", "x@", ("x", "")),
        ("maven", "org.x:y@1", ("org.x:y", "1")),
        ("docker", "library/nginx:1.25", ("library/nginx", "1.25")),
        ("docker", "nginx:1.25@sha256:aa", ("nginx", "sha256:aa")),
        ("docker", "nginx", ("nginx", None)),
        ("docker", "nginx@", ("nginx", "")),
        ("docker", "host:5000/nginx", ("host:5000/nginx", None)),
    ],
)
def test_what_people_write_has_a_name_and_perhaps_a_version(format, text, parts):
    assert ECOSYSTEMS[format].split_reference(text) == parts


@pytest.mark.parametrize(
    ("format", "low", "high", "high_in", "text"),
    [
        ("npm", "1.2.0", "1.3.0", False, ">=1.2.0 <1.3.0"),
        ("pypi", "1.2", "1.3", True, ">=1.2,<=1.3"),
        ("gems", "1.2", "1.3", False, ">= 1.2, < 1.3"),
        ("cargo", None, "1.3.0", False, "<1.3.0"),
        ("maven", None, "1.3", True, "(,1.3]"),
        ("nuget", "1.0", None, False, "[1.0,)"),
    ],
)
def test_an_interval_is_written_as_its_ecosystem_does_and_can_be_read_again(format, low, high, high_in, text):
    ecosystem = ECOSYSTEMS[format]
    assert ecosystem.render_interval(low, high, high_in) == text
    assert not ecosystem.parse_range(text).is_empty
