"""How files are pushed and pulled: curl and wget, which are everywhere, and what a browser shows."""

from __future__ import annotations

from collections.abc import Iterable

from noraflask.web.setup_pages import CA_HINT, Page, Place, steps


def address_of(place: Place) -> str:
    """Of the repository; no slash at the end."""
    return f"{place.url}/repository/{place.repository}" if place.repository else f"{place.url}/raw"


def files(place: Place) -> Iterable[str]:
    file = f"{address_of(place)}/tools/app-1.0.tar.gz"
    return steps(
        trust=_trust(place),
        log_in=f"""\
# curl -n and wget take logins from ~/.netrc, which nobody else may read; a token rather than a password (nora token create).
touch ~/.netrc && chmod 600 ~/.netrc
echo 'machine {place.host.partition(":")[0]} login NAME password TOKEN' >> ~/.netrc""",
        push=f"""\
# The registry compares the checksum with the bytes that came, and keeps nothing where they differ.
curl -fn -T app-1.0.tar.gz -H "X-Checksum-Sha256: $(sha256sum app-1.0.tar.gz | cut -d' ' -f1)" {file}""",
        pull=f"""\
# Both go on with what broke off: wget -c by itself, curl with -C -.
curl -fn -O --retry 5 {file}
wget -c {file}""",
        check_what_was_pulled=f"""\
# .sha256, .sha512, .sha1 and .md5 are there for each file.
curl -fn {file}.sha256 | sha256sum -c -""",
        go_on_with_a_push_that_broke_off=f"""\
# HEAD tells how much of it came, the rest is all that is sent.
offset=$(curl -snI {file} | tr -d '\\r' | sed -n 's/^upload-offset: //Ip')
curl -fn -C "${{offset:-0}}" -T app-1.0.tar.gz {file}""",
        overwrite_and_delete=f"""\
# Other bytes under the same name need the ETag of those that are there: nobody's change is lost.
etag=$(curl -sfnI {file} | tr -d '\\r' | sed -n 's/^etag: //Ip')
curl -fn -T app-1.0.tar.gz -H "If-Match: $etag" {file}
curl -fn -X DELETE {file}""",
        look_around=f"""\
# A folder's address ends with a slash; browsers get a page, programs JSON.
curl -fn {address_of(place)}/tools/""",
    )


def _trust(place: Place) -> str:
    if place.is_tls:
        return f"# {CA_HINT} each command takes --cacert ca.crt (curl) or --ca-certificate=ca.crt (wget)."
    if place.is_loopback():
        return "# Nothing to do on this machine."
    return "# This registry is reached without TLS. Passwords and files can be read and changed on the way: put a proxy with TLS in front."


PAGES = (Page("raw", "Files: curl, wget", files),)
