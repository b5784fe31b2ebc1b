"""Variables that begin with NORA_ and are no settings of ours: which of them others put there, and which NORA's would not do anything here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from noraflask.config.settings import BY_ENV, VARIABLES_NOT_YET
from noraflask.settings.texts import shown_list

_LINK = re.compile(r"NORA(?:_[A-Z0-9_]+)?_(?:SERVICE_(?:HOST|PORT(?:_.*)?)|PORT_(?:[0-9]+_(?:TCP|UDP|SCTP)(?:_.*)?|START|END)|ENV_.*)\Z", re.DOTALL)
_PORT = re.compile(r"NORA(?:_[A-Z0-9_]+)?_PORT\Z")
_NAME = re.compile(r"NORA(?:_[A-Z0-9_]+)?_NAME\Z")
_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://")
_OTHERS = frozenset(f"NORA_{word}" for word in ("HOME", "NAME", "ENV", "VERSION", "RELEASE", "IMAGE", "TAG", "UID", "GID"))
"""What images, units and compose files call things of their own; no setting here is called so, nor can be meant by it."""
_SWITCHES_ON = ("NORA_TLS_",)
"""Of NORA's variables without a switch: those whose value is the switch."""


def ignored(environ: Mapping[str, str]) -> tuple[set[str], list[str]]:
    """Variables that are left alone, and a warning for each sort of them."""
    mine = sorted(name for name in environ if name.startswith("NORA_"))
    links = [name for name in mine if name not in BY_ENV and _is_link(name, environ[name])]
    links += [name for name in mine if name in BY_ENV and _PORT.match(name) and _ADDRESS.match(environ[name])]
    others = [name for name in mine if name in _OTHERS and name not in links]
    not_yet = [name for name in mine if name not in (*links, *others) and _has_no_effect(name, environ[name])]
    return {*links, *others, *not_yet}, [
        *_warning(
            links,
            "Kubernetes (enableServiceLinks) and container engines set them for a service or link whose name begins with nora",
        ),
        *_warning(others, "there is no such setting"),
        *_warning(not_yet, "of a feature of NORA that this version lacks; the values do not switch it on"),
    ]


def _is_link(name: str, value: str) -> bool:
    """Of a Kubernetes service or of a link between containers, whose name begins with nora."""
    if _LINK.match(name) or (_PORT.match(name) and _ADDRESS.match(value)):
        return True
    return bool(_NAME.match(name) and value.startswith("/"))


def _has_no_effect(name: str, value: str) -> bool:
    """In NORA neither, as long as the feature is off; what switches it on is a setting, and refused as such."""
    return name not in BY_ENV and name.startswith(VARIABLES_NOT_YET) and not (value and name.startswith(_SWITCHES_ON))


def _warning(names: list[str], why: str) -> Iterator[str]:
    if names:
        yield f"ignored {shown_list(names)}: {why}"
